"""Learning rates as functions of the clock.

| name     | rate at clock t                                                    |
|----------|--------------------------------------------------------------------|
| constant | lr                                                                 |
| step     | lr gamma^floor(t / every)                                          |
| cosine   | floor + (lr - floor) (1 + cos(pi min(t, clocks) / clocks)) / 2     |
| warmup   | then(0) (t + 1) / (clocks + 1) for t < clocks, then(t - clocks)    |

>>> [Warmup(Step(0.1, every=2, gamma=0.5), clocks=1).at(t) for t in range(5)]
[0.05, 0.1, 0.1, 0.05, 0.05]
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import cos, pi
from typing import Any

from mpips.errors import UsageError
from mpips.given import number, whole
from mpips.optim.base import Schedule


@dataclass(frozen=True)
class _Checked(Schedule):
    """A schedule whose numbers are checked when it is made: clocks from 1, everything else from 0."""

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
                if value < 0:
                    raise UsageError(f"{where} {value!r} is not a number from 0")
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
