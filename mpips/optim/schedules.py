"""Learning rates as functions of the clock, with nothing to save: a resumed run goes on where it was.

| name        | rate at clock t; s = min(t / clocks, 1)                            | source                           |
|-------------|--------------------------------------------------------------------|----------------------------------|
| constant    | lr                                                                 |                                  |
| step        | lr gamma^floor(t / every)                                          |                                  |
| exponential | lr gamma^(t / every)                                               |                                  |
| polynomial  | floor + (lr - floor) (1 - s)^power                                 | Liu et al., ICLR 2016 workshop   |
| cosine      | floor + (lr - floor) (1 + cos(pi s)) / 2                           | Loshchilov, Hutter, ICLR 2017    |
| onecycle    | half a cosine from lr / div up to lr, then one down, see there     | Smith and Topin 2017             |
| inversesqrt | lr min((t + 1) / clocks, sqrt(clocks / (t + 1)))                   | Vaswani et al., NIPS 2017, eq. 3 |
| warmup      | then(0) (t + 1) / (clocks + 1) for t < clocks, then(t - clocks)    | Goyal et al. 2017                |

In a configuration file a schedule is a section, and a warmup goes before any of them:

    [optimizer]
    name = "adam"
    lr = { name = "warmup", clocks = 100, then = { name = "polynomial", lr = 0.01, clocks = 5000 } }

>>> [Warmup(Step(0.1, every=2, gamma=0.5), clocks=1).at(t) for t in range(5)]
[0.05, 0.1, 0.1, 0.05, 0.05]

One of your own is a dataclass of numbers, so that all ranks and the checkpoints can compare it:

>>> from mpips.optim import SGD, Schedule
>>> @dataclass(frozen=True)
... class Harmonic(Schedule):
...     lr: float
...     def at(self, clock: int) -> float:
...         return self.lr / (1 + clock)
>>> SGD(Harmonic(0.1)).rate(1)
0.05
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import cos, pi, sqrt
from typing import Any, ClassVar

from mpips.errors import UsageError
from mpips.given import number, whole
from mpips.optim.base import Schedule


@dataclass(frozen=True)
class _Checked(Schedule):
    """A schedule whose numbers are checked when it is made: clocks from 1, everything else from 0 or `least`."""

    least: ClassVar[dict[str, float]] = {}

    def __post_init__(self) -> None:
        for f in fields(self):
            value: Any = getattr(self, f.name)
            where = f"schedule {self.name}: {f.name}"
            if f.name in ("every", "clocks"):
                if (clocks := whole(value, 1)) is None:
                    raise UsageError(f"{where} {value!r} is not a number of clocks from 1")
                object.__setattr__(self, f.name, clocks)
            elif not isinstance(value, Schedule):
                value = number(value, where)
                least = self.least.get(f.name, 0)
                if value < least:
                    raise UsageError(f"{where} {value!r} is not a number from {least:g}")
                object.__setattr__(self, f.name, value)


@dataclass(frozen=True)
class Constant(_Checked):
    """The same rate always; what a plain number as `lr` means too."""

    lr: float

    def at(self, clock: int) -> float:
        """Return lr."""
        return self.lr


@dataclass(frozen=True)
class Step(_Checked):
    """A rate that falls by the factor `gamma` after each `every` clocks (PyTorch: StepLR)."""

    lr: float
    every: int
    gamma: float = 0.1

    def at(self, clock: int) -> float:
        """Return lr gamma^floor(clock / every)."""
        return float(self.lr * self.gamma ** (clock // self.every))


@dataclass(frozen=True)
class Exponential(_Checked):
    """A rate that falls all the time, by the factor `gamma` in `every` clocks (PyTorch: ExponentialLR, where every is 1).

    >>> [Exponential(0.8, gamma=0.25, every=2).at(t) for t in range(4)]
    [0.8, 0.4, 0.2, 0.1]
    """

    lr: float
    gamma: float
    every: int = 1

    def at(self, clock: int) -> float:
        """Return lr gamma^(clock / every)."""
        return float(self.lr * self.gamma ** (clock / self.every))


@dataclass(frozen=True)
class Polynomial(_Checked):
    """From `lr` to `floor` in `clocks` clocks, then `floor`: a straight line, or a power of one.

    "Poly" of ParseNet (Liu et al., ICLR 2016 workshop) and DeepLab (Chen et al., TPAMI 2018), both with power 0.9.

    >>> [Polynomial(0.8, clocks=4).at(t) for t in range(6)]
    [0.8, 0.6000000000000001, 0.4, 0.2, 0.0, 0.0]
    """

    lr: float
    clocks: int
    power: float = 1.0
    floor: float = 0.0

    def at(self, clock: int) -> float:
        """Return the rate at this clock."""
        if clock >= self.clocks:
            return self.floor
        return float(self.floor + (self.lr - self.floor) * (1 - clock / self.clocks) ** self.power)


@dataclass(frozen=True)
class Cosine(_Checked):
    """Half a cosine from `lr` to `floor` in `clocks` clocks, then `floor` (Loshchilov and Hutter, ICLR 2017, eq. 5)."""

    lr: float
    clocks: int
    floor: float = 0.0

    def at(self, clock: int) -> float:
        """Return the rate at this clock."""
        if clock >= self.clocks:
            return self.floor
        return self.floor + (self.lr - self.floor) * (1 + cos(pi * clock / self.clocks)) / 2


@dataclass(frozen=True)
class OneCycle(_Checked):
    """Up and down once (Smith and Topin, "Super-Convergence", arXiv:1708.07120), by half cosines as in PyTorch's OneCycleLR.

        lr / div  -- rise * clocks -->  lr  -- (1 - rise) * clocks -->  lr / div / final_div, and so for ever

    Args:
        lr: the highest rate.
        clocks: length of the cycle.
        rise: the share of it in which the rate rises, in [0, 1).
        div, final_div: how far below the highest rate it begins, and how far below that it ends; from 1.

    >>> [round(OneCycle(1.0, clocks=10, div=10).at(t), 3) for t in (0, 1, 2, 3, 6, 10)]
    [0.1, 0.325, 0.775, 1.0, 0.611, 0.0]
    """

    lr: float
    clocks: int
    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4

    least: ClassVar[dict[str, float]] = {"div": 1, "final_div": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rise >= 1:
            raise UsageError(f"schedule onecycle: rise {self.rise!r} is not below 1")

    def at(self, clock: int) -> float:
        """Return the rate at this clock."""
        top, low = self.rise * self.clocks, self.lr / self.div
        if clock < top:
            return low + (self.lr - low) * (1 - cos(pi * clock / top)) / 2
        end = low / self.final_div
        if clock >= self.clocks:
            return end
        return end + (self.lr - end) * (1 + cos(pi * (clock - top) / (self.clocks - top))) / 2


@dataclass(frozen=True)
class InverseSqrt(_Checked):
    """A straight rise to `lr` in `clocks` clocks, then as 1 over the square root (Transformer; Vaswani et al., NIPS 2017, eq. 3).

    With lr = (d clocks)^-0.5 it is the paper's for models of width d.

    >>> [InverseSqrt(0.8, clocks=4).at(t) for t in (0, 1, 3, 15)]
    [0.2, 0.4, 0.8, 0.4]
    """

    lr: float
    clocks: int

    def at(self, clock: int) -> float:
        """Return the rate at this clock."""
        return self.lr * min((clock + 1) / self.clocks, sqrt(self.clocks / (clock + 1)))


@dataclass(frozen=True)
class Warmup(_Checked):
    """A straight rise to the first rate of another schedule, which then runs from its own clock 0 (Goyal et al. 2017).

    Args:
        then: a schedule, or a number that stays.
        clocks: length of the rise; the first clock has the rate then(0) / (clocks + 1), so none is spent on rate 0.
    """

    then: float | Schedule
    clocks: int

    def at(self, clock: int) -> float:
        """Return the rate at this clock."""
        if clock < self.clocks:
            return self._then(0) * (clock + 1) / (self.clocks + 1)
        return self._then(clock - self.clocks)

    def _then(self, clock: int) -> float:
        return self.then.at(clock) if isinstance(self.then, Schedule) else self.then
