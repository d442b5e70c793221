"""Rows that a worker keeps: what it has pulled lately need not be fetched again while it is new enough.

Each row is kept with the clock for which it is good:

| staleness | a row that was read ...                                                          | may be used in clock c |
|-----------|----------------------------------------------------------------------------------|------------------------|
| n         | when its server had folded all clocks before f is good for f                      | if f >= c - n          |
| 0         | the same, and f is the clock it was read in: within it nothing changes            | if f = c               |
| None      | in clock f is good for f; the user says how many clocks it may be used (`clocks`) | if f >= c - clocks     |

So staleness is what it would be without a cache. A row that this worker pushes is dropped, because a pull sees the worker's own
pushes; with `own=False` it is kept as long as any other. What makes room is what was used longest ago ("lru") or least often
("lfu"; all counts are halved now and then, so that what was used much long ago goes, too).
"""

from __future__ import annotations

from collections import deque

import numpy as np

from mpips.directory import Directory
from mpips.errors import UsageError
from mpips.given import whole
from mpips.table import Rows
from mpips.transport.base import Array
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.row_ask import Asked
from mpips.worker.row_pull import RowPull

KEEP = ("lru", "lfu")
SHARE = 16  # of the rows, one in so many goes when there is no room
AGE = 8  # "lfu": counts are halved after so many uses for each row there is room for
KEPT = 16  # clocks for which it is known what was pushed: what a longer pull brings is not kept
MANY = 8  # pushes of one clock that are remembered one by one


