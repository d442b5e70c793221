"""Folds of tables of rows: the pushes of one clock, or one push, change rows of a table batch by batch (`row_table`).

Under staleness 0 such a fold begins only when every worker has ended the clock: before that one could still read rows of it, and
there is no other copy. The words of the table's block on this server (BEGIN, VERSION) tell readers whether a fold is under way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mpips.server.folding import Job
from mpips.server.logs import Logs
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BEGIN, TICK0, VERSION


class RowFolds:
    """The folds of all tables of rows on one server."""

    def __init__(self, transport: Transport, plan: Plan, store: Store) -> None:
        self._transport = transport
        self._store = store
        self._logs = Logs(transport, plan, store.index, store.rows)

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
            for push in job.pushes:
                self._logs.done(push.worker, push.number)
        store.note("fold", begin, job.clock, span)
        return nbytes
