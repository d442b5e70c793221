"""Tables that a verb takes together, with all that is the same for each push and pull of them: found out once.

A training loop pushes and pulls the same tables in every step, so a client keeps the group of each tuple of names that it has seen
(`Link.group`). What can change between two steps stays in `TableState`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mpips import layout
from mpips.layout import Block
from mpips.table import Rows
from mpips.transport.base import Array, Transport
from mpips.transport.words import BLOCK_WORDS, Words

if TYPE_CHECKING:
    from mpips.worker.link import TableState

SMALL = 256 << 10  # bytes of a table in a batch
PIECE = 1 << 20  # bytes of a batch: while it is in cache it is looked at


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


class Batch(Stretch):
    """Neighbouring small tables on one server, of one dtype, each of one block: written and read as one piece.

    A call, a look for NaN and Inf and a check of words cost more than the bytes of a small table.

    Attributes:
        owners: positions of its tables, by block.
        looks: whether NaN and Inf are looked for in any.
        told: whether arrival is told of any.
    """

    __slots__ = ("_dtype", "_ends", "_gaps", "_views", "looks", "owners", "told")

    def __init__(self, states: Sequence[TableState], owners: Sequence[int], row: int, first: int) -> None:
        blocks = [states[i].runs[0].blocks[0] for i in owners]
        super().__init__(owners[0], blocks, row, first)
        tables = [states[i].table for i in owners]
        self.owners = owners
        self._dtype = dtype = tables[0].np_dtype
        self._ends = [block.offset - self.offset + table.nbytes for block, table in zip(blocks, tables, strict=True)]
        starts = [block.offset - self.offset for block in blocks[1:]] + self._ends[-1:]
        gaps = [np.zeros((start - end) // dtype.itemsize, dtype) for start, end in zip(starts, self._ends, strict=True)]
        self._gaps = gaps if any([gap.size for gap in gaps]) else []
        self.looks = any([table.nonfinite != "allow" for table in tables])
        self.told = any([states[i].told for i in owners])
        self._views: dict[int, tuple[Array, list[Array]]] = {}

    def piece(self, parts: Sequence[Array], window: Array | None, base: int) -> Array:
        """Return flat arrays, one for each table, as one piece: where it belongs in a mapped window, or in new memory."""
        if self._gaps:
            parts = [one for pair in zip(parts, self._gaps, strict=True) for one in pair]
        return np.concatenate(parts, out=self.views(window, base)[0] if window is not None else None)

    def views(self, window: Array, base: int) -> tuple[Array, list[Array]]:
        """The piece, and each table's part of it, in a mapped window whose copy or mailbox half begins at `base`."""
        if (views := self._views.get(base)) is None:
            piece = window[base + self.offset : base + self.offset + self._ends[-1]].view(self._dtype)
            starts = [block.offset - self.offset for block in self.blocks]
            size = self._dtype.itemsize
            parts = [piece[start // size : end // size] for start, end in zip(starts, self._ends, strict=True)]
            views = self._views[base] = piece, parts
        return views


def batches(states: Sequence[TableState]) -> list[list[int]]:
    """Return the positions of tables that make a `Batch`, two or more each."""
    small = [(s.runs[0].slot, i, s) for i, s in enumerate(states) if len(s.runs) == 1 and len(s.runs[0].blocks) == 1
             and not isinstance(s.table, Rows) and s.table.nbytes <= SMALL and s.table.np_dtype.isbuiltin == 1]
    out: list[list[int]] = []
    before: TableState | None = None
    for slot, i, state in sorted(small, key=lambda one: (one[2].runs[0].server, one[0])):
        run = state.runs[0]
        if (before is not None and before.runs[0].server == run.server and before.runs[0].slot + 1 == slot
                and before.table.np_dtype == state.table.np_dtype
                and run.offset + state.table.nbytes - states[out[-1][0]].runs[0].offset <= PIECE):
            out[-1].append(i)
        else:
            out.append([i])
        before = state
    return [owners for owners in out if len(owners) > 1]


class Reading:
    """Stretches that are read in one attempt, and the rows of words (server, first word, words) that tell of their blocks."""

    __slots__ = ("rows", "servers", "stretches")

    def __init__(self, words: Words, parts: Sequence[tuple[int, Sequence[Block]]], batched: Sequence[Sequence[int]] = (),
                 states: Sequence[TableState] = ()) -> None:
        ends: dict[int, tuple[int, int]] = {}
        whole = [[states[i].runs[0].blocks[0] for i in owners] for owners in batched]
        for blocks in [*(blocks for _, blocks in parts), *whole]:
            first, last, server = blocks[0].slot, blocks[-1].slot + 1, blocks[0].server
            lo, hi = ends.get(server, (first, last))
            ends[server] = min(lo, first), max(hi, last)
        self.servers = tuple(ends)
        self.rows = [(server, words.block(lo), (hi - lo) * BLOCK_WORDS) for server, (lo, hi) in ends.items()]
        at = {server: (row, ends[server][0]) for row, server in enumerate(self.servers)}
        self.stretches = [Stretch(owner, blocks, *at[blocks[0].server]) for owner, blocks in parts]
        self.stretches += [Batch(states, owners, *at[blocks[0].server]) for owners, blocks in zip(batched, whole, strict=True)]


class Group:
    """Some tables, in the order in which a verb names them.

    Attributes:
        title: the first few names, for messages.
        lo, hi: their numbers lie in this range.
        lockstep, staleness: whether all have staleness 0; the staleness of each.
        servers: those that hold something of them.
        told: those of their servers on this node that are told of each block that has arrived, of tables that are `told`.
        reading: all their blocks; `together` the same with small tables in batches, for one clock.
        batches: those; `alone` are the positions of the other tables.
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
        told = [state for state in states if state.told]
        if sum([state.table.nbytes for state in told]) <= layout.BLOCK:  # what is copied as fast as a server can be told
            told = []
        self.told = {run.server for state in told for run in state.runs if transport.near(run.server)}
        several = [s.table.staleness == 0 and not isinstance(s.table, Rows) and sum([len(run.blocks) for run in s.runs]) > 1
                   for s in states]
        self.apart = frozenset([i for i, one in enumerate(several) if one])
        self.early = Reading(words, [(i, run.blocks) for i, run in runs if several[i]])
        self.reading = Reading(words, [(i, run.blocks) for i, run in runs])
        found = batches(states) if len(states) > 1 else []
        inside = {i for owners in found for i in owners}
        self.alone = [i for i in range(len(states)) if i not in inside]
        rest = [(i, run.blocks) for i, run in runs if i not in inside]
        self.together = Reading(words, rest, found, states) if found else self.reading
        self.batches = [s for s in self.together.stretches if isinstance(s, Batch)]
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
