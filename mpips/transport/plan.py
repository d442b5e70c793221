"""What every process knows of the memory: the layout, the map of each window, and how much room is left for later tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpips import layout as grid
from mpips.errors import UsageError
from mpips.layout import ALIGN, Layout, align, place, rows_on
from mpips.table import Rows, Table
from mpips.transport.words import PAGE, Map, Words, region

LOG = 8 << 20  # bytes of a log: larger pushes go through it too, but are put aside in memory of the server's
LOGS, ANSWERS = 256 << 20, 128 << 20  # bytes of all clients' logs and answers on a server, where that leaves each of them enough
ANSWER = 4 << 20  # bytes of values that a client asks a server for at a time
ID = 8  # bytes of an id
SPARE_TABLES = 64  # tables that may be created later when `reserve` is given


@dataclass
class Plan:
    """Where everything lies. Only `layout` changes, by `adopt`, when a table is created later.

    Attributes:
        lockstep: whether every table has staleness 0, so that a cut is a clock and needs nobody to stop.
    """

    layout: Layout
    words: Words
    maps: tuple[Map, ...]
    workers: int
    readers: int
    far: bool = False  # whether some client is on another node than some server

    @property
    def servers(self) -> int:
        """Number of servers."""
        return self.layout.servers

    @property
    def rings(self) -> bool:
        """Whether pushes go through rings of blocks, not through mailboxes that hold a whole shard."""
        return self.words.rings

    @property
    def clients(self) -> int:
        """Workers and readers."""
        return self.workers + self.readers

    def __post_init__(self) -> None:
        self.adopt(self.layout)

    def adopt(self, layout: Layout) -> None:
        """Go on with a layout that `fits` has returned."""
        self.layout = layout
        self.lockstep = all(t.staleness == 0 for t in layout.tables)

    def fits(self, table: Table) -> Layout | None:
        """Return the layout with `table` added, or None if there is no room for it."""
        after = place([table], self.servers, self.layout)
        room = len(after.tables) <= self.words.tables and max(after.slots) <= self.words.blocks
        room = room and all(n <= m.nbytes for n, m in zip(after.nbytes, self.maps, strict=True))
        return after if room else None


def make_plan(tables: Sequence[Table], *, servers: int, workers: int, readers: int = 0, reserve: int = 0,
              mailboxes: int | None = None, far: bool = False) -> Plan:
    """Lay out `tables`.

    Args:
        far: whether some client is on another node than some server.
        reserve: spare bytes on each server for tables created later.
        mailboxes: bytes for all workers' mailboxes on one server; if they need more they become rings of that size together.

    Raises UsageError if rings cannot be: too little for them, or a table has staleness.
    """
    layout = place(tables, servers)
    spare = align(reserve)
    sizes = [align(n, ALIGN) + spare for n in layout.nbytes]
    dense = [table for table in tables if not isinstance(table, Rows)]
    ring = 0 if mailboxes is None or workers * 2 * region(max(sizes)) <= mailboxes else _ring(mailboxes, workers)
    for table in dense if ring else ():
        check_ring(table)
    rows = [(number, table) for number, table in enumerate(tables) if isinstance(table, Rows)]
    log = _log([table for _, table in rows], servers, workers + readers)
    blocks = max(layout.slots) + (spare // grid.BLOCK + SPARE_TABLES if spare else 0)
    words = Words(workers, workers + readers, servers, len(tables) + (SPARE_TABLES if spare else 0), blocks, ring > 0,
                  log > 0)
    asks = far or any(table.rows is None for _, table in rows)
    answer = min(ANSWER, ANSWERS // (workers + readers))
    answer = align(max(answer, *(t.row_bytes for _, t in rows)), PAGE) if rows and asks else 0
    maps = tuple(Map(words, n, ring, log, answer, tuple((k, rows_on(t, s, servers), t.row_bytes, t.rows is None) for k, t in rows),
                     spare)
                 for s, n in enumerate(sizes))
    return Plan(layout, words, maps, workers, readers, far)


def _ring(mailboxes: int, workers: int) -> int:
    """Bytes of one worker's ring."""
    ring, least = mailboxes // workers // PAGE * PAGE, align(2 * grid.BLOCK, PAGE)
    if ring < least:
        raise UsageError(f"run: mailboxes={mailboxes} bytes for {workers} workers: each needs a ring of two blocks, "
                         f"{least * workers} bytes together")
    return ring


def _log(tables: Sequence[Rows], servers: int, clients: int) -> int:
    """Bytes of one client's log: a few large pushes, or two of all rows if that is less, but at least some pieces of one row."""
    if not tables:
        return 0
    all_rows = max(rows_on(t, 0, servers) * piece_bytes(1, t) for t in tables)
    one_row = max(piece_bytes(1, t) for t in tables)
    return align(max(min(LOG, LOGS // clients, 2 * all_rows), 8 * one_row), PAGE)


def ids_bytes(rows: int, table: Rows) -> int:
    """Bytes of the ids of a piece; where ids come and go, of the places too where its worker believes that they lie."""
    return rows * ID * (1 if table.rows is not None else 2)


def piece_bytes(rows: int, table: Rows) -> int:
    """Bytes that a piece of so many rows takes in a log: their ids, then their values."""
    return align(ids_bytes(rows, table)) + align(rows * table.row_bytes)


def check_ring(table: Table) -> None:
    """Raise UsageError if this table cannot be pushed through a ring.

    A server adds up what leaves the rings, in the workers' order, so that no worker waits for one that comes after it. Updates that
    are folded one by one, as they arrive, have no such order: two servers could begin with different ones, and wait for ever.
    """
    if table.staleness != 0:
        raise UsageError(f"table '{table.name}': staleness {table.staleness} where mailboxes are rings (run(mailboxes=...)); "
                         "they take tables with staleness 0 only")
