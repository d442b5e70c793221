"""Logs: what workers push of rows, piece by piece, and what clients ask for (`mpips.worker.row_push`, `row_ask`).

A piece stays where the worker put it until its push is folded: then nothing is copied. Only where a log is nearly full its oldest
pieces are put aside, into memory of the server's own, whether their push is committed or not. So a worker never waits for anything
but this server, whatever it pushes and in whatever order the pushes can be folded. How much is put aside has a bound, because a
worker has two pushes of a table under way at most.

No piece means anything before its push is committed.

A question is answered when it is seen: between two batches of a fold, so no row is torn. What stands before it in the log is put
aside, because the place of the question is given back as the sign that it has been answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mpips.layout import align
from mpips.server.population import NOBODY
from mpips.table import Rows
from mpips.transport.base import Array, Transport
from mpips.transport.plan import ID, Plan, ids_bytes, piece_bytes
from mpips.transport.words import LOG_HEAD, LOG_TAIL, RECORD_WORDS, RECORDS

if TYPE_CHECKING:
    from mpips.server.row_table import RowTable


@dataclass(eq=False)
class Piece:
    """Some rows of a push.

    Attributes:
        ids: (n,) int64, where `values`, (n, dim), belong.
        slots: (n,) where the worker believes that they lie, -1 if it does not know, where ids come and go; else empty.
        nbytes: of the log, 0 once it stands there no more.
        done: whether it has been folded.
    """

    number: int
    ids: Array
    slots: Array
    values: Array
    nbytes: int
    done: bool = False


class Logs:
    """The logs of all workers on one server."""

    def __init__(self, transport: Transport, plan: Plan, index: int, tables: Mapping[int, RowTable]) -> None:
        memory = transport.mapped(index)
        assert memory is not None
        self._memory = memory
        self._transport = transport
        self._plan = plan
        self._map = plan.maps[index]
        self._index = index
        self._tables = tables
        self._heads = [0] * plan.clients  # pieces that this server knows of
        self._tails = [0] * plan.clients
        self._standing: list[deque[Piece]] = [deque() for _ in range(plan.clients)]  # in the log, oldest first
        self._pushes: list[dict[int, list[Piece]]] = [{} for _ in range(plan.clients)]  # by number, those that are not folded

    def step(self, rows: Sequence[Sequence[int]]) -> bool:
        """Answer questions, and put pieces aside where a log is nearly full; `rows` are the clients' words.

        Return whether there was anything to do.
        """
        busy = False
        for client, row in enumerate(rows):
            if row[LOG_HEAD] != self._heads[client]:
                busy = self._look(client) or busy
            standing = self._standing[client]
            while standing and (sum([piece.nbytes for piece in standing]) * 2 > self._map.log or len(standing) * 2 > RECORDS):
                self._put_aside(client, len(standing) // 2 + 1)
                busy = True
        return busy

    def _put_aside(self, client: int, count: int) -> None:
        """Take the oldest pieces out of a log, into memory of their own where they are still needed."""
        for piece in islice(self._standing[client], count):
            if not piece.done and piece.nbytes:
                piece.ids, piece.slots, piece.values = piece.ids.copy(), piece.slots.copy(), piece.values.copy()
            piece.nbytes = 0
        self._free(client)

    def pieces(self, worker: int, number: int) -> list[Piece]:
        """Pieces of a committed push; what they hold stays until `done`."""
        self._look(worker)
        return self._pushes[worker].get(number, [])

    def done(self, worker: int, number: int) -> None:
        """Forget a push that is folded."""
        for piece in self._pushes[worker].pop(number, ()):
            piece.done = True
        self._free(worker)

    def _look(self, worker: int) -> bool:
        """Take note of the pieces that stand whole in a log; return whether there were questions, which are answered."""
        t, words, me = self._transport, self._plan.words, self._index
        head = t.load(me, words.client(worker) + LOG_HEAD)
        if head == self._heads[worker]:
            return False
        asked = False
        t.sync()  # they stood there before the count did
        for count in range(self._heads[worker], head):
            number, clock, what, place = t.row(me, words.log(worker, count), RECORD_WORDS)
            table = self._plan.layout.tables[what >> 32]
            assert isinstance(table, Rows)
            rows, at = what & 0xFFFFFFFF, self._map.logs(worker) + (place >> 1)
            ids = self._memory[at : at + rows * ID].view(np.int64)
            if not number:
                asked = True
                self._answer(worker, self._tables[what >> 32], ids, clock, values=bool(place & 1))
                self._standing[worker].append(Piece(0, ids, ids, ids, align(rows * ID), done=True))
                continue
            size = ids_bytes(rows, table)
            slots = self._memory[at + ids.nbytes : at + size].view(np.int64)
            at += align(size)
            values = self._memory[at : at + rows * table.row_bytes].view(table.np_dtype).reshape(rows, table.dim)
            piece = Piece(number, ids, slots, values, piece_bytes(rows, table))
            self._standing[worker].append(piece)
            self._pushes[worker].setdefault(number, []).append(piece)
        self._heads[worker] = head
        if asked:
            self._put_aside(worker, len(self._standing[worker]))
        return asked

    def _answer(self, client: int, table: RowTable, ids: Array, at: int, *, values: bool) -> None:
        """Write the values of some rows, or where they lie, to a client's answers, `at` bytes from their beginning."""
        at += self._map.answers(client)
        if not values:
            self._memory[at : at + len(ids) * ID].view(np.int64)[:] = np.where(ids == NOBODY, -1, table.find(ids))
            return
        out = self._memory[at : at + len(ids) * table.table.row_bytes].view(table.values.dtype).reshape(len(ids), -1)
        table.read(ids, out)

    def _free(self, worker: int) -> None:
        """Give back the place of the oldest pieces, as far as they are done with."""
        standing, tail = self._standing[worker], self._tails[worker]
        while standing and (standing[0].done or not standing[0].nbytes):
            standing.popleft()
            tail += 1
        if tail != self._tails[worker]:
            self._tails[worker] = tail
            self._transport.sync()  # read before it is free
            self._transport.store(self._index, self._plan.words.reply(worker) + LOG_TAIL, tail)
            self._transport.sync()
