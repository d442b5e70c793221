"""Bags of rows: the sum or the mean of the rows of each sample, where samples have different numbers of them.

Bag i is `ids[offsets[i] : offsets[i + 1]]`, the last one goes to the end (as in PyTorch's EmbeddingBag). An empty bag is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mpips.arrays import to_host
from mpips.errors import UsageError
from mpips.table import Rows
from mpips.transport.base import Array
from mpips.worker.device import Device

POOLS = ("sum", "mean")


class Bags:
    """The bags of one pull or push.

    >>> bags = Bags("table 't'", 4, [0, 1, 1], "mean")
    >>> bags.pool(np.array([[1.0], [2.0], [4.0], [6.0]])).tolist()
    [[1.0], [0.0], [4.0]]
    >>> bags.spread(np.array([[1.0], [9.0], [6.0]])).tolist()
    [[1.0], [2.0], [2.0], [2.0]]
    """

    def __init__(self, where: str, count: int, offsets: Any, pool: str) -> None:
        """Check the offsets of bags of `count` ids; raise UsageError that begins with `where`."""
        if not isinstance(pool, str) or pool not in POOLS:
            raise UsageError(f"{where}: pool {pool!r:.40} is not one of {POOLS}")
        try:
            starts = to_host(offsets)
        except ValueError:  # ragged
            raise UsageError(f"{where}: offsets are one row of whole numbers, not {offsets!r:.40}") from None
        if starts.ndim != 1 or (starts.size and starts.dtype.kind not in "iu"):
            raise UsageError(f"{where}: offsets are one row of whole numbers, not {starts.shape} of {starts.dtype}")
        starts = starts.astype(np.int64)
        ends = np.append(starts[1:], count)
        if (count and not starts.size) or (starts.size and (starts[0] != 0 or bool((starts > ends).any()))):
            raise UsageError(f"{where}: offsets begin with 0 and ascend to at most {count}, the number of ids")
        self._starts, self._sizes = starts, ends - starts
        self._mean = pool == "mean"

    @property
    def count(self) -> int:
        """Number of bags."""
        return len(self._starts)

    def pool(self, values: Array) -> Array:
        """Return the sum or mean of each bag, (bags, dim), of its rows' values, (ids, dim)."""
        out = np.zeros((self.count, values.shape[1]), values.dtype)
        full = np.flatnonzero(self._sizes)
        if full.size:
            out[full] = np.add.reduceat(values, self._starts[full], axis=0)
        if self._mean:
            out /= np.maximum(self._sizes, 1)[:, None].astype(values.dtype)
        return out

    def spread(self, gradient: Array) -> Array:
        """Return the gradient of each row, (ids, dim), given that of the bags, (bags, dim)."""
        if self._mean:
            gradient = gradient / np.maximum(self._sizes, 1)[:, None].astype(gradient.dtype)
        return np.repeat(gradient, self._sizes, axis=0)


def bags_of(table: Rows, ids: Array, offsets: Any, pool: str | None) -> Bags | None:
    """Return the bags of a verb, None if it has none; UsageError if what is given does not fit."""
    if pool is None and offsets is None:
        return None
    if pool is None or offsets is None or ids.ndim != 1:
        raise UsageError(f"table '{table.name}': pool= and offsets= go together, with one row of ids")
    return Bags(f"table '{table.name}'", ids.size, offsets, pool)


def pooled(device: Device | None, bags: Bags, values: Array) -> Callable[[], Any]:
    """Return what gives the result of a pull with bags, whose rows are read into `values`, (ids, dim)."""
    return lambda: bags.pool(values) if device is None else device.deliver(bags.pool(values))
