"""Folds of tables of rows: the pushes of one clock, or one push, change rows of a table batch by batch (`row_table`).

Under staleness 0 such a fold begins only when every worker has ended the clock: before that one could still read rows of it, and
there is no other copy. The words of the table's block on this server (BEGIN, VERSION) tell readers whether a fold is under way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from mpips.server.folding import Job
from mpips.server.logs import Logs
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BEGIN, TICK0, VERSION

log = logging.getLogger("mpips.server")


class RowFolds:
    """The folds of all tables of rows on one server."""

    def __init__(self, transport: Transport, plan: Plan, store: Store) -> None:
        self._transport = transport
        self._store = store
        self._logs = Logs(transport, plan, store.index, store.rows)
        self._counts = plan.words.counts
        for number in store.rows:
            self._count(number)

    def look(self, rows: Sequence[Sequence[int]]) -> bool:
        """Keep the workers' logs from being full; `rows` are the clients' words. Return whether that took anything."""
        return self._logs.step(rows)

    def fold(self, job: Job) -> int:
        """Fold the next batch of a job; return its bytes."""
        t, store, span, begin = self._transport, self._store, job.todo[-1], time.perf_counter()
        rows, version = store.rows[job.tables[0]], store.version(span.lo) + 1
        if job.batches is None:
            store.mark(span, BEGIN, version)
            t.sync()
            pushes = [push for push in job.pushes if not push.void]
            pieces = [self._logs.pieces(push.worker, push.number) for push in pushes]
            job.batches = rows.batches(t, pieces, [push.worker for push in pushes], job.clock)
        nbytes = rows.change(t, job.batches.popleft(), job.clock, job.schedule, job.scale) if job.batches else 0
        if not job.batches:
            job.todo.pop()
            store.mark(span, TICK0 + (version & 1), job.clock + 1)
            t.sync()
            store.mark(span, VERSION, version)
            t.sync()
            self._count(job.tables[0])
            for push in job.pushes:
                self._logs.done(push.worker, push.number)
        store.note("fold", begin, job.clock, span)
        return nbytes

    def _count(self, number: int) -> None:
        """Tell everybody what has happened to a table."""
        counts = np.array(list(self._store.rows[number].counts().values()), np.int64)
        self._transport.stores(self._store.index, self._counts(number), counts)

    def tell(self) -> None:
        """Write into the log what has happened to all tables."""
        for rows in self._store.rows.values():
            counts = ", ".join(f"{name} {count}" for name, count in rows.counts().items())
            log.info("server %d: table '%s': %s", self._store.index, rows.table.name, counts)
