"""One fold: add up the gradients of a block, run the rule, round to the table's dtype.

Memory is read and written once: either a `compiled` loop does all of it element by element (engine "numba"), or everything happens
slice by slice and stays in cache (engine "numpy", two-byte tables, the gradients of many workers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.optim.base import Optimizer
from mpips.optim.compiled import PLAIN, Change, compiled
from mpips.optim.engine import compiled_by
from mpips.optim.gradient import bound, constants, effective, filled
from mpips.optim.program import trace
from mpips.optim.team import SMALLEST, Team
from mpips.table import Dense, Rule

Array = np.ndarray[Any, np.dtype[Any]]

SLICE = 256 << 10  # bytes of one array; measured: half of it is slower by the calls, twice it gains nothing
KEPT = SMALLEST // 2  # elements of the arrays that a fold keeps between calls
BEYOND = 16 << 20  # bytes of the values that are folded alike, from which on the caches do not hold both copies and the gradients
TOGETHER = 4  # gradients that one compiled loop adds up; each number is compiled for itself


class Fold:
    """Folds gradients into the blocks of one table; holds no large arrays between calls.

    Args:
        optimizer: the rule and its hyperparameters.
        table: gives dtype, size and `master`.
        engine: "numpy", "numba", or "auto": numba if it can be imported and there are `LARGE` elements.
        team: threads that fold parts of a block at the same time; None for the caller's alone.
        elements: of all tables that are folded by this; the table's own by default.
        workers: whose gradients will come together, if nobody is missing.

    Raises UsageError for an unknown engine, "numba" where it cannot be imported, or an optimizer of another kind.

    >>> from mpips import optim
    >>> table = Dense("w", shape=(3,), optimizer=optim.SGD(lr=0.5))
    >>> fold, old, new = Fold(table.optimizer, table), np.ones(3, "f4"), np.empty(3, "f4")
    >>> fold(old, new, [], [np.ones(3, "f4"), np.ones(3, "f4")], step=1, clock=0)
    >>> new
    array([0., 0., 0.], dtype=float32)
    """

    names: tuple[str, ...]  # the slots in the order in which they are passed, "master" first if the table keeps one
    engine: str  # what runs the rule: "numpy" or "numba"

    def __init__(self, optimizer: Rule, table: Dense, engine: str = "auto", *, team: Team | None = None,
                 elements: int | None = None, workers: int = 1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(f"table '{table.name}': optimizer {optimizer!r} is not one of mpips.optim")
        self.optimizer = optimizer
        self._team = team or Team(1)
        self.dtype = table.compute_dtype
        self.itemsize = table.np_dtype.itemsize
        self.half = table.half
        self.master = table.half and table.master
        self.names = (("master",) if self.master else ()) + tuple(optimizer.slots)
        slots, scalars = len(optimizer.slots), len(optimizer.scalars(1, optimizer.rate(0)))
        self._program = trace(optimizer.rule, slots, scalars)
        self._clip, self._decay, self._limits = constants(optimizer, self.dtype)
        self._given: tuple[float, ...] | None = None  # the rule's scalars of the last call, and as they are computed with
        self._scalars: list[Any] = []
        self._kept: list[Array] = []
        self._change: Change = PLAIN if self.half else (  # what the loop does besides
            table.combine == "mean", self._clip is not None, self._decay is not None, self._limits is not None)
        counts = {1, workers} if workers <= TOGETHER and table.staleness == 0 and not self.half else {1}
        self._loop = compiled_by(engine, table.size if elements is None else elements, lambda: compiled(
            optimizer.rule, slots, scalars, self.dtype, self._change, sorted(counts),
            large=not self.half and (elements or table.size) * self.itemsize >= BEYOND))
        self.engine = "numpy" if self._loop is None else "numba"

    def new_slots(self, value: Array) -> dict[str, Array]:
        """Return new slots, in the compute dtype, of a block that starts from `value`, (n,), in that or the table's."""
        out = {"master": value.astype(self.dtype)} if self.master else {}
        return out | {s: np.full(value.size, self.optimizer.initial(s), self.dtype) for s in self.optimizer.slots}

    def __call__(self, w_old: Array, w_new: Array, slots: Sequence[Array], grads: Sequence[Array], *, step: int,
                 clock: int, scale: float = 1.0) -> None:
        """Fold `grads` into one block.

        Args:
            w_old: published values, (n,), the table's dtype; not read if there is a master.
            w_new: where the new ones go, likewise; overlaps nothing.
            slots: in the order of `names`, (n,) of the compute dtype; changed in place.
            grads: summed in this order, (n,) of the table's dtype each, not changed; none mean a gradient of zeros.
            step: number of this fold of the block, from 1.
            clock: what a learning-rate schedule sees.
            scale: what the sum is multiplied with.
        """
        rule, kind = self.optimizer, self.dtype.type
        given = rule.scalars(step, rule.rate(clock))
        if given != self._given:  # often the same as before, and a small fold notices the conversion
            self._given, self._scalars = given, [kind(s) for s in given]
        scalars = self._scalars
        change = kind(scale) if scale != 1 else None, self._clip, self._decay
        loop = self._loop
        if loop is not None and not self.half and 1 <= len(grads) <= TOGETHER and (change[0] is None or self._change[0]):
            more = filled(kind, change, self._limits)
            self._team.share(w_old.size, lambda lo, hi: loop(
                w_old[lo:hi], [g[lo:hi] for g in grads], [s[lo:hi] for s in slots], scalars, w_new[lo:hi], more))
        elif w_old.size <= KEPT:  # threads never share so few, and views cost as much as the arithmetic
            self._slice(w_old, w_new, slots, grads, scalars, change, self._registers(w_old.size))
        else:
            self._team.share(w_old.size, lambda lo, hi: self._part(
                w_old[lo:hi], w_new[lo:hi], [s[lo:hi] for s in slots], [g[lo:hi] for g in grads], scalars, change))

    def _registers(self, size: int) -> list[Array]:
        """Return arrays to compute in; small ones are kept, because new ones cost as much as the arithmetic (measured: 7 us)."""
        kept = self._kept
        if size <= KEPT and kept and kept[0].size == size:
            return kept
        made = list(np.empty((4 + self._program.scratch, size), self.dtype))
        if size <= KEPT:
            self._kept = made
        return made

    def _part(self, w_old: Array, w_new: Array, slots: Sequence[Array], grads: Sequence[Array], scalars: Sequence[Any],
              change: tuple[Any, Any, Any]) -> None:
        """Fold slice by slice."""
        stride = SLICE // self.dtype.itemsize
        registers = self._registers(min(stride, w_old.size))
        for lo in range(0, w_old.size, stride):
            at = slice(lo, lo + stride)
            w = w_old[at]
            self._slice(w, w_new[at], [s[at] for s in slots], [g[at] for g in grads], scalars, change,
                        registers if w.size == stride else [r[: w.size] for r in registers])

    def _slice(self, w: Array, out: Array, slots: Sequence[Array], grads: Sequence[Array], scalars: Sequence[Any],
               change: tuple[Any, Any, Any], registers: Sequence[Array]) -> None:
        """Fold arrays of one size, that of the registers."""
        total, spare, old, new, *scratch = registers
        narrow, rounded = w, out
        if self.half:
            w, out = slots[0] if self.master else old, new
            slots = slots[self.master :]
            if not self.master:
                np.copyto(w, narrow)
        with np.errstate(all="ignore"):  # an infinity is the worker's to report, and a compiled loop would not warn
            g = effective(grads, w, *change, total, spare)
            if self._loop is not None and self._change == PLAIN:
                self._loop(w, [g], slots, scalars, out)
            else:
                self._program(w, g, slots, scalars, out, scratch)
            if self._limits is not None:
                bound(out, self._limits)
            if self.half:
                np.copyto(rounded, out, casting="same_kind")  # rounds to nearest, ties to even
        if self.master:
            np.copyto(w, out)
