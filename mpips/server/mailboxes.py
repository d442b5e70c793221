"""What has arrived: reads the workers' control words and keeps, for each table and worker, the committed pushes not yet folded.

Words are read against the order in which they were written. A worker writes data, stamps, commit, clock, end, each complete before
the next; so end is read first, then clock, commit, and the stamps last. A clock word that is seen therefore never runs ahead of
the pushes that belong to it. A SAVE word precedes the clock that it speaks of, so it is read after the clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import CLIENT_WORDS as WORDS
from mpips.transport.words import CLOCK, COMING, COMMIT, END, NEVER, WORD

FEW = 32  # tables; so many are looked at faster without NumPy


@dataclass(frozen=True, slots=True)
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
        clocks: clocks completed, by worker; `final` once it has ended.
        live: whether it has not ended, by worker.
        heads: for each table, by worker, the clock of the oldest push not yet folded; `NEVER` if there is none.
        first, rows: each client's words, as read before and after the sync between clock and commit.
        touched: tables that have got a push since the caller last cleared it.
        commits: number of the last committed push, by worker.
        coming: pushes that are still under way, by worker and table.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, clocks: Sequence[int]) -> None:
        self._transport = transport
        self._plan = plan
        self._index = index
        self.commits = [0] * plan.workers
        self.coming: list[dict[int, Push]] = [{} for _ in range(plan.workers)]
        self._at = [plan.words.client(k) for k in range(plan.clients)]
        self.clocks = list(clocks)
        self.live = [True] * plan.workers
        self.heads: list[list[int]] = []
        self.waiting: list[list[deque[Push]]] = []
        self.first: list[list[int]] = [[0] * WORDS for _ in range(plan.clients)]
        self.rows: list[list[int]] = [[0] * WORDS for _ in range(plan.clients)]
        self.touched: set[int] = set()
        self.grow()

    def grow(self) -> None:
        """Make room for tables that were added to the plan."""
        for _ in range(len(self._plan.layout.tables) - len(self.waiting)):
            self.waiting.append([deque() for _ in range(self._plan.workers)])
            self.heads.append([NEVER] * self._plan.workers)

    def scan(self) -> tuple[bool, bool]:
        """Look at every client's words; return whether anything was new, and whether that was a clock or an end."""
        t, me = self._transport, self._index
        t.sync()
        first = [t.row(me, at, WORDS) for at in self._at]
        if first == self.rows == self.first:
            return False, False
        t.sync()
        rows = [t.row(me, at, WORDS) for at in self._at]
        self.first, self.rows = first, rows
        t.sync()
        moved = False
        for worker in range(self._plan.workers):
            row = rows[worker]
            if row[COMMIT] != self.commits[worker]:
                self._take(worker, row[COMMIT])
            if row[COMING] > row[COMMIT]:
                self.coming[worker] = {table: push for table, push in self._stamped(worker, row[COMING] - 1, row[COMING])}
            elif self.coming[worker]:
                self.coming[worker] = {}
            end = first[worker][END]
            clock = end - 1 if end else max(first[worker][CLOCK], self.clocks[worker])  # a resumed worker's is 0 at first
            if clock != self.clocks[worker] or self.live[worker] == bool(end):
                self.clocks[worker], self.live[worker], moved = clock, not end, True
        return True, moved

    def _take(self, worker: int, commit: int) -> None:
        """Queue the pushes of `worker` up to `commit`, in order; a stamp above it belongs to a push still under way."""
        for table, push in self._stamped(worker, self.commits[worker], commit):
            self.waiting[table][worker].append(push)
            self.touched.add(table)
            if self.heads[table][worker] == NEVER:
                self.heads[table][worker] = push.clock
        self.commits[worker] = commit

    def _stamped(self, worker: int, seen: int, last: int) -> list[tuple[int, Push]]:
        """Tables and pushes of `worker` whose numbers are beyond `seen`, up to `last`, in order."""
        tables = len(self.waiting)
        memory = self._transport.mapped(self._index)
        assert memory is not None
        at = self._plan.words.stamp(worker, 0, 0) * WORD
        stamps = memory[at : at + tables * 4 * WORD].view(np.int64).reshape(-1, 2)  # number, packed; by table and half
        if tables <= FEW:
            cells = [(n, i, p) for i, (n, p) in enumerate(stamps.tolist()) if seen < n <= last]
        else:
            numbers = stamps[:, 0]
            found = np.flatnonzero((numbers > seen) & (numbers <= last))
            cells = list(zip(numbers[found].tolist(), found.tolist(), stamps[found, 1].tolist(), strict=True))
        cells.sort()
        return [(cell >> 1, Push(worker, number, packed >> 1, cell & 1, bool(packed & 1))) for number, cell, packed in cells]

    def pop(self, table: int, worker: int) -> None:
        """Drop the oldest push of a worker to a table: it is published."""
        queue = self.waiting[table][worker]
        queue.popleft()
        self.heads[table][worker] = queue[0].clock if queue else NEVER

    @property
    def quiet(self) -> bool:
        """Whether every push has been folded."""
        return not any(queue for queues in self.waiting for queue in queues)

    def ended(self) -> bool:
        """Whether no worker lives."""
        return not any(self.live)

    def slowest(self) -> int:
        """Smallest clock of the live workers; `NEVER` if there is none."""
        return min((c for c, live in zip(self.clocks, self.live, strict=True) if live), default=NEVER)

    def reached(self) -> list[int]:
        """Clocks completed, by worker; one that has ended holds nobody back."""
        return [c if live else NEVER for c, live in zip(self.clocks, self.live, strict=True)]

    def horizon(self) -> int:
        """No clock from this one on can have a push: the furthest a live worker may push in, or an ended one has."""
        return max((c + live for c, live in zip(self.clocks, self.live, strict=True)), default=0)
