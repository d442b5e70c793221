"""Bags of rows: samples with any number of features each, whose embeddings are added up or averaged.

All bags' ids stand one after the other; the rows that are pulled are the different ones among them:

    bags = Bags(ids, lengths)
    rows = ps.pull("word", rows=bags.ids)                      # each once, however often it occurs
    x = bags.mean(rows)                                        # (bags, dim)
    ps.push("word", bags.mean_back(dx), rows=bags.ids)         # dx is the gradient by x
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]


class Bags:
    """Which of the different ids each bag holds, an id as often as it was given; NumPy only.

    Attributes:
        ids: the different ids, ascending int64: what to pull and to push.
        lengths: (bags,), how many ids each bag has; 0 is one of no features, whose sum and mean are 0.

    >>> bags = Bags(np.array([7, 3, 7]), np.array([2, 0, 1]))
    >>> bags.ids, bags.mean(np.array([[3.0], [7.0]])).ravel()
    (array([3, 7]), array([5., 0., 7.]))
    """

    def __init__(self, ids: Array, lengths: Array) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if self.lengths.ndim != 1 or (self.lengths < 0).any() or ids.shape != (int(self.lengths.sum()),):
            raise UsageError(f"bags: {ids.shape} ids for lengths {self.lengths.shape} that sum to {int(self.lengths.sum())}")
        self.ids, inverse = np.unique(ids.astype(np.int64, copy=False), return_inverse=True)
        self._bag = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self._row = inverse.reshape(-1)
        self._by_row = np.argsort(self._row, kind="stable")

    def sum(self, rows: Array) -> Array:
        """Return the sum of each bag's rows, (bags, dim); `rows` are those of `ids`, (len(ids), dim)."""
        self._check(rows, len(self.ids), "rows")
        return _sums(rows[self._row], self.lengths)

    def sum_back(self, d: Array) -> Array:
        """Return the gradient by the rows, for the gradient `d` of a scalar by `sum`."""
        self._check(d, len(self.lengths), "gradient")
        return _sums(d[self._bag[self._by_row]], np.bincount(self._row, minlength=len(self.ids)))

    def mean(self, rows: Array) -> Array:
        """Return the mean of each bag's rows, (bags, dim)."""
        return self.sum(rows) * self._weights(rows.dtype)

    def mean_back(self, d: Array) -> Array:
        """Return the gradient by the rows, for the gradient `d` of a scalar by `mean`."""
        return self.sum_back(d * self._weights(d.dtype))

    def _weights(self, dtype: np.dtype[Any]) -> Array:
        return (1.0 / np.maximum(self.lengths, 1)).astype(dtype)[:, None]

    @staticmethod
    def _check(values: Array, n: int, what: str) -> None:
        if values.ndim != 2 or len(values) != n:
            raise UsageError(f"bags: {what} of shape {values.shape}, expected ({n}, dim)")


def _sums(values: Array, lengths: Array) -> Array:
    """Return the sums of groups of `lengths` that stand one after the other, (len(lengths), dim)."""
    out = np.zeros((len(lengths), values.shape[1]), values.dtype)
    some = lengths > 0  # reduceat gives an empty group the next one's first value
    if len(values):
        out[some] = np.add.reduceat(values, (np.cumsum(lengths) - lengths)[some], axis=0)
    return out
