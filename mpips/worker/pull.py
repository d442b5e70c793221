"""A pull: wait until the table is new enough, then read published copies, block by block, until each is whole.

Versions, sync, data, sync, begin-marks: a block read from the copy of version v is whole if no fold beyond v + 1 has begun. A
worker of a table with staleness 0 reads the copy whose TICK says that it is of its clock; that copy cannot change while the worker
stays in the clock. The words of a block need not come from one moment, so TICK is looked at again with the begin-mark. Everybody
else reads the newest. A table with staleness 0 is never torn between blocks either: a reader takes one clock for all of them. A
block whose TICK is this very clock is what a worker waits for, and is read while the rest of its table is still being folded;
`wait_for` waits for some tables' blocks alone. After two retries the client holds the table (HOLD) on all its servers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from math import inf

from mpips.errors import UsageError, WaitTimeout
from mpips.layout import Block
from mpips.transport.base import Array
from mpips.transport.words import BEGIN, BLOCK_WORDS, HELD, HOLD, TICK0, VERSION
from mpips.worker.group import Batch, Group, Reading
from mpips.worker.link import Link, TableState

RETRIES = 2  # before a hold

_Part = tuple[int, Sequence[Block]]  # position of a table, and some of its blocks side by side


class Pull:
    """One pull of some tables into flat arrays; `advance` until it returns True."""

    def __init__(self, link: Link, group: Group, outs: Sequence[Array]) -> None:
        self._link = link
        self.group = group
        self._outs = outs
        self.now = now = link.now
        # What each table's floor must have reached, and which of this worker's pushes must be published: of clocks before this
        # one; under staleness 0 the floor says that already.
        self._floors = [now] * len(group.states) if group.lockstep else [-1 if s is None else now - s for s in group.staleness]
        self._own = [] if group.lockstep else [s.before(now) if s.table.staleness != 0 else 0 for s in group.states]
        self._ready = link.reader
        self.nbytes = group.nbytes
        self._apart = group.apart  # positions of the tables whose blocks are read as soon as they are ready,
        self._left = group.early  # and what of them has not been read; once `_as_of` is known, of all tables
        self._as_of: Sequence[int | None] = ()  # by table, the clock whose version is wanted, None for the newest
        self._most: float = inf  # bytes that are read at a time
        self._moved = 0  # blocks read so far
        self.over = False  # whether all tables are read

    def advance(self) -> bool:
        """Go on as far as possible without waiting; return whether all tables are read."""
        if self.over:
            return True
        if not self._arrived() or not self._read():
            return False
        stats = self._link.stats
        stats["pulls"] += len(self.group.states)
        stats["pull_bytes"] += self.nbytes
        self.over = True
        return True

    def _note(self, what: str, begin: float, reading: Reading) -> None:
        self._link.stats["pull_seconds"] += time.perf_counter() - begin
        self._moved += sum([len(s.blocks) for s in reading.stretches])
        if self._link.trace is not None:
            tables = {i: None for s in reading.stretches for i in (s.owners if isinstance(s, Batch) else (s.owner,))}
            self._link.trace.add(what, begin, clock=self.now, what=", ".join(self.group.states[i].table.name for i in tables))

    def go_on(self, most: int) -> bool:
        """Read about so many bytes of what is there; return whether there was any."""
        before, self._most = self._moved, most
        try:
            self._link.transport.poll()
            self.advance()
        finally:
            self._most = inf
        return self._moved > before

    def wait(self) -> None:
        """Advance to the end."""
        if not self.advance():
            self._link.wait(self._arrived, f"a pull of table {self.group.title}", self._blame)
            self.advance()

    def wait_for(self, some: Sequence[int]) -> None:
        """Wait until these of the tables, by position, are read; with staleness 0 the servers may still fold the others."""
        group, link = self.group, self._link
        if not all(0 <= i < len(group.states) for i in some):
            raise UsageError(f"take: {list(some)} of a pull of {len(group.states)} tables, which are counted from 0")
        if self.over:
            return
        if len(some) == len(group.states) or any(group.staleness[i] != 0 for i in some):
            self.wait()
            return
        if more := [i for i in some if i not in self._apart]:
            self._apart = self._apart.union(more)
            self._left = Reading(link.plan.words, _parts(self._left)
                                 + [(i, run.blocks) for i in more for run in group.states[i].runs])

        def here() -> bool:
            left = sum([self._bytes(s.owner, s.stop - s.start) for s in self._left.stretches if s.owner in some])
            if link.background:  # no more than these now: the others are read meanwhile, or later
                self._most = left
            return not left

        names = ", ".join(f"'{group.states[i].table.name}'" for i in some[:3]) + (", ..." if len(some) > 3 else "")
        if link.background:
            self._left = Reading(link.plan.words, sorted(_parts(self._left), key=lambda part: part[0] not in some))
        try:
            link.wait(lambda: here() or self._arrived() or here(), f"a pull of table {names}", self._blame)
            if len(self._apart) == len(group.states) and not self._left.stretches:
                self._ready = True  # nothing is left to wait for
                self.advance()
            while self._ready and not (self.over or here()):
                self.advance()
        finally:
            self._most = inf

    def ready(self) -> bool:
        """Whether the servers have published all that this pull must see."""
        if self._ready:
            return True
        link, group = self._link, self.group
        if self.now > 0 and not group.least(link.transport, link.plan.words.floor, self._floors):
            return False
        if self._own and not group.least(link.transport, link.acks, self._own):
            return False
        link.transport.sync()
        self._ready = True
        return True

    def _arrived(self) -> bool:
        """`ready`; if not, what is there already is read."""
        if self.ready():
            return True
        if self._left.stretches:
            self._read_early()
        return False

    def _blame(self) -> str:
        stale = [s for s in self.group.staleness if s is not None]
        return self._link.behind(self.now - min(stale, default=0))

    def _read_early(self) -> None:
        """Read the blocks that are of this clock already: the fold of the clock before has published them."""
        group, words, t = self.group, self._link.plan.words, self._link.transport
        rows = [t.row(server, word, count) for server, word, count in self._left.rows]
        found, rest = list[_Part](), list[_Part]()
        for s in self._left.stretches:
            row = rows[s.row]
            here = [row[at + TICK0 + (row[at + VERSION] & 1)] == self.now for at in range(s.lo, s.hi, BLOCK_WORDS)]
            cuts = [0, *(i for i in range(1, len(here)) if here[i] != here[i - 1]), len(here)]
            for lo, hi in pairwise(cuts):
                (found if here[lo] else rest).append((s.owner, s.blocks[lo:hi]))
        if found:
            found, later = self._slice(found)
            begin, reading = time.perf_counter(), Reading(words, found)
            bad = self._attempt(reading, self._outs, [self.now] * len(group.states), exact=True)
            self._left = Reading(words, rest + later + [(owner, [block]) for owner, block in bad])
            self._note("pull early", begin, reading)

    def _read(self) -> bool:
        """Read what is left, all tables at once; then those that were not whole, one by one. Return whether nothing is left."""
        begin, group, words = time.perf_counter(), self.group, self._link.plan.words
        if not self._as_of:
            self._as_of = ([self.now] * len(group.states) if group.lockstep and not self._link.reader
                            else [self._clock(state) for state in group.states])
            if self._left is not group.early:
                self._left = Reading(words, _parts(self._left)
                                     + [part for part in _parts(group.reading) if part[0] not in self._apart])
            elif self._most == inf and len(set(self._as_of)) == 1:  # nearly always: all at once
                self._left = group.together
            else:
                self._left = group.reading
        reading, later = self._left, list[_Part]()
        if self._most < inf:  # not of batches, then
            self._apart = frozenset(range(len(group.states)))
            parts, later = self._slice(_parts(reading))
            reading = Reading(words, parts)
        if reading.stretches:
            bad: dict[int, list[Block]] = {}
            for owner, block in self._attempt(reading, self._outs, self._as_of):
                bad.setdefault(owner, []).append(block)
            for owner, blocks in bad.items():
                self._again(group.states[owner], self._outs[owner], self._as_of[owner], blocks)
            if self._link.reader:  # it has read these as a whole, maybe of a later clock
                later = [part for part in later if part[0] not in bad or group.staleness[part[0]] != 0]
            self._note("pull", begin, reading)
        if later:
            self._left = Reading(words, later)
        return not later

    def _slice(self, parts: Sequence[_Part]) -> tuple[list[_Part], list[_Part]]:
        """Split into what is read now, as many blocks as one may, and what is read later."""
        if self._most == inf:
            return list(parts), []
        now, later, room = list[_Part](), list[_Part](), self._most
        for owner, blocks in parts:
            count = 0
            while count < len(blocks) and room > 0:
                room -= self._bytes(owner, blocks[count].stop - blocks[count].start)
                count += 1
            now += [(owner, blocks[:count])] if count else []
            later += [(owner, blocks[count:])] if count < len(blocks) else []
        return now, later

    def _bytes(self, owner: int, elements: int) -> int:
        return elements * self.group.states[owner].table.np_dtype.itemsize

    def _again(self, state: TableState, out: Array, clock: int | None, pending: list[Block]) -> None:
        """Read blocks of one table until each is whole."""
        whole = [run.blocks for run in state.runs]
        one_clock = self._link.reader and state.table.staleness == 0
        held: list[int] = []
        deadline = time.monotonic() + self._link.limit
        tries = 0
        try:
            while pending:
                tries += 1
                self._link.stats["retries"] += 1
                if time.monotonic() > deadline:
                    raise WaitTimeout(f"{self._link.name} read table '{state.table.name}' {tries} times in "
                                      f"{self._link.limit:g} s and never found it whole: its servers fold without pause")
                if held:  # servers more than one clock apart: let the one behind come up
                    self._release(held)
                    held = []
                elif tries % (RETRIES + 1) == 0:
                    held = self._hold(state)
                if one_clock:
                    clock = self._clock(state)
                parts = [(0, blocks) for blocks in (whole if one_clock else _groups(pending))]
                pending = [block for _, block in self._attempt(Reading(self._link.plan.words, parts), [out], [clock])]
        finally:
            self._release(held)

    def _clock(self, state: TableState) -> int | None:
        """Clock whose version is wanted, or None for the newest."""
        if state.table.staleness != 0:
            return None
        if not self._link.reader:
            return self.now
        floor = self._link.plan.words.floor + state.number
        clock = min((self._link.transport.load(run.server, floor) for run in state.runs), default=0)
        self._link.transport.sync()
        return clock

    def _attempt(self, reading: Reading, outs: Sequence[Array], clocks: Sequence[int | None], *,
                 exact: bool = False) -> list[tuple[int, Block]]:
        """Read stretches of blocks once; return the blocks that were not whole, each with the position of its table.

        Args:
            outs, clocks: by table, a flat array and the clock whose version is wanted, None for the newest.
            exact: a version of an earlier clock will not do: the fold of the clock before is known to be under way at least.
        """
        t, maps, stretches = self._link.transport, self._link.plan.maps, reading.stretches
        rows = [t.row(server, word, count) for server, word, count in reading.rows]
        versions = [chosen(rows[s.row][s.lo : s.hi], clocks[s.owner]) for s in stretches]
        t.sync()
        for s, mine in zip(stretches, versions, strict=True):
            base, out = maps[s.server], outs[s.owner]
            if isinstance(s, Batch):
                self._get_batch(s, mine, outs)
                continue
            for lo, hi in _same_copy(mine):
                if hi - lo == len(s.blocks):
                    t.get(s.server, base.copy(mine[lo] & 1) + s.offset, out[s.start : s.stop])
                else:
                    first, last = s.blocks[lo], s.blocks[hi - 1]
                    t.get(s.server, base.copy(mine[lo] & 1) + first.offset, out[first.start : last.stop])
        for server in reading.servers:
            t.flush(server)
        t.sync()
        rows = [t.row(server, word, count) for server, word, count in reading.rows]
        bad: list[tuple[int, Block]] = []
        for s, mine in zip(stretches, versions, strict=True):
            for i in broken(rows[s.row][s.lo : s.hi], mine, clocks[s.owner], exact=exact):
                bad.append((s.owners[i] if isinstance(s, Batch) else s.owner, s.blocks[i]))
        return bad

    def _get_batch(self, batch: Batch, versions: Sequence[int], outs: Sequence[Array]) -> None:
        """Begin to read small tables."""
        t, here = self._link.transport, self._link.plan.maps[batch.server]
        window = t.mapped(batch.server)
        if window is not None and len(_same_copy(versions)) == 1 and versions[0] >= 0 <= versions[-1]:
            for i, values in zip(batch.owners, batch.views(window, here.copy(versions[0] & 1))[1], strict=True):
                outs[i][...] = values
            return
        for i, block, version in zip(batch.owners, batch.blocks, versions, strict=True):
            if version >= 0:
                t.get(batch.server, here.copy(version & 1) + block.offset, outs[i])

    def _hold(self, state: TableState, servers: Sequence[int] | None = None) -> list[int]:
        """Ask the servers of a table, or these of them, not to begin another fold of it; return them once they have agreed."""
        link = self._link
        t, words = link.transport, link.plan.words
        link.holds += 1
        value = link.holds << 32 | state.number + 1
        servers = [run.server for run in state.runs] if servers is None else list(servers)
        for server in servers:
            link.tell(server, HOLD, value)
        held = words.reply(link.index) + HELD
        link.wait(lambda: all(t.load(server, held) == value for server in servers),
                  f"a hold of table '{state.table.name}'", lambda: f"servers {servers} have not answered")
        t.sync()
        return servers

    def _release(self, servers: Sequence[int]) -> None:
        link = self._link
        for server in servers:
            link.tell(server, HOLD, link.holds << 32)


def chosen(marks: Sequence[int], clock: int | None) -> list[int]:
    """Return the version to read of each block, -1 where neither copy is of the clock wanted.

    Args:
        marks: four words for each block.
        clock: None for the newest version, else the newest whose fold belongs to an earlier clock than this.

    >>> chosen([3, 3, 0, 8], None), chosen([3, 3, 7, 8], 7), chosen([3, 3, 7, 8], 6)
    ([3], [2], [-1])
    """
    if len(marks) == BLOCK_WORDS:  # one block; nearly always of its newest version
        version = marks[VERSION]
        if clock is None or marks[TICK0 + (version & 1)] <= clock:
            return [version]
    versions = list(marks[VERSION::BLOCK_WORDS])
    if clock is None or not versions:
        return versions
    if versions.count(versions[0]) == len(versions) and max(marks[TICK0 + (versions[0] & 1) :: BLOCK_WORDS]) <= clock:
        return versions  # nearly always
    for i, version in enumerate(versions):
        at = i * BLOCK_WORDS + TICK0
        if marks[at + (version & 1)] > clock:
            versions[i] = version - 1 if marks[at + 1 - (version & 1)] <= clock else -1
    return versions


def broken(marks: Sequence[int], versions: Sequence[int], clock: int | None, *, exact: bool = False) -> list[int]:
    """Return which blocks were not whole, by their words after they were read from the copies of these versions.

    Args:
        exact: see `Pull._attempt`.

    >>> broken([3, 4, 0, 8], [3], 8), broken([3, 5, 0, 8], [3], 8), broken([3, 4, 0, 8], [3], 7)
    ([], [0], [0])
    """
    version = versions[0]
    if (not exact and version >= 0 and versions.count(version) == len(versions) and max(marks[BEGIN::BLOCK_WORDS]) <= version + 1
            and (clock is None or max(marks[TICK0 + (version & 1) :: BLOCK_WORDS]) <= clock)):
        return []  # nearly always
    out = []
    for i, version in enumerate(versions):
        at = i * BLOCK_WORDS
        tick = marks[at + TICK0 + (version & 1)]
        if version < 0 or marks[at + BEGIN] > version + 1 or (clock is not None and tick > clock) or (exact and tick != clock):
            out.append(i)
    return out


def _groups(blocks: Sequence[Block]) -> list[list[Block]]:
    """Split into stretches of neighbouring slots on one server."""
    out: list[list[Block]] = []
    for block in blocks:
        if out and out[-1][-1].server == block.server and out[-1][-1].slot + 1 == block.slot:
            out[-1].append(block)
        else:
            out.append([block])
    return out


def _parts(reading: Reading) -> list[_Part]:
    return [(s.owner, s.blocks) for s in reading.stretches]


def _same_copy(versions: Sequence[int]) -> list[tuple[int, int]]:
    """Split into stretches that lie in the same copy; versions of -1 are left out."""
    if versions[0] >= 0 and (len(versions) == 1 or versions.count(versions[0]) == len(versions)):
        return [(0, len(versions))]
    out: list[tuple[int, int]] = []
    for i, version in enumerate(versions):
        if version < 0:
            continue
        if out and out[-1][1] == i and (versions[i - 1] & 1) == version & 1:
            out[-1] = (out[-1][0], i + 1)
        else:
            out.append((i, i + 1))
    return out
