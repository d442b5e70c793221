"""One fold of a table of rows: only the rows that were touched change, in place.

Rows lie far apart, so memory is what a fold waits for: a `compiled` loop asks for rows ahead and reads and writes each once
(engine "numba"), or slices of rows are gathered, computed in cache and scattered (engine "numpy"). The arithmetic is that of
`Fold`, bit by bit, as if every row were a block of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.optim.base import Optimizer
from mpips.optim.compiled import Change, Loop, compiled_counts, compiled_rows
from mpips.optim.engine import compiled_by
from mpips.optim.fold import SLICE
from mpips.optim.gradient import bound, constants, effective, filled
from mpips.optim.program import trace
from mpips.optim.rowscalars import RowScalars
from mpips.optim.team import Team

Array = np.ndarray[Any, np.dtype[Any]]


class RowFold:
    """Folds gradients into rows of one table; holds no large arrays between calls.

    Args:
        optimizer: the rule and its hyperparameters.
        dtype: float32 or float64, of values, slots and gradients.
        dim: elements of a row.
        engine: "numpy", "numba", or "auto": numba if it can be imported and the rows have `LARGE` elements.
        rows: that the table has room for.
        team: threads that fold parts of the rows at the same time; None for the caller's alone.
        mean: whether `scale` will be used.

    Raises UsageError for an unknown engine, "numba" where it cannot be imported, or an optimizer of another kind,
    another dtype, or a `dim` below 1.

    >>> from mpips import optim
    >>> fold, w = RowFold(optim.SGD(lr=0.5), "f4", 2, rows=3), np.ones((3, 2), "f4")
    >>> fold(w, fold.new_slots(3), np.array([2]), np.array([1]), np.ones((1, 2), "f4"), clock=0)
    >>> w
    array([[1. , 1. ],
           [1. , 1. ],
           [0.5, 0.5]], dtype=float32)
    """

    names: tuple[str, ...]  # the slots in the order in which they are passed
    stepwise: bool  # whether the rule looks at how often a row has been folded
    engine: str  # what runs the rule: "numpy" or "numba"

    def __init__(self, optimizer: Any, dtype: Any, dim: int, engine: str = "auto", *, rows: int, team: Team | None = None,
                 mean: bool = False) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(f"row fold: optimizer {optimizer!r} is not one of mpips.optim")
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise UsageError(f"row fold: dtype {self.dtype.name!r} is neither float32 nor float64")
        if dim < 1:
            raise UsageError(f"row fold: {dim} elements in a row are not at least 1")
        self.optimizer = optimizer
        self.dim = dim
        self.names = tuple(optimizer.slots)
        self._team = team or Team(1)
        self._scalars = RowScalars(optimizer, self.dtype)
        self.stepwise = self._scalars.stepwise
        slots, scalars = len(self.names) - len(optimizer.row_slots), self._scalars.count
        self._program = trace(optimizer.rule, slots, scalars)
        self._clip, self._decay, self._limits = constants(optimizer, self.dtype)
        self._more = filled(self.dtype.type, (None, self._clip, self._decay), self._limits)
        bounded = self._limits is not None
        if optimizer.row_slots:  # the effective gradient is made before the loop, for `per_row`
            self._change: Change = (False, False, False, bounded)
            variants = [True]
        else:
            self._change = mean, self._clip is not None, self._decay is not None, bounded
            variants = [False, True] if self.stepwise else [False]
        made = compiled_by(engine, rows * dim, lambda: (
            {each: compiled_rows(optimizer.rule, slots, scalars, self.dtype, self._change, each) for each in variants},
            compiled_counts()))
        self._loops: dict[bool, Loop] = made[0] if made else {}  # by whether every row has scalars of its own
        self._counts = made[1] if made else None
        self.engine = "numba" if made else "numpy"

    def initial(self, slot: str) -> float:
        """Value that a slot of a new row starts from."""
        return float(self.optimizer.initial(slot))

    def new_slots(self, rows: int) -> list[Array]:
        """Return new slots of that many rows in the order of `names`: (rows, dim), or (rows,) if the rule keeps one per row."""
        return [np.full(rows if s in self.optimizer.row_slots else (rows, self.dim), self.optimizer.initial(s), self.dtype)
                for s in self.names]

    def count(self, counts: Array, index: Array, by: int) -> Array:
        """Add `by` to the counts, (capacity,) int64, of some rows, all different; return what they were, (n,)."""
        if self._counts is None:
            before = np.take(counts, index, mode="clip")
            counts[index] = before + by
        else:
            before = np.empty(len(index), np.int64)
            self._counts(counts, np.ascontiguousarray(index, np.int64), by, before)
        return before

    def __call__(self, w: Array, slots: Sequence[Array], index: Array, steps: Array, grads: Array, *, clock: int,
                 scale: float = 1.0) -> None:
        """Fold one combined gradient into each of some rows.

        Args:
            w: values, (capacity, dim), contiguous; changed in place.
            slots: in the order of `names`, like those of `new_slots(capacity)`; changed in place.
            index: numbers of the rows, (n,), int32 or int64, each once, in any order; not checked. Ascending is fastest.
            steps: number of this fold of each row, from 1, (n,) int64; not looked at unless the rule is `stepwise`.
            grads: (n, dim), contiguous, not changed.
            clock: what a learning-rate schedule sees.
            scale: what the gradients are multiplied with.
        """
        if not index.size:
            return
        index, steps = np.ascontiguousarray(index, np.int64), np.ascontiguousarray(steps, np.int64)  # one compiled loop
        table, which = self._scalars(steps, clock)
        kind = self.dtype.type
        factor = kind(scale) if scale != 1 else None
        narrow = [s for s, name in zip(slots, self.names, strict=True) if name in self.optimizer.row_slots]
        wide = [s for s, name in zip(slots, self.names, strict=True) if name not in self.optimizer.row_slots]
        dim = self.dim

        if self._loops and not narrow and (factor is None or self._change[0]):
            loop, scalars, one = self._loops[which is not None], table if which is not None else table[0], index[:0]
            more = [kind(scale), *self._more[1:]]
            self._team.share(grads.size, lambda lo, hi: loop(
                w, index[lo // dim:hi // dim], grads[lo // dim:hi // dim], wide, scalars,
                one if which is None else which[lo // dim:hi // dim], more))
        else:
            change = factor, self._clip, self._decay
            self._team.share(grads.size, lambda lo, hi: self._part(
                w, wide, narrow, index, table, which, grads, change, lo // dim, hi // dim))

    def _part(self, w: Array, wide: Sequence[Array], narrow: Sequence[Array], index: Array, table: Array,
              which: Array | None, grads: Array, change: tuple[Any, Any, Any], start: int, stop: int) -> None:
        """Fold rows `index[start:stop]` slice by slice."""
        stride = min(stop - start, max(1, SLICE // (self.dtype.itemsize * self.dim)))
        looped = bool(narrow and self._loops)
        made = list(np.empty((3 if looped else 4 + len(wide) + self._program.scratch, stride, self.dim), self.dtype))
        with np.errstate(all="ignore"):  # an infinity is the worker's to report, and a compiled loop would not warn
            for lo in range(start, stop, stride or 1):
                hi = min(lo + stride, stop)
                at = index[lo:hi]
                total, spare, old, *more = made if hi - lo == stride else [m[:hi - lo] for m in made]
                if change[2] is not None or not looped:
                    np.take(w, at, axis=0, out=old, mode="clip")
                g = effective([grads[lo:hi]], old, *change, total, spare)
                scalars: Sequence[Any] = table[0] if which is None else self._own(table, which[lo:hi])
                if narrow:
                    kept, scalars = self.optimizer.per_row(g, [s[at] for s in narrow], scalars)
                    for s, new in zip(narrow, kept, strict=True):
                        s[at] = new
                if looped:
                    own = np.empty((hi - lo, len(scalars)), self.dtype)
                    for k, s in enumerate(scalars):
                        own[:, k] = s
                    self._loops[True](w, at, g, wide, own, np.arange(hi - lo), self._more)
                    continue
                out, *scratch = more
                mine = [np.take(s, at, axis=0, out=scratch.pop(), mode="clip") for s in wide]
                columns = [s[:, None] if np.ndim(s) else s for s in scalars]
                self._program(old, g, mine, columns, out, scratch)
                if self._limits is not None:
                    bound(out, self._limits)
                w[at] = out
                for s, new in zip(wide, mine, strict=True):
                    s[at] = new

    @staticmethod
    def _own(table: Array, which: Array) -> list[Any]:
        """Return the scalars of some rows, (n,) each, or one number where they are all alike: NumPy is faster with that."""
        columns = np.take(table.T, which, axis=1)
        return [c if a else c[0] for c, a in zip(columns, (columns != columns[:, :1]).any(axis=1), strict=True)]
