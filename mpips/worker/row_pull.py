"""A pull of rows: wait until the table is new enough, then gather the rows from where they lie.

Rows change in place (`mpips.server.row_table`). Marks, sync, values, sync, marks: a row is whole if its mark was even and stayed
the same. Where the server's memory is not mapped here the server is asked instead (`row_ask`), and answers between two folds. A
worker of a table with staleness 0 need not look, because nothing is folded before it ends its clock. A reader of such a table takes
all rows of one clock: no server may have folded more than another, and none may begin while it reads. Who fails too often holds the
table (HOLD), as a pull of blocks does.

Where ids come and go this client remembers where each id lies (`row_slots`), and looks whether it still does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from mpips.errors import WaitTimeout
from mpips.table import Rows
from mpips.transport.base import Array, nap
from mpips.transport.words import BEGIN, BLOCK_WORDS, TICK0, VERSION
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.pull import RETRIES, Pull
from mpips.worker.row_ask import Asked, ask
from mpips.worker.row_slots import Slots, slots_of
from mpips.worker.rows import Part, parts_of

MARKS, OWNERS = "marks", "owners"


class RowPull(Pull):
    """One pull of rows `ids`, (n,) int64, into `out`, (n, dim); `advance` until it returns True."""

    def __init__(self, link: Link, group: Group, ids: Array, out: Array) -> None:
        super().__init__(link, group, [])
        self._state = state = group.states[0]
        assert isinstance(state.table, Rows)
        self._out = out
        self._parts = parts_of(state.table, ids, link.plan.servers)
        self._ids = ids
        self._slots = slots_of(link, state) if state.table.rows is None else None
        self._lay = np.full(len(ids) if self._slots else 0, -1)  # where they lay when they were read; -1 if they did not live
        self._known: dict[Part, Array] = {}  # by part, where they are believed to lie
        self._asked: Asked | None = None
        self._one_clock = link.reader and state.table.staleness == 0
        self.nbytes = out.nbytes

    def _arrived(self) -> bool:
        """Whether all is new enough, and what must be asked for has come; until then ids are looked up."""
        if not super()._arrived():
            if self._slots is not None and not self._known:
                self._known = {part: self._slots.known(part) for part in self._near()}
            return False
        if self._asked is None:
            self._asked = self._ask()
        return self._asked.advance()

    def _blame(self) -> str:
        return self._asked.blame() if self._asked is not None else super()._blame()

    def _read(self) -> bool:
        begin = time.perf_counter()
        if self._one_clock:
            self._read_one_clock()
        else:
            self._read_whole(marked=self._state.table.staleness != 0)
        if self._slots is not None:
            self._slots.recall(self._ids, self._lay)
        self._moved += 1
        self._link.stats["pull_seconds"] += time.perf_counter() - begin
        if self._link.trace is not None:
            self._link.trace.add("pull", begin, clock=self.now, what=self._state.table.name)
        return True

    def _read_whole(self, *, marked: bool) -> None:
        """Read all rows, each whole; where they are not `marked` nothing changes meanwhile."""
        left, tries, held, deadline = self._near(), 0, list[int](), time.monotonic() + self._link.limit
        try:
            while left:
                left, tries = self._once(left, marked=marked), tries + 1
                if left:
                    self._retried(tries, deadline)
                    if tries % (RETRIES + 1) == 0 and not held:
                        held = self._hold(self._state)
        finally:
            self._release(held)

    def _ask(self) -> Asked:
        """Ask for the rows that must be asked for; one who wants them of one clock does that at the moment that is right."""
        near = self._near()
        far = [part for part in self._parts if part not in near] if not self._one_clock else []
        return Asked(self._link, self._state, far, self._out)

    def _near(self) -> list[Part]:
        """Rows that are gathered."""
        link = self._link
        return [part for part in self._parts if not link.plan.far or link.transport.mapped(part.server) is not None]

    def _once(self, parts: Sequence[Part], *, marked: bool) -> list[Part]:
        """Gather rows once; return those that were not whole, or lay elsewhere than this client believed."""
        slots = self._slots
        if slots is not None:
            parts, there = self._found(slots, parts)
        else:
            there = list(parts)
        before = self._look(there, MARKS) if marked else []
        self._take(there)
        self._link.transport.sync()
        bad = [np.zeros(len(part.index), bool) for part in parts]
        owned = self._look(there, OWNERS) if slots is not None else []  # between the marks, like the values
        if marked:
            for wrong, old, new in zip(bad, before, self._look(there, MARKS), strict=True):
                wrong |= (old != new) | (old & 1 == 1)
        if slots is not None:
            for part, wrong, owner in zip(parts, bad, owned, strict=True):
                gone = owner != part.index
                slots.forget(part.server, part.index[gone])
                wrong |= gone
        return [part.of(np.flatnonzero(wrong)) for part, wrong in zip(parts, bad, strict=True) if wrong.any()]

    def _found(self, slots: Slots, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
        """Ask for the values of rows that do not live; return the others, and where they lie."""
        named, there, unborn = list[Part](), list[Part](), list[Part]()
        for part in parts:
            at = slots.find(part, self._known.pop(part) if part in self._known else slots.known(part))
            self._lay[slice(None) if part.places is None else part.places] = at
            if (at < 0).any():
                unborn.append(part.of(np.flatnonzero(at < 0)))
                part, at = part.of(np.flatnonzero(at >= 0)), at[at >= 0]
            if at.size:
                named.append(part)
                there.append(Part(part.server, at, part.places))
        if unborn:
            ask(self._link, self._state, unborn, self._out)
        return named, there

    def _take(self, parts: Sequence[Part]) -> None:
        """Gather the values of rows into their places."""
        t, number = self._link.transport, self._state.number
        rooms = []
        for part in parts:
            room = self._out if part.places is None else np.empty((len(part.index), self._out.shape[1]), self._out.dtype)
            t.gather(part.server, self._link.plan.maps[part.server].rows[number].values, part.index, room)
            rooms.append(room)
        for part in parts:
            t.flush(part.server)
        for part, room in zip(parts, rooms, strict=True):
            if part.places is not None:
                self._out[part.places] = room

    def _look(self, parts: Sequence[Part], section: str) -> list[Array]:
        """Gather marks or owners of rows, (n,) of each part."""
        t, number = self._link.transport, self._state.number
        found = []
        for part in parts:
            found.append(np.empty((len(part.index), 1), np.int64))
            t.gather(part.server, getattr(self._link.plan.maps[part.server].rows[number], section), part.index, found[-1])
        for part in parts:
            t.flush(part.server)
        t.sync()
        return [values[:, 0] for values in found]

    def _read_one_clock(self) -> None:
        tries, held, deadline = 0, list[int](), time.monotonic() + self._link.limit
        try:
            while True:
                self._link.transport.poll()
                before, floors = self._folds(), self._clocks()
                self._link.transport.sync()
                if all(row[VERSION] == row[BEGIN] for row in before):
                    near = self._near()
                    ask(self._link, self._state, [part for part in self._parts if part not in near], self._out)
                    gone = self._once(near, marked=False)
                    after = self._folds()
                    ticks = [row[TICK0 + (row[VERSION] & 1)] for row in after]
                    # A server has folded all clocks before its floor and its tick, and none from its tick on.
                    if (not gone and [row[BEGIN] for row in after] == [row[BEGIN] for row in before]
                            and max(ticks) <= min(map(max, floors, ticks))):
                        return
                    floors = list(map(max, floors, ticks))
                tries += 1
                self._release(held)  # one of these may have to come up to the others
                self._retried(tries, deadline)
                ahead = [run.server for run, floor in zip(self._state.runs, floors, strict=True) if floor == max(floors)]
                held = self._hold(self._state, ahead) if tries > RETRIES else []
        finally:
            self._release(held)

    def _folds(self) -> list[list[int]]:
        """Words of the table's block on each server."""
        t, words = self._link.transport, self._link.plan.words
        return [t.row(run.server, words.block(run.slot), BLOCK_WORDS) for run in self._state.runs]

    def _clocks(self) -> list[int]:
        """Clocks folded, by server."""
        t, at = self._link.transport, self._link.plan.words.floor + self._state.number
        return [t.load(run.server, at) for run in self._state.runs]

    def _retried(self, tries: int, deadline: float) -> None:
        self._link.stats["retries"] += 1
        nap(0)  # not `pause`: what was read may be old already, and nothing else need change
        if time.monotonic() > deadline:
            raise WaitTimeout(f"{self._link.name} read rows of table '{self._state.table.name}' {tries} times in "
                              f"{self._link.limit:g} s and never found them whole: its servers fold without pause")
