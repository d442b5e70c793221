"""A count-min sketch: how often ids have been seen lately, in little memory.

Cormode and Muthukrishnan, J. Algorithms 2005, with the conservative update of Estan and Varghese (SIGCOMM 2002): only those
counters grow that say the least. Once half as many ids have been counted as a row has counters, all counts are halved, as in
TinyLFU (Einziger et al., ACM ToS 2017): else in a long stream every counter is high in the end. Until then no count is too low.

>>> import numpy as np
>>> sketch = Sketch(64)
>>> sketch.add(np.array([7, 9])).tolist(), sketch.add(np.array([7])).tolist()
([1, 1], [2])
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.directory import mix

Array = np.ndarray[Any, np.dtype[Any]]

DEPTH = 4
MOST = np.iinfo(np.uint16).max


class Sketch:
    """Counts up to 65535 of int64 ids; about `2 / width` of all that is counted is added to a count by chance, rarely more.

    Args:
        width: counters in each of the four rows, a power of two.
    """

    def __init__(self, width: int) -> None:
        assert width > 0
        assert not width & (width - 1), "a power of two"
        self.counts = np.zeros((DEPTH, width), np.uint16)
        self.added = 0  # ids counted since they were halved

    def add(self, ids: Array) -> Array:
        """Count each of `ids`, (n,) int64 and all different, once more; return how often each has been seen, (n,) int64."""
        cells = self._cells(ids)
        seen = self._least(cells) + 1
        for row, at in zip(self.counts, cells, strict=True):
            np.maximum.at(row, at, np.minimum(seen, MOST).astype(np.uint16))
        self.added += len(ids)
        if 2 * self.added >= self.counts.shape[1]:
            self.counts >>= 1
            self.added = 0
        return seen

    def absorb(self, counts: Array, added: int) -> None:
        """Take in the counts of another sketch, of any width: then no count is lower than it was in either.

        Modulo the lesser width an id has the same place in both: counters of the wider one fall together, those of the narrower one
        are repeated. The higher of two is enough, because one of them has counted all there was of an id: that of its server.
        """
        assert len(counts) == DEPTH
        width, theirs = self.counts.shape[1], counts.shape[1]
        if theirs > width:
            counts = counts.reshape(DEPTH, -1, width).max(axis=1)
        elif theirs < width:
            counts, added = np.tile(counts, width // theirs), added * (width // theirs)  # as full as before
        np.maximum(self.counts, counts, out=self.counts)
        self.added += added

    def count(self, ids: Array) -> Array:
        """Return how often each of `ids` has been seen, (n,) int64."""
        return self._least(self._cells(ids))

    def _least(self, cells: list[Array]) -> Array:
        least: Array = np.min([row[at] for row, at in zip(self.counts, cells, strict=True)], axis=0).astype(np.int64)
        return least

    def _cells(self, ids: Array) -> list[Array]:
        """By row, the counters of each id."""
        mask = self.counts.shape[1] - 1
        salts = [np.int64(k * 0x2545F4914F6CDD1D & (1 << 63) - 1) for k in range(1, DEPTH + 1)]
        return [(mix(ids ^ salt) & np.uint64(mask)).astype(np.int64) for salt in salts]
