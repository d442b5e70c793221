"""The rows of one table on one server: their memory, and how a batch of gradients changes them.

Rows change in place. Around each batch the marks of its rows are made odd, then even again with one fold more:

    marks + 1, sync, values, sync, marks + 1

Who reads a row between two equal, even marks has read it whole. Under staleness 0 the words of the table's block say whether a fold
is under way (`rows`), and the marks only count.

Where ids come and go `population` knows which live, and where; a row that is born or dies goes through odd marks, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mpips import init_rows
from mpips.directory import owners
from mpips.optim import drawing
from mpips.optim.rows import RowFold
from mpips.server.logs import Piece
from mpips.server.population import NOBODY, Population, least
from mpips.server.saving import Restored, RowPiece, RowShard, RowState
from mpips.table import Rows
from mpips.transport.base import Array, Transport
from mpips.transport.words import MARK, WORD, RowPlace

SLICE = 1 << 20  # bytes of values that change between two looks at the mailboxes
CHUNK = 4 << 20  # bytes of values that are made, or given to a checkpoint, at a time
AHEAD = 32 << 20  # bytes of values, beyond those of rows that are born, for which there is memory then

# What has happened to a table on a server: rows that came in pushes, those that a fold changed, and where they come and go how many
# were born, died of age, died to make room, or were pushed and not admitted
COUNTERS = ("pushed", "folded", "born", "expired", "evicted", "refused")
SEEN, FOLDED = "seen", "folded"  # beside the slots in a checkpoint: clocks of each row's last push, and fold


@dataclass(frozen=True)
class Batch:
    """Rows, all different, and their gradients: `lo:hi` of a piece.

    Attributes:
        piece: it may be put aside meanwhile, so what it holds is looked at only when its turn comes.
        rows: where its ids lie, (n,) int64; None if they say that themselves.
    """

    piece: Piece
    lo: int
    hi: int
    rows: Array | None = None

    def read(self) -> tuple[Array, Array]:
        """Return rows and gradients."""
        rows = self.piece.ids if self.rows is None else self.rows
        return rows[self.lo : self.hi], self.piece.values[self.lo : self.hi]


class RowTable:
    """The rows of one table on one server.

    Attributes:
        marks: (rows,) int64; `values` (rows, dim), both in the window.
        slots: of the optimizer, in the order of `fold.names`.
        population: which ids live where, if they come and go.
        counters: of `COUNTERS`, since the table was first made.
    """

    def __init__(self, table: Rows, place: RowPlace, memory: Array, fold: RowFold, server: int, servers: int, seed: int) -> None:
        self.table = table
        self.fold = fold
        self.marks = memory[place.marks : place.marks + MARK * place.rows].view(np.int64)
        self.values = memory[place.values : place.values + place.width * place.rows].view(table.np_dtype).reshape(-1, table.dim)
        self.slots = fold.new_slots(place.rows)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._server, self._servers, self._seed = server, servers, seed
        self._place, self._ready = place, 0  # rows that there is memory for, where they come and go
        self._where: Array | None = None  # by row, its position among those that several pushes change together
        self._draw = init_rows.fill
        self.population: Population | None = None
        if table.rows is None:
            owners = memory[place.owners : place.owners + WORD * place.rows].view(np.int64)
            self.population = Population(table, owners, server, seed)
            self._born = np.zeros(place.rows, np.int64)  # mark of each row when it was born
            if fold.engine == "numba":
                self._draw = drawing.fill
                self._initial(np.empty(0, np.int64))  # it is compiled now, not in the first push
        self._folded = np.full(place.rows, -1, np.int64) if table.decay else None  # clock of each row's last fold, or of its birth

    def fill(self, transport: Transport, restored: Restored | None) -> None:
        """Give the rows their first values, or those of a checkpoint."""
        self.marks[:] = 0
        if restored is not None:
            clock = max(restored.clocks, default=0)
            for piece in restored.rows(self.table, self._server, self._servers):
                self._restore(transport, piece, clock)
            for state in restored.states(self.table, self._server, self._servers):
                if state.server % self._servers == self._server:  # so that none is counted twice
                    for name in COUNTERS:
                        self.counters[name] += state.counters.get(name, 0)
                if self.population is not None:
                    self.population.take(state)
            if self.population is not None:
                self.population.resume(clock)
        elif self.population is None:
            for lo, hi in _chunks(len(self.marks), self.table):
                self.values[lo:hi] = self._initial(self._ids(lo, hi))

    def _ids(self, lo: int, hi: int) -> Array:
        ids: Array = np.arange(lo, hi, dtype=np.int64) * self._servers + self._server
        return ids

    def _initial(self, ids: Array) -> Array:
        """Initial values of rows, (n, dim)."""
        table = self.table
        return table.init.rows(table.name, table.dim, table.np_dtype, seed=self._seed, ids=ids, fill=self._draw)

    def _restore(self, transport: Transport, piece: RowPiece, clock: int) -> None:
        """Take from a piece of a checkpoint of this clock what belongs here."""
        if self.population is None:
            mine = np.flatnonzero(piece.ids % self._servers == self._server)
            at = piece.ids[mine] // self._servers
        else:
            mine = np.flatnonzero(owners(piece.ids, self._servers) == self._server)
            if self.table.when_full == "error":
                self.population.check(len(mine))
            else:
                mine = self._fitting(self.population, piece, mine, clock)
            at = self.population.enter(piece.ids[mine], 0)
            self._grow(transport, at)
            self.population.owners[at] = piece.ids[mine]
            self.population.seen[at] = piece.slots[SEEN][mine]
        self.marks[at] = piece.folds[mine].astype(np.int64) * 2
        self.values[at] = piece.value[mine]
        for name, slot in zip(self.fold.names, self.slots, strict=True):
            slot[at] = piece.slots[name][mine]
        if self._folded is not None:
            self._folded[at] = piece.slots[FOLDED][mine] if FOLDED in piece.slots else clock - 1

    def _fitting(self, people: Population, piece: RowPiece, mine: Array, clock: int) -> Array:
        """Return those of `mine` for which there is room; saved by more servers, which had a little more of it, some must die.

        Those that came before may be worth less than these, or more.
        """
        lack = len(people) + len(mine) - len(people.owners)
        if lack <= 0:
            return mine
        here = np.flatnonzero(people.lives)
        folded = piece.slots[FOLDED][mine] if FOLDED in piece.slots else None
        theirs = self._worth_of(piece.slots[SEEN][mine], piece.folds[mine].astype(np.int64) * 2, piece.value[mine], folded, clock)
        worth = np.concatenate([self._worth(clock)[here], theirs])
        gone = least(worth, np.concatenate([people.owners[here], piece.ids[mine]]), lack)
        self.counters["evicted"] += len(gone)
        at = here[gone[gone < len(here)]]
        people.leave(at)
        people.owners[at] = NOBODY
        return np.delete(mine, gone[gone >= len(here)] - len(here))

    def find(self, ids: Array) -> Array:
        """Return where rows lie, as clients name them (ids may repeat), -1 of those that do not live."""
        return ids if self.population is None else self.population.find(ids)

    def read(self, ids: Array, out: Array) -> None:
        """Write the values of rows, as clients name them, into `out`, (n, dim)."""
        at = self.find(ids)
        np.take(self.values, at, axis=0, out=out, mode="clip")
        unborn = np.flatnonzero(at < 0)
        if unborn.size:
            out[unborn] = self._initial(ids[unborn])

    def shard(self) -> RowShard:
        """Everything that a checkpoint needs: nothing may be folded while it is read."""
        more, arrays = self.population.state() if self.population is not None else ({}, {})
        state = RowState(self._server, {**self.counters, **more}, arrays)
        return RowShard(self.table, self.counts()["rows"], state, self._pieces)

    def _pieces(self) -> Iterator[RowPiece]:
        """All rows; the first piece is empty, it says what arrays there are."""
        live, count = None, self.counts()["rows"]
        if self.population is not None and not self.population.lives[:count].all():  # else what is given are views
            live = np.flatnonzero(self.population.lives)
        for lo, hi in chain([(0, 0)], _chunks(count, self.table)):
            at = slice(lo, hi) if live is None else live[lo:hi]
            slots = {name: slot[at] for name, slot in zip(self.fold.names, self.slots, strict=True)}
            if self._folded is not None:
                slots[FOLDED] = self._folded[at]
            if self.population is None:
                yield RowPiece(self.table, self._ids(lo, hi), _folds(self.marks[at]), self.values[at], slots)
            else:
                slots[SEEN] = self.population.seen[at]
                folds = _folds(self.marks[at] - self._born[at])
                yield RowPiece(self.table, self.population.owners[at], folds, self.values[at], slots)

    def counts(self) -> dict[str, int]:
        """How many rows there are, and `counters`."""
        return {"rows": len(self.marks if self.population is None else self.population), **self.counters}

    def batches(self, transport: Transport, pushes: Sequence[Sequence[Piece]], workers: Sequence[int], clock: int) -> deque[Batch]:
        """What these pushes of a clock, in worker order, change: rows of one push are all different, those of several are added up.

        Rows are born and die here.
        """
        self.counters["pushed"] += sum(len(p.ids) for pieces in pushes for p in pieces)
        if self.population is None:
            found = [[Batch(p, 0, len(p.ids)) for p in pieces] for pieces in pushes if pieces]
        else:
            found = self._settled(transport, self.population, pushes, workers, clock)
        whole = found[0] if len(found) == 1 else self._added_up(transport, found) if found else []
        step = max(SLICE // self.table.row_bytes, 1)
        return deque(Batch(b.piece, at, min(at + step, b.hi), b.rows) for b in whole for at in range(0, b.hi, step))

    def _settled(self, transport: Transport, people: Population, pushes: Sequence[Sequence[Piece]], workers: Sequence[int],
                 clock: int) -> list[list[Batch]]:
        """Let rows die and be born; return what each push changes."""
        now = people.begin(clock, workers)
        self.counters["expired"] += self._end(transport, people, people.old(now))
        found = [[(people.find(p.ids, p.slots), p) for p in pieces] for pieces in pushes]
        new = [np.concatenate([p.ids[at < 0] for at, p in pieces] or [np.empty(0, np.int64)]) for pieces in found]
        if any(map(len, new)):
            born = people.admitted(new, workers, clock)
            keep = np.concatenate([at[at >= 0] for pieces in found for at, _ in pieces])
            where = self._bear(transport, people, born, now, keep)
            for at, p in (pair for pieces in found for pair in pieces):
                _fill(at, p.ids, born, where)
        out: list[list[Batch]] = []
        for pieces in found:
            out.append([])
            for at, p in pieces:
                left = np.flatnonzero(at >= 0)
                if len(left) < len(at):  # some were not admitted
                    self.counters["refused"] += len(at) - len(left)
                    at, p = at[left], Piece(p.number, at[left], at[left], p.values[left], 0)
                out[-1].append(Batch(p, 0, len(at), at))
                people.seen[at] = now
        return [batches for batches in out if batches]

    def _bear(self, transport: Transport, people: Population, ids: Array, clock: int, keep: Array) -> Array:
        """Let rows be born and return where they lie; if there is no room for them let others die, but none in `keep`."""
        gone = people.surplus(len(ids), keep, lambda: self._worth(clock))
        self.counters["evicted"] += self._end(transport, people, gone)
        self.counters["born"] += len(ids)
        at = people.enter(ids, clock)
        self._grow(transport, at)
        self.marks[at] += 1
        transport.sync()
        people.owners[at] = ids
        self.values[at] = self._initial(ids)
        for name, slot in zip(self.fold.names, self.slots, strict=True):
            slot[at] = self.fold.initial(name)
        transport.sync()
        self.marks[at] += 1
        self._born[at] = self.marks[at]
        if self._folded is not None:
            self._folded[at] = clock
        return at

    def _grow(self, transport: Transport, at: Array) -> None:
        """Get memory for rows where none has lived before."""
        if at.size and (last := int(at.max())) >= self._ready:
            before, self._ready = self._ready, min(last + 1 + AHEAD // self.table.row_bytes, len(self.marks))
            for first, width in ((self._place.owners, WORD), (self._place.values, self._place.width)):
                transport.populate(first + before * width, first + self._ready * width)

    def _end(self, transport: Transport, people: Population, at: Array) -> int:
        """Let rows die: who knows where one lay finds another owner there. Return how many."""
        if at.size:
            people.leave(at)
            self.marks[at] += 1
            transport.sync()
            people.owners[at] = NOBODY
            transport.sync()
            self.marks[at] += 1
        return len(at)

    def _worth(self, clock: int) -> Array:
        """By row, what speaks for keeping it in this clock."""
        assert self.population is not None
        return self._worth_of(self.population.seen, self.marks - self._born, self.values, self._folded, clock)

    def _worth_of(self, seen: Array, marks: Array, values: Array, folded: Array | None, clock: int) -> Array:
        """The same of rows with these properties."""
        if self.table.when_full == "oldest":
            return seen
        if self.table.when_full == "rarest":
            return marks
        norms: Array = np.einsum("ij,ij->i", values, values)
        if folded is not None:
            norms *= (1 - self.table.decay) ** (2.0 * np.maximum(clock - folded - 1, 0))
        norms[~np.isfinite(norms)] = -1  # nobody will miss these
        return norms

    def _added_up(self, transport: Transport, pushes: Sequence[Sequence[Batch]]) -> list[Batch]:
        """Sum the gradients of each row in the order of the pushes; rows stand in the order in which they first come."""
        if self._where is None:
            self._where = np.full(len(self.marks), -1, np.int64)
        most = sum(batch.hi for batches in pushes for batch in batches)
        rows, total = np.empty(most, np.int64), np.empty((most, self.table.dim), self.table.np_dtype)
        used = 0
        with np.errstate(all="ignore"):  # sums may overflow, as in a fold
            for mine, values in (batch.read() for batches in pushes for batch in batches):
                transport.poll()  # this may take long, and who is elsewhere needs MPI to go on
                at = self._where[mine]
                new, again = np.flatnonzero(at < 0), np.flatnonzero(at >= 0)
                end = used + len(new)
                rows[used:end] = mine[new]
                np.take(values, new, axis=0, out=total[used:end], mode="clip")
                self._where[rows[used:end]] = np.arange(used, end)
                used = end
                total[at[again]] += values[again]
        self._where[rows[:used]] = -1
        return [Batch(Piece(0, rows[:used], rows[:used], total[:used], 0), 0, used)]

    def change(self, transport: Transport, batch: Batch, clock: int, schedule: int, scale: float) -> int:
        """Fold one batch of a clock and return its bytes; `schedule` is the clock that a learning-rate schedule sees."""
        rows, gradients = batch.read()
        odd = 1 if self.table.staleness != 0 else 0
        steps = rows  # which nobody looks at
        if odd or self.fold.stepwise:
            marks = self.fold.count(self.marks, rows, odd)
            if self.fold.stepwise:
                steps = ((marks if self.population is None else marks - self._born[rows]) >> 1) + 1
            transport.sync()
        if self._folded is not None:
            self._make_up(rows, self._folded, clock)
        self.fold(self.values, self.slots, rows, steps, gradients, clock=schedule, scale=scale)
        transport.sync()
        self.fold.count(self.marks, rows, 2 - odd)
        self.counters["folded"] += len(rows)
        return gradients.nbytes

    def _make_up(self, rows: Array, folded: Array, clock: int) -> None:
        """Let rows lose what they have not lost while they were not pushed."""
        last, kind = folded[rows], self.values.dtype.type
        gaps, which = np.unique(np.maximum(clock - last - 1, 0), return_inverse=True)
        factors = np.array([kind((1 - self.table.decay) ** gap) for gap in gaps.tolist()], kind)
        self.values[rows] *= factors[which][:, None]
        folded[rows] = np.maximum(last, clock)


def _fill(at: Array, ids: Array, born: Array, where: Array) -> None:
    """Set those of `at` that are -1 to where their ids, which are among `born` (ascending) or do not live, lie."""
    new = np.flatnonzero(at < 0)
    if new.size and born.size:
        place = np.minimum(np.searchsorted(born, ids[new]), len(born) - 1)
        at[new] = np.where(born[place] == ids[new], where[place], -1)


def _folds(marks: Array) -> Array:
    """Folds of rows as a checkpoint keeps them, (n,) int32."""
    folds: Array = np.minimum(marks >> 1, np.iinfo(np.int32).max).astype(np.int32)
    return folds


def _chunks(rows: int, table: Rows) -> Iterator[tuple[int, int]]:
    step = max(CHUNK // table.row_bytes, 1)
    return ((lo, min(lo + step, rows)) for lo in range(0, rows, step))
