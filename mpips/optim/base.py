"""What an optimizer is: named slots, a few scalars for each step, and one element-wise rule.

A rule is written once, as arithmetic on elements. NumPy runs it on slices that stay in cache (`program`), numba
compiles the same source into one loop (`compiled`); both give the same bits, because neither contracts nor reorders
floating-point operations. So a rule may use `+ - * /`, a minus sign and the `np` functions of `program.FUNCTIONS`, and
nothing else: no literals (numba would compute `0.5 * x` in float64), no branches, no `np.where`. A constant is one of
its scalars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar

from mpips.errors import UsageError
from mpips.given import number


@dataclass(frozen=True)
class Schedule:
    """A learning rate as a function of the clock; see `mpips.optim.schedules`."""

    def at(self, clock: int) -> float:
        """Return the rate for the fold of this clock (0 is the first)."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name by which configuration files and checkpoints know the schedule."""
        return type(self).__name__.lower()

    def describe(self) -> dict[str, Any]:
        """Name and parameters as JSON values; `make_schedule(**s.describe()) == s`."""
        return {"name": self.name, **_values(self)}


@dataclass(frozen=True)
class Optimizer:
    """Base of all rules.

    Args:
        lr: learning rate, a number from 0 or a `Schedule`.
        weight_decay: added to the gradient as `weight_decay * w` (L2), unless the rule is `decoupled`.
        clip: the combined gradient is cut to [-clip, clip] element by element, before weight decay; None cuts nothing.
        bounds: (low, high) that the new weights are cut to after the rule, rounded to the table's dtype; None cuts nothing.

    Raises UsageError when made with a value that is not a number or lies outside its range.
    """

    lr: float | Schedule
    weight_decay: float = field(default=0.0, kw_only=True)
    clip: float | None = field(default=None, kw_only=True)
    bounds: tuple[float, float] | None = field(default=None, kw_only=True)

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the state arrays, in the order in which `rule` takes and returns them; one number per element, but for:"""
    row_slots: ClassVar[tuple[str, ...]] = ()
    """Those with one number for each row of a table of rows; `per_row` changes them and `rule` does not see them."""
    decoupled: ClassVar[bool] = False
    """Whether the rule itself decays the weights, so that nothing is added to the gradient."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})
    """Half-open ranges of hyperparameters; [0, inf) where nothing is said."""

    def __post_init__(self) -> None:
        self.check()

    @property
    def name(self) -> str:
        """Name by which configuration files and checkpoints know the rule."""
        return type(self).__name__.lower()

    def initial(self, slot: str) -> float:
        """Value every element of a slot starts from."""
        return 0.0

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return the rule's scalars for fold number `step` (from 1) of a block at learning rate `lr`."""
        raise NotImplementedError

    @staticmethod
    def rule(w: Any, g: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return (new w, new slots...) from w, g, the slots in order and the scalars in order; element-wise, pure."""
        raise NotImplementedError

    def per_row(self, g: Any, slots: Sequence[Any], scalars: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return (new row slots, scalars for `rule`), only called where there are `row_slots`.

        NumPy runs this for both engines; what it gives for a row must not depend on the rows beside it.

        Args:
            g: combined gradients, (n, dim), not changed.
            slots: the row slots in order, (n,) each, not changed.
            scalars: those of `scalars`, each a number or (n,); returned are as many, likewise.
        """
        raise NotImplementedError

    def rate(self, clock: int) -> float:
        """Learning rate at this clock."""
        return self.lr.at(clock) if isinstance(self.lr, Schedule) else self.lr

    def describe(self) -> dict[str, Any]:
        """Name and hyperparameters as JSON values; `make(**o.describe()) == o`."""
        return {"name": self.name, **_values(self)}

    def check(self) -> None:
        """Turn every hyperparameter into a float; raise UsageError on one outside its range."""
        for key, value in _values(self, deep=False).items():
            if isinstance(value, Schedule) if key == "lr" else key in ("clip", "bounds") and value is None:
                continue
            where = f"optimizer {self.name}: {key}"
            if key == "bounds":
                object.__setattr__(self, key, _interval(value, where))
                continue
            if key == "lr" and callable(value):
                raise UsageError(f"{where} {value!r:.40} is not one of mpips.optim.schedules, nor a number")
            value = number(value, where)
            low, high = self.limits.get(key, (0.0, math.inf))
            if not low <= value < high:
                raise UsageError(f"{where} {value!r} is not in [{low:g}, {high:g})")
            if key == "clip" and not value:
                raise UsageError(f"{where} 0.0 would cut every gradient to nothing; leave it out to cut none")
            object.__setattr__(self, key, value)


def _interval(value: Any, what: str) -> tuple[float, float]:
    """Return `value` as (low, high), or raise UsageError that starts with `what`."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise UsageError(f"{what} {value!r} is not a pair (low, high)")
    low, high = (number(v, f"{what}:") for v in value)
    if not low < high:
        raise UsageError(f"{what}: low {low!r} is not below high {high!r}")
    return low, high


def _values(thing: Any, deep: bool = True) -> dict[str, Any]:
    """Fields of a dataclass by name; with `deep`, schedules among them described and tuples made lists."""
    out = {f.name: getattr(thing, f.name) for f in fields(thing)}
    if not deep:
        return out
    out = {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}
    return {k: v.describe() if isinstance(v, Schedule) else v for k, v in out.items()}
