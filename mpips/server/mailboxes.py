"""What has arrived: reads the workers' control words and hands each committed push to the cohort that it changes.

Words are read against the order in which they were written. A worker writes stamps, data, commit, clock, end, each complete before
the next; so where a worker's words have changed, end and clock are taken as they were read first, the commit is read again after
them, and the stamps are read last. A clock that is taken therefore never runs ahead of the pushes that belong to it. A SAVE word
precedes the clock that it speaks of, so it is read after the clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from mpips.server.cohorts import Cohort, Push
from mpips.table import Rows
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import CLIENT_WORDS as WORDS
from mpips.transport.words import CLOCK, COMING, COMMIT, END, NEVER, WORD

FEW = 32  # tables; so many are looked at faster without NumPy


class Mailboxes:
    """The workers' progress as one server sees it.

    Attributes:
        clocks: clocks completed, by worker; `final` once it has ended.
        live: whether it has not ended, by worker.
        cohorts: of all tables; `of` gives each table's.
        rows: each client's words as the last scan read them, COMMIT and COMING last.
        touched: cohorts that have got a push since the caller last cleared it.
        commits: number of the last committed push, by worker.
        furthest, slowest: largest clock of all, and smallest of the live workers, `NEVER` if there is none.
        reached: clocks completed, by worker; one that has ended holds nobody back.
        horizon: no clock from this one on can have a push: the furthest a live worker may push in, or an ended one has.
        coming: pushes that are still under way, by worker and cohort.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, clocks: Sequence[int]) -> None:
        self._transport = transport
        self._plan = plan
        self._index = index
        self._at = [plan.words.client(k) for k in range(plan.clients)]
        self.commits = [0] * plan.workers
        self.coming: list[dict[Cohort, Push]] = [{} for _ in range(plan.workers)]
        self.clocks = list(clocks)
        self.live = [True] * plan.workers
        self.cohorts: list[Cohort] = []
        self.of: list[Cohort] = []
        self._here = np.zeros(0, bool)  # by table and half, whether this server has a block of the table
        self.rows: list[list[int]] = [[0] * WORDS for _ in range(plan.clients)]
        self.touched: list[Cohort] = []
        self._count()

    def grow(self, floors: Sequence[int]) -> None:
        """Take in tables that were added to the plan; `floors` of all tables."""
        layout, known = self._plan.layout, len(self.of)
        new: dict[tuple[bool, bool, bool, int, int], list[int]] = {}
        for number in range(known, len(layout.tables)):
            table, here = layout.tables[number], any(run.server == self._index for run in layout.runs[number])
            self._here = np.append(self._here, [here, here])
            alone = number if isinstance(table, Rows) else -1
            kind = table.staleness == 0, table.combine == "mean", here, alone, int(floors[number])
            new.setdefault(kind, []).append(number)
        self.of += [Cohort([], False, False, False, 0, [])] * (len(layout.tables) - known)
        for (lockstep, mean, _, alone, floor), tables in new.items():
            self._enter(Cohort(tables, lockstep, mean, alone >= 0, floor, [deque() for _ in range(self._plan.workers)]))

    def _enter(self, cohort: Cohort) -> Cohort:
        self.cohorts.append(cohort)
        for table in cohort.tables:
            self.of[table] = cohort
        return cohort

    def scan(self) -> tuple[bool, bool]:
        """Look at every client's words; return whether anything was new, and whether that was a clock or an end."""
        t, me = self._transport, self._index
        t.sync()
        rows, before = [t.row(me, at, WORDS) for at in self._at], self.rows
        if rows == before:
            return False, False
        self.rows = rows
        t.sync()
        changed = [worker for worker in range(self._plan.workers) if rows[worker] != before[worker]]
        for worker in changed:
            for word in (COMMIT, COMING):
                rows[worker][word] = t.load(me, self._at[worker] + word)
        t.sync()
        moved = False
        for worker in changed:
            row = rows[worker]
            commit, coming = row[COMMIT], row[COMING]
            if commit != self.commits[worker]:
                self._take(worker, commit)
            if coming > commit:
                self.coming[worker] = self._under_way(worker, coming)
            elif self.coming[worker]:
                self.coming[worker] = {}
            end = row[END]
            clock = end - 1 if end else max(row[CLOCK], self.clocks[worker])  # a resumed worker's is 0 at first
            if clock != self.clocks[worker] or self.live[worker] == bool(end):
                self.clocks[worker], self.live[worker], moved = clock, not end, True
        if moved:
            self._count()
        return True, moved

    def _count(self) -> None:
        """Find out what follows from clocks and lives; a server asks for it again and again until one of them changes."""
        self.furthest, self.horizon, self.reached = max(self.clocks), 0, []
        for clock, live in zip(self.clocks, self.live, strict=True):
            self.reached.append(clock if live else NEVER)
            self.horizon = max(self.horizon, clock + live)
        self.slowest = min(self.reached)

    def _take(self, worker: int, commit: int) -> None:
        """Hand out the pushes of `worker` up to `commit`, in order; a stamp above it belongs to a push still under way."""
        for push, tables in self._stamped(worker, self.commits[worker], commit):
            for cohort, mine in self._by_cohort(tables):
                taker = cohort if len(mine) == len(cohort.tables) else self._enter(cohort.split(set(mine)))
                taker.add(push)
                self.touched.append(taker)
        self.commits[worker] = commit

    def _under_way(self, worker: int, number: int) -> dict[Cohort, Push]:
        """A push that is coming, where it is of whole cohorts."""
        return {cohort: push for push, tables in self._stamped(worker, number - 1, number)
                for cohort, mine in self._by_cohort(tables) if len(mine) == len(cohort.tables)}

    def _by_cohort(self, tables: list[int]) -> list[tuple[Cohort, list[int]]]:
        first = self.of[tables[0]]
        if first.tables == tables:
            return [(first, tables)]
        parts: dict[Cohort, list[int]] = {}
        for table in tables:
            parts.setdefault(self.of[table], []).append(table)
        return list(parts.items())

    def _stamped(self, worker: int, seen: int, last: int) -> list[tuple[Push, list[int]]]:
        """Pushes of `worker` whose numbers are beyond `seen`, up to `last`, in order; each with its tables, ascending.

        Of a table that has no block here a stamp may stand here, written along with those of its neighbours: it means nothing.
        """
        tables, at = len(self.of), self._plan.words.stamp(worker, 0, 0)
        if tables <= FEW:
            words, cells = self._transport.row(self._index, at, tables * 4), []
            for cell in range(tables * 2):
                if seen < words[2 * cell] <= last and self._here[cell]:
                    cells.append((words[2 * cell], cell, words[2 * cell + 1]))
        else:
            memory = self._transport.mapped(self._index)
            assert memory is not None
            stamps = memory[at * WORD : (at + tables * 4) * WORD].view(np.int64).reshape(-1, 2)  # number, packed; by table and half
            numbers = stamps[:, 0]
            found = np.flatnonzero((numbers > seen) & (numbers <= last) & self._here)
            cells = list(zip(numbers[found].tolist(), found.tolist(), stamps[found, 1].tolist(), strict=True))
        parts: dict[tuple[int, int, int], list[int]] = {}
        for number, cell, packed in cells:
            parts.setdefault((number, packed, cell & 1), []).append(cell >> 1)
        return [(Push(worker, number, packed >> 1, half, bool(packed & 1)), mine)
                for (number, packed, half), mine in sorted(parts.items())]

    @property
    def quiet(self) -> bool:
        """Whether every push has been folded."""
        return not any(queue for cohort in self.cohorts for queue in cohort.waiting)

    def ended(self) -> bool:
        """Whether no worker lives."""
        return self.slowest == NEVER
