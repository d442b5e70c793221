"""What every process knows of the memory: the layout, the map of each window, and how much room is left for later tables."""

from __future__ import annotations

from dataclasses import dataclass

from mpips.layout import ALIGN, BLOCK, Layout, align, place
from mpips.table import Dense
from mpips.transport.words import Map, Words

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


def make_plan(tables: list[Dense], *, servers: int, workers: int, readers: int = 0, reserve: int = 0) -> Plan:
    """Lay out `tables`, with `reserve` spare bytes on each server for tables created later."""
    layout = place(tables, servers)
    spare = align(reserve)
    blocks = max(layout.slots) + (spare // BLOCK + SPARE_TABLES if spare else 0)
    words = Words(workers, workers + readers, servers, len(tables) + (SPARE_TABLES if spare else 0), blocks)
    maps = tuple(Map(words, align(n, ALIGN) + spare) for n in layout.nbytes)
    return Plan(layout, words, maps, workers, readers)
