"""The scalars of a rule where every row counts its own folds."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.optim.base import Optimizer

Array = np.ndarray[Any, np.dtype[Any]]
KNOWN = 1 << 16  # folds of a row whose scalars are kept, at most 4 MB


class _Unknown:
    """A step that nobody may look at."""

    def _refuse(self, *args: Any) -> Any:
        raise TypeError("the step was looked at")

    __eq__ = __ne__ = __bool__ = __hash__ = __len__ = _refuse  # arithmetic and order raise TypeError anyway


def stepwise(optimizer: Optimizer) -> bool:
    """Whether the scalars of this rule depend on the step.

    >>> from mpips import optim
    >>> stepwise(optim.Adam(0.1)), stepwise(optim.SGD(0.1))
    (True, False)
    """
    step: Any = _Unknown()
    try:
        return any(s is step for s in optimizer.scalars(step, optimizer.rate(0)))
    except TypeError:
        return True


class RowScalars:
    """Computes them once for each step that occurs, and keeps them for as long as the learning rate stays."""

    def __init__(self, optimizer: Optimizer, dtype: np.dtype[Any]) -> None:
        self.optimizer = optimizer
        self.dtype = dtype
        self.stepwise = stepwise(optimizer)
        self.count = len(optimizer.scalars(1, optimizer.rate(0)))
        self._rate: float | None = None
        self._known = np.empty((0, self.count), dtype)  # by step
        self._has = np.empty(0, np.bool_)

    def __call__(self, steps: Array, clock: int) -> tuple[Array, Array | None]:
        """Return (table, which), (k, count) and (n,): row i has the scalars `table[which[i]]`, or all rows `table[0]` for None."""
        rate = self.optimizer.rate(clock)
        if not self.stepwise:
            return self._rows([1], rate), None
        low = int(steps[0])
        if bool((steps == low).all()):
            return self._rows([low], rate), None
        if rate != self._rate:
            self._rate = rate
            self._has.fill(False)
        top = int(steps.max())
        if top >= KNOWN:
            distinct, which = np.unique(steps, return_inverse=True)
            return self._rows(distinct.tolist(), rate), which.astype(np.int64, copy=False)
        if top >= self._has.size:
            size = min(max(2 * self._has.size, top + 1), KNOWN)
            known, has = np.zeros((size, self.count), self.dtype), np.zeros(size, np.bool_)
            known[:self._has.size], has[:self._has.size] = self._known, self._has
            self._known, self._has = known, has
        seen = np.zeros(self._has.size, np.bool_)
        seen[steps] = True
        new = np.flatnonzero(seen & ~self._has)
        if new.size:
            self._known[new] = self._rows(new.tolist(), rate)
            self._has[new] = True
        return self._known, steps

    def _rows(self, steps: list[int], rate: float) -> Array:
        """Return the scalars of these steps, (k, count)."""
        given = [self.optimizer.scalars(step, rate) for step in steps]
        return np.array(given, np.float64).reshape(len(steps), self.count).astype(self.dtype)
