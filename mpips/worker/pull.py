"""A pull: wait until the table is new enough, then read published copies, block by block, until each is whole.

Versions, sync, data, sync, begin-marks: a block read from the copy of version v is whole if no fold beyond v + 1 has begun. A
worker of a table with staleness 0 reads the copy whose TICK says that it is of its clock; that copy cannot change while the worker
stays in the clock. The words of a block need not come from one moment, so TICK is looked at again with the begin-mark. Everybody
else reads the newest. A table with staleness 0 is never torn between blocks either: a reader takes
one clock for all of them. After two retries the client holds the table (HOLD) on the servers that it still needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mpips.errors import WaitTimeout
from mpips.layout import Block
from mpips.transport.base import Array
from mpips.transport.words import BEGIN, BLOCK_WORDS, HELD, HOLD, TICK0, VERSION
from mpips.worker.link import Link, TableState

RETRIES = 2  # before a hold


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring blocks of a table on one server, to be read into the table's flat array; `clock` None means the newest."""

    blocks: Sequence[Block]
    out: Array
    clock: int | None


class Pull:
    """One pull of some tables into flat arrays; `advance` until it returns True."""

    def __init__(self, link: Link, states: Sequence[TableState], outs: Sequence[Array]) -> None:
        self._link = link
        self._states = states
        self._outs = outs
        self.now = link.now
        self._floors = {s.number: link.now - s.table.staleness for s in states if s.table.staleness is not None}  # at least
        self._own = {s.number: s.before(link.now) for s in states if s.table.staleness != 0}  # pushes that must be published
        self._bounded = [s for s in states if self._floors.get(s.number, 0) > 0]
        self._owning = [s for s in states if self._own.get(s.number, 0)]
        self._ready = False
        self.done = False

    def advance(self) -> bool:
        """Go on as far as possible without waiting; return whether all tables are read."""
        if self.done:
            return True
        if not self.ready():
            return False
        begin = time.perf_counter()
        self._read()
        stats = self._link.stats
        stats["pulls"] += len(self._states)
        stats["pull_bytes"] += sum([state.table.nbytes for state in self._states])
        stats["pull_seconds"] += time.perf_counter() - begin
        if self._link.trace is not None:
            self._link.trace.add("pull", begin, clock=self.now, what=", ".join(s.table.name for s in self._states))
        self.done = True
        return True

    def poll(self) -> None:
        """Let the transport make progress."""
        self._link.transport.poll()

    def wait(self) -> None:
        """Advance to the end."""
        names = ", ".join(f"'{s.table.name}'" for s in self._states[:3]) + (", ..." if len(self._states) > 3 else "")
        self._link.wait(self.ready, f"a pull of table {names}", self._blame)
        self.advance()

    def ready(self) -> bool:
        """Whether the servers have published all that this pull must see."""
        link = self._link
        if link.reader or self._ready:
            return True
        words = link.plan.words
        if any(word < self._floors[s.number] for s, word in link.words(words.floor, self._bounded)):
            return False
        if any(word < self._own[s.number] for s, word in link.words(words.ack(link.index), self._owning)):
            return False
        link.transport.sync()
        self._ready = True
        return True

    def _blame(self) -> str:
        stale = [s.table.staleness for s in self._states if s.table.staleness is not None]
        return self._link.behind(self.now - min(stale, default=0))

    def _read(self) -> None:
        """Read all tables at once; then those that were not whole, one by one."""
        clocks = [self._clock(state) for state in self._states]
        parts = [Part(run.blocks, out, clock) for state, out, clock in zip(self._states, self._outs, clocks, strict=True)
                 for run in state.runs]
        bad: dict[int, list[Block]] = {}
        for block in self._attempt(parts):
            bad.setdefault(block.table, []).append(block)
        if bad:
            for state, out, clock in zip(self._states, self._outs, clocks, strict=True):
                if state.number in bad:
                    self._again(state, out, clock, bad[state.number])

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
                pending = self._attempt([Part(group, out, clock) for group in (whole if one_clock else _groups(pending))])
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

    def _attempt(self, parts: Sequence[Part]) -> list[Block]:
        """Read stretches of neighbouring blocks once; return the blocks that were not whole."""
        t, maps = self._link.transport, self._link.plan.maps
        versions = [chosen(marks, part.clock) for part, marks in zip(parts, self._marks(parts), strict=True)]
        t.sync()
        for part, mine in zip(parts, versions, strict=True):
            for lo, hi in _same_copy(mine):
                first, last = part.blocks[lo], part.blocks[hi - 1]
                t.get(first.server, maps[first.server].copy(mine[lo] & 1) + first.offset, part.out[first.start : last.stop])
        for server in {part.blocks[0].server for part in parts}:
            t.flush(server)
        t.sync()
        bad: list[Block] = []
        for part, mine, marks in zip(parts, versions, self._marks(parts), strict=True):
            for i, version in enumerate(mine):
                at = i * BLOCK_WORDS
                stale = part.clock is not None and marks[at + TICK0 + (version & 1)] > part.clock
                if version < 0 or marks[at + BEGIN] > version + 1 or stale:
                    bad.append(part.blocks[i])
        return bad

    def _marks(self, parts: Sequence[Part]) -> list[list[int]]:
        """Words of each part's blocks."""
        ends: dict[int, tuple[int, int]] = {}
        for part in parts:
            first, last = part.blocks[0], part.blocks[-1].slot + 1
            lo, hi = ends.get(first.server, (first.slot, last))
            ends[first.server] = min(lo, first.slot), max(hi, last)
        words = self._link.plan.words
        rows = {s: (lo, self._link.transport.row(s, words.block(lo), (hi - lo) * BLOCK_WORDS)) for s, (lo, hi) in ends.items()}
        if len(parts) == 1:
            return [rows[parts[0].blocks[0].server][1]]
        out = []
        for part in parts:
            lo, row = rows[part.blocks[0].server]
            at = (part.blocks[0].slot - lo) * BLOCK_WORDS
            out.append(row[at : at + len(part.blocks) * BLOCK_WORDS])
        return out

    def _hold(self, state: TableState) -> list[int]:
        """Ask the servers of a table not to begin another fold of it; return them once they have agreed."""
        link = self._link
        t, words = link.transport, link.plan.words
        link.holds += 1
        value = link.holds << 32 | state.number + 1
        servers = [run.server for run in state.runs]
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


def _groups(blocks: Sequence[Block]) -> list[list[Block]]:
    """Split into stretches of neighbouring slots on one server."""
    out: list[list[Block]] = []
    for block in blocks:
        if out and out[-1][-1].server == block.server and out[-1][-1].slot + 1 == block.slot:
            out[-1].append(block)
        else:
            out.append([block])
    return out


def _same_copy(versions: Sequence[int]) -> list[tuple[int, int]]:
    """Split into stretches that lie in the same copy; versions of -1 are left out."""
    if versions[0] >= 0 and versions.count(versions[0]) == len(versions):
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
