"""Waiting for a table when the forward pass takes it, so that the first layers compute while the servers fold those of the last.

The counterpart of `early`; it pays where the servers do not keep up with the backward pass. All is one pull: where they do, it is
read at its begin, as without this. Small tables wait for their neighbours, because each look at the servers costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mpips.arrays import Array
from mpips.table import Dense
from mpips.train.early import LEAST

if TYPE_CHECKING:
    from mpips.worker import Worker
    from mpips.worker.handles import PullHandle


class Late(Mapping[str, Array]):
    """One worker's parameters by name, of the step that `begin` was called for.

    On the host the arrays are the same ones in every step: new ones cost as much in page faults as the values (measured).

    Args:
        tables: all that are pulled, in forward order.
        least: bytes to be waited for at once.
    """

    def __init__(self, ps: Worker, tables: Sequence[Dense], least: int = LEAST) -> None:
        self._ps = ps
        self._kept = {t.name: np.empty(t.shape, t.np_dtype) if ps.xp is np else None for t in tables}
        self._names = list(self._kept)
        self._part = {self._names[i]: some for some in parts(tables, least) for i in some}
        self._handle: PullHandle[list[Any]]
        self._here: dict[str, Array] = {}

    def begin(self) -> Mapping[str, Array]:
        """Pull all; returns with the first tables, which are needed at once, and whatever else the servers have folded."""
        self._here = {}
        self._handle = self._ps.ipull(self._names, list(self._kept.values()))
        for name in self._names[:1]:
            self[name]
        return self

    def __getitem__(self, name: str) -> Array:
        """Return a table's values, once they are there."""
        if name not in self._here:
            some = self._part[name]
            self._here |= zip([self._names[i] for i in some], self._handle.take(some), strict=True)
        return self._here[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is such a table; waits for none."""
        return name in self._kept

    def __iter__(self) -> Iterator[str]:
        """Give the names; waits for no table."""
        return iter(self._kept)

    def __len__(self) -> int:
        """Return the number of tables."""
        return len(self._kept)


def parts(tables: Sequence[Dense], least: int) -> list[range]:
    """Split tables, by position, into neighbours that have at least so many bytes together, the last of them maybe fewer.

    A layer's tables stay together: its forward pass needs all of them.

    >>> from mpips import optim
    >>> parts([Dense(name, (250,), optim.SGD(lr=0.1)) for name in "abcde"], 2000)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    starts, nbytes = [0], 0
    for i, table in enumerate(tables):
        if nbytes >= least and _layer(table) != _layer(tables[i - 1]):
            starts.append(i)
            nbytes = 0
        nbytes += table.nbytes
    return [range(start, stop) for start, stop in pairwise([*starts, len(tables)])]


def _layer(table: Dense) -> str:
    """What it is part of, by its name: "hidden0" of "hidden0.w" and of "hidden0.b"."""
    return table.name.rpartition(".")[0] or table.name
