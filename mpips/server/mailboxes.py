"""What has arrived: reads the workers' control words and keeps, for each table and worker, the committed pushes not yet folded.

Words are read against the order in which they were written. A worker writes data, stamps, commit, clock, end, each complete before
the next; so end is read first, then clock, commit, and the stamps last. A clock word that is seen therefore never runs ahead of
the pushes that belong to it. A SAVE word precedes the clock that it speaks of, so it is read after the clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from mpips.transport.base import Array, Transport
from mpips.transport.plan import Plan
from mpips.transport.words import CLIENT_WORDS as WORDS
from mpips.transport.words import CLOCK, COMMIT, END, NEVER, WORD


@dataclass(frozen=True)
class Push:
    """One table's part of a committed push."""

    worker: int
    number: int
    clock: int
    half: int
    void: bool


class Mailboxes:
    """The workers' progress as one server sees it.

    Attributes:
        clocks: (workers,) int64, clocks completed; `final` once a worker has ended.
        live: (workers,) bool.
        first, rows: each client's words, as read before and after the sync between clock and commit.
        heads: (tables, workers) int64, clock of the oldest push not yet folded, `NEVER` if there is none.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, clocks: Array) -> None:
        self._transport = transport
        self._plan = plan
        self._index = index
        self._commits = [0] * plan.workers
        self.clocks = clocks
        self.live = np.ones(plan.workers, bool)
        self.heads: Array = np.full((0, plan.workers), NEVER, np.int64)
        self.waiting: list[list[deque[Push]]] = []
        self.first: list[list[int]] = [[0] * WORDS for _ in range(plan.clients)]
        self.rows: list[list[int]] = [[0] * WORDS for _ in range(plan.clients)]
        self.grow()

    def grow(self) -> None:
        """Make room for tables that were added to the plan."""
        new = len(self._plan.layout.tables) - len(self.waiting)
        self.waiting += [[deque() for _ in range(self._plan.workers)] for _ in range(new)]
        self.heads = np.vstack([self.heads, np.full((new, self._plan.workers), NEVER, np.int64)])

    def scan(self) -> bool:
        """Look at every client's words; return whether anything was new."""
        t, me, words = self._transport, self._index, self._plan.words
        first = [t.row(me, words.client(k), WORDS) for k in range(self._plan.clients)]
        t.sync()
        rows = [t.row(me, words.client(k), WORDS) for k in range(self._plan.clients)]
        if first == self.first and rows == self.rows:
            return False
        self.first, self.rows = first, rows
        t.sync()
        for worker in range(self._plan.workers):
            if rows[worker][COMMIT] != self._commits[worker]:
                self._take(worker, rows[worker][COMMIT])
            end = first[worker][END]
            self.clocks[worker] = end - 1 if end else first[worker][CLOCK]
            self.live[worker] = not end
        return True

    def _take(self, worker: int, commit: int) -> None:
        """Queue the pushes of `worker` up to `commit`, in order; a stamp above it belongs to a push still under way."""
        tables = len(self.waiting)
        memory = self._transport.mapped(self._index)
        assert memory is not None
        at = self._plan.words.stamp(worker, 0, 0) * WORD
        stamps = memory[at : at + tables * 4 * WORD].view(np.int64).reshape(tables, 2, 2)
        numbers = stamps[:, :, 0]
        found = np.argwhere((numbers > self._commits[worker]) & (numbers <= commit))
        for table, half in sorted(found.tolist(), key=lambda cell: int(numbers[cell[0], cell[1]])):
            number, packed = int(stamps[table, half, 0]), int(stamps[table, half, 1])
            push = Push(worker, number, packed >> 1, half, bool(packed & 1))
            self.waiting[table][worker].append(push)
            if self.heads[table, worker] == NEVER:
                self.heads[table, worker] = push.clock
        self._commits[worker] = commit

    def pop(self, table: int, worker: int) -> Push:
        """Take the oldest push of a worker to a table."""
        queue = self.waiting[table][worker]
        push = queue.popleft()
        self.heads[table, worker] = queue[0].clock if queue else NEVER
        return push

    def commits(self, worker: int) -> int:
        """Last commit number seen of a worker."""
        return self._commits[worker]

    def reached(self) -> Array:
        """Clocks completed by each worker; one that has ended holds nobody back."""
        return np.where(self.live, self.clocks, NEVER)

    def horizon(self) -> int:
        """No clock from this one on can have a push: the furthest a live worker may push in, or an ended one has."""
        return int(np.max(self.clocks + self.live, initial=0))


