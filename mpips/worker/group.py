"""Tables that a verb takes together, with all that is the same for each push and pull of them: found out once.

A training loop pushes and pulls the same tables in every step, so a client keeps the group of each tuple of names that it has seen
(`Link.group`). What can change between two steps stays in `TableState`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpips.layout import Block
from mpips.table import Rows
from mpips.transport.base import Transport
from mpips.transport.words import BLOCK_WORDS, Words

if TYPE_CHECKING:
    from mpips.worker.link import TableState


class Stretch:
    """Neighbouring blocks of one table on one server.

    Attributes:
        owner: position of the table among those that are read together.
        row: position of the server's row of words in `Reading.rows`; the words of these blocks are `lo:hi` of it.
    """

    __slots__ = ("blocks", "hi", "lo", "offset", "owner", "row", "server", "start", "stop")

    def __init__(self, owner: int, blocks: Sequence[Block], row: int, first: int) -> None:
        self.owner = owner
        self.blocks = blocks
        self.server = blocks[0].server
        self.start, self.stop, self.offset = blocks[0].start, blocks[-1].stop, blocks[0].offset
        self.row = row
        self.lo = (blocks[0].slot - first) * BLOCK_WORDS
        self.hi = self.lo + len(blocks) * BLOCK_WORDS


class Reading:
    """Stretches that are read in one attempt, and the rows of words (server, first word, words) that tell of their blocks."""

    __slots__ = ("rows", "servers", "stretches")

    def __init__(self, words: Words, parts: Sequence[tuple[int, Sequence[Block]]]) -> None:
        ends: dict[int, tuple[int, int]] = {}
        for _, blocks in parts:
            first, last, server = blocks[0].slot, blocks[-1].slot + 1, blocks[0].server
            lo, hi = ends.get(server, (first, last))
            ends[server] = min(lo, first), max(hi, last)
        self.servers = tuple(ends)
        self.rows = [(server, words.block(lo), (hi - lo) * BLOCK_WORDS) for server, (lo, hi) in ends.items()]
        self.stretches = [Stretch(owner, blocks, self.servers.index(blocks[0].server), ends[blocks[0].server][0])
                          for owner, blocks in parts]


class Group:
    """Some tables, in the order in which a verb names them.

    Attributes:
        title: the first few names, for messages.
        lo, hi: their numbers lie in this range.
        lockstep, staleness: whether all have staleness 0; the staleness of each.
        servers: those that hold something of them.
        told: those of their servers on this node that are told of each block that has arrived.
        reading: all their blocks.
        rows: name of the first that is a table of rows, "" if there is none.
        early: blocks of those with staleness 0 and several blocks: some can be read before the others are folded.
        apart: positions of those.
    """

    def __init__(self, transport: Transport, words: Words, states: Sequence[TableState]) -> None:
        self.states = states
        self.title = ", ".join([f"'{s.table.name}'" for s in states[:3]]) + (", ..." if len(states) > 3 else "")
        self.numbers = [state.number for state in states]
        self.lo, self.hi = min(self.numbers, default=0), max(self.numbers, default=-1) + 1
        self.staleness = [state.table.staleness for state in states]
        self.lockstep = all([s == 0 for s in self.staleness])
        self.rows = next((s.table.name for s in states if isinstance(s.table, Rows)), "")
        self.nbytes = sum([state.table.nbytes for state in states])
        runs = [(i, run) for i, state in enumerate(states) for run in state.runs]
        self.servers = tuple(dict.fromkeys(run.server for _, run in runs))
        told = dict.fromkeys(run.server for i, run in runs if states[i].told)
        self.told = tuple(server for server in told if transport.near(server))
        several = [s.table.staleness == 0 and not isinstance(s.table, Rows) and sum([len(run.blocks) for run in s.runs]) > 1
                   for s in states]
        self.apart = frozenset([i for i, one in enumerate(several) if one])
        self.early = Reading(words, [(i, run.blocks) for i, run in runs if several[i]])
        self.reading = Reading(words, [(i, run.blocks) for i, run in runs])
        self._cells = [(server, [(i, self.numbers[i] - self.lo) for i, run in runs if run.server == server])
                       for server in self.servers]

    def least(self, transport: Transport, base: int, wanted: Sequence[int]) -> bool:
        """Whether the words that go by table, `base` for table 0, are at least `wanted` on each server of each table."""
        if max(wanted, default=0) <= 0:
            return True
        lo, width = base + self.lo, self.hi - self.lo
        for server, cells in self._cells:
            row = transport.row(server, lo, width)
            for i, at in cells:
                if row[at] < wanted[i]:
                    return False
        return True
