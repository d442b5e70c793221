"""Tables to blocks, blocks to servers, blocks to offsets. Pure: no MPI, no state.

A table is cut into blocks by a grid that depends on the table alone, so a result cannot depend on the number of servers.
A table up to `WHOLE` bytes lies whole on one server; a larger one is dealt out as one run of consecutive blocks per server, the
longest runs to the servers with the fewest bytes so far. A server's blocks follow each other in a region of `Shard.nbytes`
bytes; that region exists once for each copy and for each mailbox half.

A table of rows is dealt out row by row: row `id` is row `id // servers` of server `id % servers`, so that neighbouring ids, the
most frequent ones of most data among them, lie on different servers; where any int64 is an id, a hash says which server it is.
Its rows stand in a place of their own (`mpips.transport.words`); here it has one block without elements on each server, whose words
tell of its folds.

>>> from mpips import Dense, optim
>>> plan = place([Dense("w", shape=(1 << 20,), optimizer=optim.SGD(lr=0.1))], servers=2)
>>> [(b.start, b.stop, b.server) for b in plan.blocks]
[(0, 524288, 0), (524288, 1048576, 1)]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from mpips.table import Dense, Rows, Table

BLOCK = 2 << 20  # bytes; 1 to 4 MB folds while it is in cache and still overlaps its neighbour's transport
WHOLE = 2 << 20  # bytes; splitting less than this costs more messages than it balances
ALIGN = 64  # bytes; a cache line, and the widest vector


def align(n: int, to: int = ALIGN) -> int:
    """Round `n` up to a multiple of `to`."""
    return -(-n // to) * to


@dataclass(frozen=True)
class Block:
    """Elements `start:stop` of the flat table number `table`.

    `slot` counts the blocks of its server, `offset` is its first byte in a region of that server.
    """

    table: int
    index: int
    start: int
    stop: int
    server: int
    slot: int
    offset: int


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of one table on one server; contiguous in the table and in every region of the server."""

    table: int
    server: int
    blocks: tuple[Block, ...]

    @property
    def start(self) -> int:
        """First element of the table."""
        return self.blocks[0].start

    @property
    def stop(self) -> int:
        """One past the last element of the table."""
        return self.blocks[-1].stop

    @property
    def offset(self) -> int:
        """First byte in a region of the server."""
        return self.blocks[0].offset

    @property
    def slot(self) -> int:
        """Slot of the first block; the others follow."""
        return self.blocks[0].slot


@dataclass(frozen=True)
class Layout:
    """Where everything lies; equal inputs give equal layouts on every rank."""

    tables: tuple[Table, ...]
    servers: int
    blocks: tuple[Block, ...]  # by table, then by index
    runs: tuple[tuple[Run, ...], ...]  # runs[table], in the order of elements
    nbytes: tuple[int, ...]  # used bytes of one region, by server
    slots: tuple[int, ...]  # blocks, by server

    def on(self, server: int) -> Iterator[Block]:
        """Blocks of one server in the order of their slots."""
        return (b for b in self.blocks if b.server == server)

    def digest(self) -> str:
        """Hash of everything that ranks must agree on about where data lies."""
        cells = [[b.table, b.index, b.start, b.stop, b.server, b.slot, b.offset] for b in self.blocks]
        return hashlib.sha256(json.dumps([self.servers, cells]).encode()).hexdigest()


def grid(size: int, itemsize: int) -> list[tuple[int, int]]:
    """Cut a table of `size` elements into [start, stop) pieces of `BLOCK` bytes; the last may be shorter, 0 elements give none."""
    step = BLOCK // itemsize
    return [(at, min(at + step, size)) for at in range(0, size, step)]


def repeatable(table: Table) -> bool:
    """Whether a fold can be computed again, so that it may begin before its push is committed: its rule keeps no slots."""
    return isinstance(table, Dense) and not table.optimizer.slots and not (table.half and table.master)


def rows_on(table: Rows, server: int, servers: int) -> int:
    """Return how many rows of a table there is room for on a server.

    Where ids are hashed the servers get about as many each; the room is that many, and six standard deviations.
    """
    if table.rows is not None:
        return max(table.rows - server + servers - 1, 0) // servers
    assert table.capacity is not None
    share = table.capacity / servers
    return min(table.capacity, ceil(share + 6 * sqrt(share))) if servers > 1 else table.capacity


def place(tables: Sequence[Table], servers: int, before: Layout | None = None) -> Layout:
    """Place `tables` on `servers` servers; with `before`, keep all that stands there and add `tables` after it."""
    if before is not None:
        assert before.servers == servers
    blocks = list(before.blocks) if before else []
    runs = list(before.runs) if before else []
    used = list(before.nbytes) if before else [0] * servers
    slots = list(before.slots) if before else [0] * servers
    first = len(runs)
    for number, table in enumerate(tables, first):
        if isinstance(table, Rows):
            marks = [Block(number, s, 0, 0, s, slots[s], used[s]) for s in range(servers)]
            slots = [n + 1 for n in slots]
            blocks += marks
            runs.append(tuple(Run(number, mark.server, (mark,)) for mark in marks))
            continue
        cells = grid(table.size, table.np_dtype.itemsize)
        mine: list[Run] = []
        for server, lo, hi in _deal(len(cells), table.nbytes, used):
            part: list[Block] = []
            for index in range(lo, hi):
                start, stop = cells[index]
                part.append(Block(number, index, start, stop, server, slots[server], used[server]))
                used[server] += align((stop - start) * table.np_dtype.itemsize)
                slots[server] += 1
            mine.append(Run(number, server, tuple(part)))
            blocks += part
        runs.append(tuple(mine))
    kept = before.tables if before else ()
    return Layout((*kept, *tables), servers, tuple(blocks), tuple(runs), tuple(used), tuple(slots))


def _deal(cells: int, nbytes: int, used: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (server, first cell, one past the last) for each server that gets some, in the order of the cells."""
    if not cells:
        return
    order = sorted(range(len(used)), key=lambda s: (used[s], s))
    shares = 1 if nbytes <= WHOLE else min(cells, len(used))
    at = 0
    for k in range(shares):
        n = cells // shares + (k < cells % shares)
        yield order[k], at, at + n
        at += n
