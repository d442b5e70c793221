"""The memory of one server: two published copies and the mailboxes in the window, optimizer slots beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpips.layout import Block
from mpips.optim import Fold
from mpips.server.saving import Array, Piece, Restored
from mpips.table import Dense
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BEGIN, NEVER, TICK0, TICK1, VERSION


class Store:
    """Blocks of server `index`: views into its window, and slots.

    Args:
        engine: what runs the fused pass, see `mpips.optim.Fold`.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, *, seed: int, engine: str = "auto",
                 restored: Restored | None = None) -> None:
        memory = transport.mapped(index)
        assert memory is not None, "a server has its own window mapped"
        memory[: plan.maps[index].copy(0)] = 0  # windows of one process come from malloc (Open MPI): not zero
        self._memory = memory
        self._transport = transport
        self._plan = plan
        self._map = plan.maps[index]
        self.index = index
        self.seed = seed
        self.engine = engine
        self.folds: list[Fold] = []  # by table
        self.blocks: list[list[Block]] = []  # by table, those of this server
        self.since: list[int] = []  # by table, the clock in which it was created, see `catalogue`; -1 at start
        self._views: dict[int, Array] = {}  # by offset in the window: a fold asks for the same ones again and again
        self.slots: dict[int, list[Array]] = {}  # by block slot, in the order of Fold.names
        for number in range(len(plan.layout.tables)):
            self.add(number, restored)

    def add(self, number: int, restored: Restored | None = None, since: int = -1) -> None:
        """Create the blocks of table `number`, which the plan holds already, and publish their first values as version 0."""
        table = self._plan.layout.tables[number]
        fold = Fold(table.optimizer, table, engine=self.engine)
        mine = [b for run in self._plan.layout.runs[number] if run.server == self.index for b in run.blocks]
        self.folds.append(fold)
        self.blocks.append(mine)
        self.since.append(since)
        clock = max(restored.clocks, default=0) if restored else 0
        for block in mine:
            copies = (self.copy(block, 0), self.copy(block, 1))
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
            copies[version & 1][:] = values.astype(table.np_dtype, copy=False)
            self.slots[block.slot] = [np.ascontiguousarray(slots[name]) for name in fold.names]
            at = self._plan.words.block(block.slot)
            self._transport.store(self.index, at + VERSION, version)
            self._transport.store(self.index, at + BEGIN, version)
            self._transport.store(self.index, at + TICK0 + (version & 1), 0)
            self._transport.store(self.index, at + TICK1 - (version & 1), NEVER)
        self._transport.store(self.index, self._plan.words.floor + number, clock)

    def version(self, block: Block) -> int:
        """Published version of a block."""
        return self._transport.load(self.index, self._plan.words.block(block.slot) + VERSION)

    def copy(self, block: Block, number: int) -> Array:
        """View of a block in copy 0 or 1."""
        return self._view(block, self._map.copy(number))

    def gradient(self, block: Block, worker: int, half: int) -> Array:
        """View of a block in a worker's mailbox half."""
        return self._view(block, self._map.mailbox(worker, half))

    def tables(self, clock: int) -> list[Dense]:
        """The tables that belong to the cut of this clock."""
        return [self.table(number) for number, since in enumerate(self.since) if since < clock]

    def pieces(self, clock: int) -> Sequence[Piece]:
        """Everything that the checkpoint of this clock needs, as views: nothing may be folded while they are read."""
        out = []
        for number, blocks in enumerate(self.blocks):
            for block in blocks if self.since[number] < clock else ():
                version = self.version(block)
                slots = dict(zip(self.folds[number].names, self.slots[block.slot], strict=True))
                out.append(Piece(self.table(number), block.index, block.start, block.stop, version,
                                 self.copy(block, version & 1), slots))
        return out

    def table(self, number: int) -> Dense:
        """Table by number."""
        return self._plan.layout.tables[number]

    def _view(self, block: Block, base: int) -> Array:
        at = base + block.offset
        view = self._views.get(at)
        if view is None:
            dtype: np.dtype[Any] = self.table(block.table).np_dtype
            view = self._views[at] = self._memory[at : at + (block.stop - block.start) * dtype.itemsize].view(dtype)
        return view