class RowCache:
    """The rows of one table that one worker keeps.

    Args:
        rows: how many, from 1.
        clocks: how old a row may be that is used, see above.
    """

    def __init__(self, table: Rows, rows: int, keep: str, clocks: int, *, own: bool) -> None:
        self.table, self.clocks, self.own, self._often = table, clocks, own, keep == "lfu"
        self._directory = Directory(rows)
        self._values = np.empty((rows, table.dim), table.np_dtype)
        self._ids, self._good = np.empty(rows, np.int64), np.empty(rows, np.int64)
        self._lives = np.zeros(rows, bool)
        self._free = np.arange(rows)  # the first of these, as many as there are: where no row lives
        self._worth = np.zeros(rows, np.int64)  # when it was used last, or how often
        self._uses = 0
        self._pushed: deque[tuple[int, Array]] = deque()  # clocks and ids of this worker's pushes
        self._known = 0  # of clocks from this on, all pushes are in there

    def __len__(self) -> int:
        return len(self._directory)

    def find(self, ids: Array, now: int) -> Array:
        """Return where rows lie that may be used in clock `now`, (n,) int64, -1 of all others; ids may repeat."""
        at: Array = self._directory.lookup(ids)
        at[(at >= 0) & (self._good[at] < now - self.clocks)] = -1
        self._use(at[at >= 0])
        return at

    def take(self, at: Array, out: Array) -> None:
        """Write the values of rows that were found into `out`, (n, dim); anything for a place of -1."""
        np.take(self._values, at, axis=0, out=out, mode="clip")

    def keep(self, ids: Array, values: Array, good: int, since: int) -> None:
        """Keep rows, all different, that are good for a clock; of too many, some.

        Those that are new take no more than what is free, or half: one large pull does not drive out all that was used before.

        Args:
            since: what this worker has pushed in clocks from this one on may be missing in them.
        """
        if self.own:
            if since < self._known:
                return
            pushed = [some for clock, some in self._pushed if clock >= since]
            if pushed:
                mine = ~np.isin(ids, np.concatenate(pushed))
                ids, values = ids[mine], values[mine]
        at = self._directory.lookup(ids)
        old = np.flatnonzero((at >= 0) & (self._good[at] <= good))
        self._values[at[old]], self._good[at[old]] = values[old], good
        self._use(at[old])
        new, capacity = np.flatnonzero(at < 0), len(self._lives)
        most = max(capacity - len(self._directory), (capacity + 1) // 2)
        if len(new) > most:
            new = new[np.arange(most) * len(new) // most]  # from all over: ids ascend, and those at the end are as good
        self._make_room(len(new))
        free = len(self._lives) - len(self._directory)
        at = self._free[free - len(new) : free]
        self._directory.insert(ids[new], at)
        self._ids[at], self._values[at], self._good[at], self._lives[at], self._worth[at] = ids[new], values[new], good, True, 0
        self._use(at)

    def pushed(self, ids: Array, now: int) -> None:
        """Drop rows that this worker pushes in clock `now`."""
        if not self.own:
            return
        self._forget(self._directory.remove(ids))
        same = [some for clock, some in self._pushed if clock == now]
        if len(same) == MANY:
            for _ in same:
                self._pushed.pop()
            ids = np.unique(np.concatenate([*same, ids]))
        self._pushed.append((now, ids))
        while self._pushed[0][0] <= now - KEPT:
            self._known = self._pushed.popleft()[0] + 1

    def _make_room(self, new: int) -> None:
        lack = len(self._directory) + new - len(self._lives)
        if lack > 0:
            live = np.flatnonzero(self._lives)
            most = max(lack, len(live) // SHARE)
            gone = live[np.argpartition(self._worth[live], most - 1)[:most]]
            self._directory.remove(self._ids[gone])
            self._forget(gone)

    def _forget(self, at: Array) -> None:
        """Free the places of rows that the directory has just forgotten, all different; -1 are none."""
        at, free = at[at >= 0], len(self._lives) - len(self._directory)
        self._free[free - len(at) : free] = at
        self._lives[at] = False

    def _use(self, at: Array) -> None:
        if not self._often:
            self._uses += 1
            self._worth[at] = self._uses
            return
        np.add.at(self._worth, at, 1)
        self._uses += len(at)
        if self._uses > AGE * len(self._lives):
            self._worth >>= 1
            self._uses >>= 1


def new_cache(table: Rows, rows: int, keep: str, clocks: int | None, *, own: bool) -> RowCache:
    """Return an empty cache; UsageError if that is not what `Worker.cache` says."""
    where = f"table '{table.name}': cache()"
    if (limit := whole(rows, 1)) is None:
        raise UsageError(f"{where}: rows {rows!r} is not a number from 1")
    if clocks is not None and whole(clocks) is None:
        raise UsageError(f"{where}: clocks {clocks!r} is not a number from 0")
    if keep not in KEEP:
        raise UsageError(f"{where}: keep {keep!r} is not one of {KEEP}")
    if (table.staleness is None) == (clocks is None):
        raise UsageError(f"{where}: " + ("say with clocks= how old a row may be, staleness None sets no limit" if clocks is None
                                         else f"clocks={clocks} is for staleness None, here staleness {table.staleness} says it"))
    age = whole(clocks) or table.staleness or 0
    try:
        return RowCache(table, limit if table.rows is None else max(min(limit, table.rows), 1), keep, age, own=own)
    except (MemoryError, ValueError):
        raise UsageError(f"{where}: there is no memory for {rows} rows of {table.row_bytes} bytes") from None


class CachedPull(RowPull):
    """A pull of rows `ids`, (n,) int64, into `out`, (n, dim), that fetches only what is not kept, and keeps that.

    Args:
        at: the clock that it is for; the worker may come to it later.

    Attributes:
        hits: how many of the ids were kept.
    """

    def __init__(self, link: Link, group: Group, ids: Array, out: Array, cache: RowCache, *, at: int | None = None) -> None:
        self._cache, self._all = cache, out
        at = link.now if at is None else at
        found = cache.find(ids, at)
        cache.take(found, out)
        self._lacks = lacks = np.flatnonzero(found < 0)
        self.hits = len(ids) - len(lacks)
        self._wanted, self._which = np.unique(ids[lacks], return_inverse=True)
        super().__init__(link, group, self._wanted, np.empty((len(self._wanted), out.shape[1]), out.dtype))
        self._floors = [-1 if self._state.table.staleness is None else at - self._state.table.staleness]
        # Of a clock under staleness 0 a row holds all that was pushed before it.
        self._since = at if self._state.table.staleness == 0 else self.now
        self._good = self.now
        self._ready = not self._wanted.size

    def _ask(self) -> Asked:
        if self._wanted.size and self._state.table.staleness:
            self._good = min(self._clocks())
            self._link.transport.sync()  # before any row is read
        return super()._ask()

    def _read(self) -> bool:
        super()._read()
        if self._wanted.size:
            self._all[self._lacks] = self._out[self._which]
            self._cache.keep(self._wanted, self._out, self._good, self._since)
        return True
