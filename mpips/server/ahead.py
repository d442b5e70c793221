"""Folding ahead: blocks of a push that is still under way are folded as they arrive, so that transport and fold overlap.

A fold to version v writes the copy that nobody reads; only the version word publishes it. So it may be computed before the push
exists (COMMIT): if the push never does, or a clock turns out to have other pushes, the copy is computed again, and nobody has
seen anything. Only tables whose rule keeps no slots can do that, because slots are changed in place.

A worker tells each block that has arrived (ARRIVAL, after the block is complete), but first the stamps and then COMING, so that
who sees the number in COMING sees stamps that belong to it. Under staleness 0 a copy is written over only when no worker can
need it any more: each has committed its push of the clock that is folded, is about to, or has completed that clock. A number is
never used for two pushes, also where the first of them failed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from mpips.layout import repeatable
from mpips.server.cohorts import Cohort
from mpips.server.folding import Job, compute
from mpips.server.mailboxes import Mailboxes
from mpips.server.store import Span, Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan


@dataclass
class _Work:
    """A fold that has begun before its pushes exist; `chunks`, ascending, are those that it still waits for."""

    job: Job
    chunks: list[Span]


class Ahead:
    """The folds of one server that have begun before their pushes exist."""

    def __init__(self, transport: Transport, plan: Plan, store: Store, mail: Mailboxes) -> None:
        self._transport = transport
        self._plan = plan
        self._store = store
        self._mail = mail
        self._works: dict[Cohort, _Work] = {}

    def propose(self, job: Job) -> None:
        """Fold this job as its blocks arrive; one that is the same as before goes on."""
        cohort, store = job.cohorts[0], self._store
        before = self._works.get(cohort)
        if before is None or not _same(before.job, job):
            chunks = [chunk for chunk in store.chunks(cohort) if repeatable(store.table(store.block(chunk.lo).table))]
            self._works[cohort] = _Work(job, chunks)

    def drop(self, cohort: Cohort) -> None:
        """Begin nothing more ahead in a cohort; what has been done may still be taken."""
        if cohort in self._works:
            self._works[cohort].chunks = []

    def take(self, job: Job) -> set[int]:
        """Return the first slots of the chunks that are folded already for this job, which is begun now."""
        work = self._works.pop(job.cohorts[0], None)
        return work.job.ready if work is not None and _same(work.job, job) else set()

    def step(self) -> bool:
        """Fold some chunks that have arrived, unpublished; return whether there were any."""
        for cohort, work in self._works.items():
            if work.job.tables is not cohort.tables:  # split since: the others may have gone on
                work.chunks = []
            if work.chunks and (here := self._arrived(work)):
                self._fold(work, here)
                return True
        return False

    def _fold(self, work: _Work, chunks: list[Span]) -> None:
        """Fold the first of these chunks and those that follow it, as far as they fit into a span."""
        job, store = work.job, self._store
        span = store.joined(chunks[: store.together])[0]
        begin = time.perf_counter()
        job.ready.update([chunk.lo for chunk in chunks if chunk.lo < span.hi])
        work.chunks = [chunk for chunk in work.chunks if chunk.lo not in job.ready]
        compute(self._transport, store, job, span)
        store.note("fold ahead", begin, job.clock, span)

    def _arrived(self, work: _Work) -> list[Span]:
        """Chunks that have arrived from every worker, which need not write its tables in their order."""
        chunks, first = work.chunks, work.chunks[0].lo
        here = np.ones(chunks[-1].hi - first, bool)
        for push in work.job.pushes:
            if push.number > self._mail.commits[push.worker]:
                at = self._plan.words.arrival(push.worker, first, push.half)
                here &= self._transport.loads(self._store.index, at, len(here)) == push.number
        if len(here) == len(chunks):  # of one block each
            return [chunks[i] for i in np.flatnonzero(here).tolist()]
        missing = np.flatnonzero(~here) + first
        lows = np.searchsorted(missing, [chunk.lo for chunk in chunks])
        highs = np.searchsorted(missing, [chunk.hi for chunk in chunks])
        return [chunks[i] for i in np.flatnonzero(lows == highs).tolist()]


def _same(a: Job, b: Job) -> bool:
    return a.tables is b.tables and a.pushes == b.pushes and (a.clock, a.schedule, a.scale) == (b.clock, b.schedule, b.scale)
