"""Which ids live in a table whose rows come and go, and where: birth, admission, and what makes room.

A row is born when it is first pushed (until then a pull gives the initial value, which follows from its id). All this happens in
folds, in the order of the protocol, so under staleness 0 it does not depend on who was faster.

| of `mpips.Rows`      | a row ...                                                                                           |
|----------------------|-----------------------------------------------------------------------------------------------------|
| admit=k              | is born in the clock of the k-th push of its id; what was pushed in earlier ones is dropped. Counted |
|                      | by a sketch, so that a few come too early, or after a long time too late. Resumed, as many servers   |
|                      | go on as if nothing had been; of another number each begins with what all of them had counted, and   |
|                      | halves that after its first push if it is too much for one sketch (so an id seen once is new again)  |
| admit=p (a fraction) | is born at any push of its id with this probability                                                 |
| ttl=n                | dies when it has not been pushed for n clocks, or an eighth longer                                    |
| when_full="error"    | for which there is no room ends the job                                                             |
| "oldest"             | makes room by the death of those whose last push is longest ago, a sixteenth of all at a time         |
| "rarest"             | the same, those that were folded least often                                                        |
| "smallest"           | the same, those whose values have the smallest norm                                                 |
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mpips.directory import Directory, mix
from mpips.errors import MpipsError
from mpips.server.saving import RowState
from mpips.sketch import Sketch
from mpips.table import Rows
from mpips.transport.base import Array

NOBODY = np.iinfo(np.int64).min  # owner of a place where no row lives; clients are never told where that id's row lies
SIGHTINGS, SIGHTED = "sightings", "sighted"  # in a checkpoint: the sketch, and how many ids it has counted
SHARE = 16  # of the rows that live, one in so many dies when there is no room


class Population:
    """The rows of one table on one server.

    Attributes:
        owners: (room,) int64, the id of each row that lives, `NOBODY` where one has died.
        lives: (room,) bool.
        seen: (room,) int64, clock of each row's last push.
    """

    def __init__(self, table: Rows, owners: Array, server: int, seed: int) -> None:
        self._table = table
        self._where = f"table '{table.name}': server {server}"
        self._seed = np.int64((seed ^ zlib.crc32(table.name.encode())) & (1 << 63) - 1)
        self.owners = owners
        self.lives = np.zeros(len(owners), bool)
        self.seen = np.zeros(len(owners), np.int64)
        self._directory = Directory(len(owners))  # growing at 8 M rows would hold a push up for a second
        self._used = 0  # rows that have ever lived
        self._free = np.empty(0, np.int64)  # of those, the ones that do not now
        width = 1 << max(10, (4 * len(owners) - 1).bit_length())
        self._sketch = Sketch(width) if isinstance(table.admit, int) and table.admit > 1 else None
        self._swept = 0
        self._now = 0
        self._times: dict[int, tuple[int, int]] = {}  # by worker, its last clock and how many pushes of it came before

    def __len__(self) -> int:
        return len(self._directory)

    def find(self, ids: Array, believed: Array | None = None) -> Array:
        """Return where rows lie, (n,) int64, -1 of those that do not live; looked up unless they lie where they are believed to."""
        if believed is None:
            found: Array = self._directory.lookup(ids)
            return found
        at = np.minimum(believed, len(self.owners) - 1)  # whatever it says
        wrong = np.flatnonzero((np.take(self.owners, at, mode="clip") != ids) | (at < 0))
        if wrong.size:
            at[wrong] = self._directory.lookup(ids[wrong])
        return at

    def begin(self, clock: int, workers: Sequence[int]) -> int:
        """Take note of pushes of these workers; return the furthest clock so far: without staleness 0 they come in any order."""
        for worker in workers:
            last, times = self._times.get(worker, (-1, 0))
            self._times[worker] = clock, times + 1 if last == clock else 0
        self._now = max(self._now, clock)
        return self._now

    def admitted(self, pushes: Sequence[Array], workers: Sequence[int], clock: int) -> Array:
        """Return those that are to be born, ascending, of the ids that these workers have pushed in this clock; none lives, yet.

        Those of each push are all different and ascend.
        """
        table = self._table
        chosen = []
        for ids, worker in zip(pushes, workers, strict=True):
            if self._sketch is not None:
                chosen.append(ids[self._sketch.add(ids) >= table.admit])
            elif isinstance(table.admit, float):
                draw = mix(mix(ids ^ self._seed).view(np.int64) ^ np.int64(clock << 20 | worker))
                if times := self._times[worker][1]:  # another push of this clock
                    draw = mix(draw.view(np.int64) ^ np.int64(times))
                chosen.append(ids[(draw >> np.uint64(11)).astype(np.float64) * 2.0**-53 < table.admit])
            else:
                chosen.append(ids)
        chosen = [ids for ids in chosen if len(ids)]
        if len(chosen) == 1:  # those of one push are all different and ascend
            return chosen[0]
        return np.unique(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)

    def enter(self, ids: Array, clock: int) -> Array:
        """Give rows to new ids, for which there is room; return them."""
        again = min(len(self._free), len(ids))
        kept = len(self._free) - again
        at = np.concatenate([self._free[kept:], np.arange(self._used, self._used + len(ids) - again)])
        self._free = self._free[:kept]
        self._used += len(ids) - again
        self._directory.insert(ids, at)
        self.lives[at] = True
        self.seen[at] = clock
        return at

    def leave(self, at: Array) -> None:
        """Take rows from their ids; the caller makes their owners something else."""
        self._directory.remove(self.owners[at])
        self.lives[at] = False
        self._free = np.concatenate([self._free, at])

    def old(self, clock: int) -> Array:
        """Rows that have outlived their time; looked for every now and then, by the clock alone."""
        ttl = self._table.ttl
        if ttl is None or (edge := clock - clock % max(ttl // 8, 1)) <= self._swept:
            return np.empty(0, np.int64)
        self._swept = edge
        return np.flatnonzero(self.lives & (self.seen < edge - ttl))  # by `edge`: the same in whichever clock this is looked for

    def state(self) -> tuple[dict[str, int], dict[str, Array]]:
        """Counters and arrays that a checkpoint needs beside the rows; `take` takes them in."""
        sketch = self._sketch
        return ({SIGHTED: sketch.added}, {SIGHTINGS: sketch.counts}) if sketch is not None else ({}, {})

    def take(self, state: RowState) -> None:
        """Go on with the sightings of a server; some of these ids may be other servers', which are never asked for here."""
        if self._sketch is not None and SIGHTINGS in state.arrays:
            self._sketch.absorb(state.arrays[SIGHTINGS], state.counters[SIGHTED])

    def resume(self, clock: int) -> None:
        """Go on from a checkpoint of this clock."""
        self._now = max(clock - 1, 0)

    def check(self, new: int) -> None:
        """Raise MpipsError if there is no room for so many more."""
        if len(self) + new > len(self.owners):
            raise MpipsError(f"{self._where} has no room for {len(self) + new} rows, only for {len(self.owners)} (its share of "
                             f"capacity={self._table.capacity}); give it more, or say when_full=")

    def surplus(self, new: int, keep: Array, worth: Callable[[], Array]) -> Array:
        """Return the rows that must die so that `new` others can be born; those in `keep` are needed.

        Args:
            worth: gives a number for each row, (room,): the smallest die. Ties by id, so that it does not depend on where they lie.

        Raises:
            MpipsError: there is no room, and the table says that this is an error, or all rows are needed.
        """
        lack = len(self) + new - len(self.owners)
        if lack <= 0:
            return np.empty(0, np.int64)
        if self._table.when_full == "error":
            self.check(new)
        may = self.lives.copy()
        may[keep] = False
        some = np.flatnonzero(may)
        if len(some) < lack:
            wanted = len(np.unique(keep)) + new
            raise MpipsError(f"{self._where} is to push {wanted} rows at a time and has room for {len(self.owners)}; "
                             f"give it more than capacity={self._table.capacity}")
        return some[least(worth()[some], self.owners[some], max(lack, len(some) // SHARE))]


def least(worth: Array, ids: Array, count: int) -> Array:
    """Return the places of the `count` smallest, at least 1, of equal ones those with the smallest ids; without sorting them all.

    >>> least(np.array([5, 1, 5, 5]), np.array([30, 10, 20, 40]), 2).tolist()
    [1, 2]
    """
    edge = np.partition(worth, count - 1)[count - 1]
    sure, ties = np.flatnonzero(worth < edge), np.flatnonzero(worth == edge)
    left = count - len(sure)
    return np.concatenate([sure, ties[np.argpartition(ids[ties], left - 1)[:left]]])
