"""What every process knows of the memory: the layout, the map of each window, and how much room is left for later tables."""

from __future__ import annotations

from dataclasses import dataclass

from mpips import layout as grid
from mpips.errors import UsageError
from mpips.layout import ALIGN, Layout, align, place
from mpips.table import Dense
from mpips.transport.words import PAGE, Map, Words, region

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

    def fits(self, table: Dense) -> Layout | None:
        """Return the layout with `table` added, or None if there is no room for it."""
        after = place([table], self.servers, self.layout)
        room = len(after.tables) <= self.words.tables and max(after.slots) <= self.words.blocks
        room = room and all(n <= m.nbytes for n, m in zip(after.nbytes, self.maps, strict=True))
        return after if room else None


def make_plan(tables: list[Dense], *, servers: int, workers: int, readers: int = 0, reserve: int = 0,
              mailboxes: int | None = None) -> Plan:
    """Lay out `tables`.

    Args:
        reserve: spare bytes on each server for tables created later.
        mailboxes: bytes for all workers' mailboxes on one server; if they need more they become rings of that size together.

    Raises UsageError if rings cannot be: too little for them, or a table has staleness.
    """
    layout = place(tables, servers)
    spare = align(reserve)
    sizes = [align(n, ALIGN) + spare for n in layout.nbytes]
    ring = 0 if mailboxes is None or workers * 2 * region(max(sizes)) <= mailboxes else _ring(mailboxes, workers)
    for table in tables if ring else ():
        check_ring(table)
    blocks = max(layout.slots) + (spare // grid.BLOCK + SPARE_TABLES if spare else 0)
    words = Words(workers, workers + readers, servers, len(tables) + (SPARE_TABLES if spare else 0), blocks, ring > 0)
    maps = tuple(Map(words, n, ring) for n in sizes)
    return Plan(layout, words, maps, workers, readers)


def _ring(mailboxes: int, workers: int) -> int:
    """Bytes of one worker's ring."""
    ring, least = mailboxes // workers // PAGE * PAGE, align(2 * grid.BLOCK, PAGE)
    if ring < least:
        raise UsageError(f"run: mailboxes={mailboxes} bytes for {workers} workers: each needs a ring of two blocks, "
                         f"{least * workers} bytes together")
    return ring


def check_ring(table: Dense) -> None:
    """Raise UsageError if this table cannot be pushed through a ring.

    A server adds up what leaves the rings, in the workers' order, so that no worker waits for one that comes after it. Updates that
    are folded one by one, as they arrive, have no such order: two servers could begin with different ones, and wait for ever.
    """
    if table.staleness != 0:
        raise UsageError(f"table '{table.name}': staleness {table.staleness} where mailboxes are rings (run(mailboxes=...)); "
                         "they take tables with staleness 0 only")
