"""The memory of one server: two published copies and the mailboxes in the window, optimizer slots beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from mpips import layout
from mpips.layout import Block, align
from mpips.optim import Fold
from mpips.optim.rows import RowFold
from mpips.optim.team import Team
from mpips.server.cohorts import Cohort
from mpips.server.row_table import RowTable
from mpips.server.saving import Array, Piece, Restored, RowShard
from mpips.table import Dense, Rows, Table
from mpips.trace import Trace
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BEGIN, BLOCK_WORDS, NEVER, TICK0, TICK1, VERSION

JOIN = 4  # blocks' bytes in a span: calling a fold costs a fifth of a block's (measured), and a server looks up after each span


@dataclass(frozen=True, eq=False)
class Span:
    """Blocks `lo:hi` (slots) that are folded in one pass: bytes `start:stop` of every region.

    Attributes:
        fold, dtype: of all their tables.
        slots: the optimizer's slots, (elements,), of these blocks and maybe their neighbours; `first` is the element at `start`.
            Where pushes come through rings, the last is the sum of gradients.
    """

    lo: int
    hi: int
    start: int
    stop: int
    fold: Any  # Fold; None of a table of rows
    dtype: np.dtype[Any]
    slots: tuple[Array, ...]
    first: int

    @property
    def nbytes(self) -> int:
        """Bytes of one copy, with what lies between the blocks."""
        return self.stop - self.start


class Store:
    """Blocks of server `index`: views into its window, and slots.

    Args:
        engine: what folds, see `mpips.optim.Fold`; with so many threads.
        trace: of this rank, if it is traced; whoever folds or saves adds to it.

    Attributes:
        spans: by slot, the span of this block alone.
        together: blocks' bytes in a span; each thread needs as many to be worth its waking (measured: 0.1 to 0.3 ms).
        floors, acks, marks: what this server has written in its words, by table, by worker and table, and by block.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, *, seed: int, engine: str = "auto", threads: int = 1,
                 restored: Restored | None = None, trace: Trace | None = None) -> None:
        memory = transport.mapped(index)
        assert memory is not None, "a server has its own window mapped"
        memory[: plan.maps[index].copy(0)] = 0  # windows of one process come from malloc (Open MPI): not zero
        self._memory = memory
        self._transport = transport
        self._plan = plan
        self._map = plan.maps[index]
        self.index = index
        self.trace = trace
        self.seed = seed
        self._engine, self.team = engine, Team(threads)
        self.together = JOIN * threads
        self.floors = np.zeros(plan.words.tables, np.int64)
        self.acks = np.zeros((plan.workers, plan.words.tables), np.int64)
        self.marks = np.zeros((plan.words.blocks, BLOCK_WORDS), np.int64)
        self.folds: dict[str, Fold] = {}  # by what makes tables fold alike
        self.blocks: list[list[Block]] = []  # by table, those of this server
        self.spans: list[Span] = []
        self._by_slot: list[Block] = []
        self.rows: dict[int, RowTable] = {}  # by number, tables of rows
        self.since: list[int] = []  # by table, the clock in which it was created, see `catalogue`; -1 at start
        self._views: dict[tuple[int, int], Array] = {}  # by place in the window: a fold asks for the same ones again and again
        self._marks = plan.words.block(0)
        self._copies = [self._map.copy(number) for number in (0, 1)]
        self._halves = [[self._map.mailbox(worker, half) for half in (0, 1)] for worker in range(plan.workers)]
        self.add(range(len(plan.layout.tables)), restored)

    def add(self, numbers: Sequence[int], restored: Restored | None = None, since: int = -1) -> None:
        """Create the blocks of tables, which the plan holds already, and publish their first values as version 0."""
        found: list[tuple[Block, Fold | None]] = []
        tables = self._plan.layout.tables
        kinds = {n: repr((n if isinstance(t, Rows) else -1, t.optimizer.describe(), t.dtype, t.master, t.combine, t.staleness == 0))
                 for n, t in ((n, tables[n]) for n in numbers)}
        elements = Counter[str]()
        for number, kind in kinds.items():
            elements[kind] += tables[number].size
        for number, kind in kinds.items():
            fold, table = self.folds.get(kind), tables[number]
            if fold is None and isinstance(table, Dense):
                fold = self.folds[kind] = Fold(table.optimizer, table, self._engine, team=self.team,
                                                     elements=elements[kind], workers=self._plan.workers)
            if isinstance(table, Rows):
                self.rows[number] = self._rows_of(number, table, restored)
            mine = [b for run in self._plan.layout.runs[number] if run.server == self.index for b in run.blocks]
            self.blocks.append(mine)
            self.since.append(since)
            found += [(block, fold) for block in mine]
        for block, fold, slots, first in _allocate(found, self._plan.rings):
            table = self.table(block.table)
            start, stop = block.offset, block.offset + (block.stop - block.start) * table.np_dtype.itemsize
            self.spans.append(Span(block.slot, block.slot + 1, start, stop, fold, table.np_dtype, slots, first))
            self._by_slot.append(block)
            version = self._fill(block, self.spans[-1], restored) if fold is not None else 0
            self.marks[block.slot, [VERSION, BEGIN, TICK0 + (version & 1), TICK1 - (version & 1)]] = version, version, 0, NEVER
            self._transport.stores(self.index, self._plan.words.block(block.slot), self.marks[block.slot])
        clock = max(restored.clocks, default=0) if restored else 0
        for number in numbers:
            self.floors[number] = clock
        if numbers:
            lo, hi = numbers[0], numbers[-1] + 1
            self._transport.stores(self.index, self._plan.words.floor + lo, self.floors[lo:hi])

    def make_room(self, number: int) -> None:
        """Get memory for a table that is created later: spare space has none."""
        width = self.table(number).np_dtype.itemsize
        for run in self._plan.layout.runs[number]:
            if run.server == self.index:
                stop = run.offset + (run.stop - run.start) * width
                for base in chain(self._copies, *([] if self._plan.rings else self._halves)):
                    self._transport.populate(base + run.offset, base + stop)

    def _rows_of(self, number: int, table: Rows, restored: Restored | None) -> RowTable:
        place = self._map.rows[number]
        fold = RowFold(table.optimizer, table.np_dtype, table.dim, self._engine, rows=place.rows, team=self.team,
                       mean=table.combine == "mean")
        rows = RowTable(table, place, self._memory, fold, self.index, self._plan.servers, self.seed)
        rows.fill(self._transport, restored)
        return rows

    def _fill(self, block: Block, span: Span, restored: Restored | None) -> int:
        """Write the first values and slots of a block; return their version."""
        table, fold = self.table(block.table), span.fold
        if restored:
            values = restored.read(table.name, None, block.start, block.stop)
            slots = {name: restored.read(table.name, name, block.start, block.stop) for name in fold.names}
            version = restored.folds(table.name, block.index)
        else:
            draw = table.compute_dtype if table.half else table.np_dtype
            values = table.init.block(table.name, table.shape, draw, seed=self.seed, index=block.index,
                                      start=block.start, stop=block.stop)
            slots = fold.new_slots(values)
            version = 0
        self.copy(span, version & 1)[:] = values.astype(table.np_dtype, copy=False)
        for name, mine in zip(fold.names, self.slots(span), strict=True):
            mine[:] = slots[name]
        return version

    def slots_of(self, tables: Sequence[int]) -> list[int]:
        """Slots of the blocks of some tables, ascending."""
        return sorted(block.slot for table in tables for block in self.blocks[table])

    def chunks(self, cohort: Cohort) -> list[Span]:
        """Return a cohort's spans of at most a block's bytes: so small are those that are folded ahead."""
        if cohort.chunks is None:
            cohort.chunks = self._join([self.spans[slot] for slot in self.slots_of(cohort.tables)], layout.BLOCK)
        return cohort.chunks

    def joined(self, spans: Sequence[Span]) -> list[Span]:
        """Return spans with a common history as few as possible; they ascend."""
        return self._join(spans, self.together * layout.BLOCK)

    def _join(self, spans: Sequence[Span], most: int) -> list[Span]:
        out: list[Span] = []
        for span in spans:
            last = out[-1] if out else None
            if (last is not None and last.hi == span.lo and last.fold is span.fold and last.slots is span.slots
                    and last.first + (span.start - last.start) // span.dtype.itemsize == span.first
                    and span.stop - last.start <= most and self.version(span.lo) == self.version(last.lo)):
                out[-1] = Span(last.lo, span.hi, last.start, span.stop, span.fold, span.dtype, span.slots, last.first)
            else:
                out.append(span)
        return out

    def note(self, name: str, begin: float, clock: int, span: Span) -> None:
        """Add work on a span to the trace, if there is one."""
        if self.trace is not None:
            first, last = self._by_slot[span.lo], self._by_slot[span.hi - 1]
            if first.table == last.table:
                self.trace.add(name, begin, clock=clock, what=self.table(first.table).name, block=first.index,
                               blocks=span.hi - span.lo)
            else:
                self.trace.add(name, begin, clock=clock, what=f"{self.table(first.table).name} to {self.table(last.table).name}")

    def version(self, slot: int) -> int:
        """Published version of a block."""
        version: int = self.marks.item(slot, VERSION)
        return version

    def mark(self, span: Span, word: int, value: int) -> None:
        """Write one word of each block of a span."""
        at = self._marks + span.lo * BLOCK_WORDS
        if span.hi - span.lo == 1:
            self.marks[span.lo, word] = value
            self._transport.store(self.index, at + word, value)
        else:  # the words between are this server's too, and stay as they are
            self.marks[span.lo : span.hi, word] = value
            self._transport.stores(self.index, at, self.marks[span.lo : span.hi].reshape(-1))

    def tell(self, kept: Array, at: int, tables: Sequence[int], value: int) -> None:
        """Write a value into the words of some tables, ascending; `at` is the first table's of all, `kept` what stands in them."""
        lo, hi = tables[0], tables[-1] + 1
        if hi - lo == 1:
            kept[lo] = value
            self._transport.store(self.index, at + lo, value)
        else:  # the words between stay as they are
            kept[tables] = value
            self._transport.stores(self.index, at + lo, kept[lo:hi])

    def copy(self, span: Span, number: int) -> Array:
        """View of a span in copy 0 or 1."""
        return self._view(span, self._copies[number])

    def gradient(self, span: Span, worker: int, half: int) -> Array:
        """View of a span in a worker's mailbox half."""
        return self._view(span, self._halves[worker][half])

    def ring(self, worker: int, offset: int) -> Array:
        """Bytes of a worker's ring from `offset` on."""
        at = self._map.mailbox(worker, 0)
        return self._memory[at + offset : at + self._map.ring]

    def slots(self, span: Span) -> list[Array]:
        """Views of a span in the optimizer's slots, in the order of `Fold.names`."""
        if not span.slots:
            return []
        size = span.nbytes // span.dtype.itemsize
        return [slot[span.first : span.first + size] for slot in span.slots[: len(span.fold.names)]]

    def total(self, span: Span) -> Array:
        """View of a span in the sum of gradients, (n,) of the compute dtype, where pushes come through rings."""
        return span.slots[-1][span.first : span.first + span.nbytes // span.dtype.itemsize]

    def block(self, slot: int) -> Block:
        """Block by slot."""
        return self._by_slot[slot]

    def tables(self, clock: int) -> list[Table]:
        """The tables that belong to the cut of this clock."""
        return [self.table(number) for number, since in enumerate(self.since) if since < clock]

    def pieces(self, clock: int) -> list[Piece | RowShard]:
        """Everything that the checkpoint of this clock needs, as views: nothing may be folded while they are read."""
        out: list[Piece | RowShard] = []
        for number, blocks in enumerate(self.blocks):
            if self.since[number] >= clock:
                continue
            if number in self.rows:
                out.append(self.rows[number].shard())
                continue
            for block in blocks:
                span, version = self.spans[block.slot], self.version(block.slot)
                slots = dict(zip(span.fold.names, self.slots(span), strict=True))
                out.append(Piece(self.table(number), block.index, block.start, block.stop, version,
                                 self.copy(span, version & 1), slots))
        return out

    def table(self, number: int) -> Table:
        """Table by number."""
        return self._plan.layout.tables[number]

    def _view(self, span: Span, base: int) -> Array:
        key = base + span.start, base + span.stop
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._memory[key[0] : key[1]].view(span.dtype)
        return view


def _allocate(found: Sequence[tuple[Block, Fold | None]], rings: bool) -> list[tuple[Block, Fold | None, tuple[Array, ...], int]]:
    """Give neighbouring blocks with the same fold their slots in one piece of memory, so that they can be folded together.

    With `rings` there is one more, for the sum of gradients.
    """
    groups: list[list[tuple[Block, Fold]]] = []
    out: list[tuple[Block, Fold | None, tuple[Array, ...], int]] = []
    for block, fold in sorted(found, key=lambda pair: pair[0].slot):
        if fold is None:
            out.append((block, fold, (), 0))
            continue
        if groups:
            before, same = groups[-1][-1]
            end = before.offset + align((before.stop - before.start) * fold.itemsize)
        if groups and same is fold and before.slot + 1 == block.slot and end == block.offset:
            groups[-1].append((block, fold))
        else:
            groups.append([(block, fold)])
    for group in groups:
        first, last, fold = group[0][0], group[-1][0], group[0][1]
        size = (last.offset - first.offset) // fold.itemsize + last.stop - last.start
        slots = tuple(np.zeros(size, fold.dtype) for _ in range(len(fold.names) + rings))
        out += [(block, fold, slots, (block.offset - first.offset) // fold.itemsize) for block, fold in group]
    return sorted(out, key=lambda entry: entry[0].slot)
