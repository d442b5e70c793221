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

from mpips.layout import in_parts
from mpips.server.cohorts import Cohort, Push
from mpips.server.folding import Job, compute
from mpips.server.mailboxes import Mailboxes
from mpips.server.store import Span, Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan

WINDOW = 8  # blocks that are looked at in turn: a worker need not write its tables in their order


class Ahead:
    """The folds of one server that have begun before their pushes exist."""

    def __init__(self, transport: Transport, plan: Plan, store: Store, mail: Mailboxes) -> None:
        self._transport = transport
        self._plan = plan
        self._store = store
        self._mail = mail
        self._jobs: dict[Cohort, Job] = {}

    def propose(self, job: Job) -> None:
        """Fold this job as its blocks arrive; one that is the same as before goes on."""
        cohort, before = job.cohorts[0], self._jobs.get(job.cohorts[0])
        if before is None or not _same(before, job):
            told = [b.slot for table in job.tables if in_parts(self._store.table(table)) for b in self._store.blocks[table]]
            job.todo = [self._store.spans[slot] for slot in told]
            self._jobs[cohort] = job

    def drop(self, cohort: Cohort) -> None:
        """Begin nothing more ahead in a cohort; what has been done may still be taken."""
        if cohort in self._jobs:
            self._jobs[cohort].todo = []

    def take(self, job: Job) -> set[int]:
        """Return the slots whose blocks are folded already for this job, which is begun now."""
        ahead = self._jobs.pop(job.cohorts[0], None)
        return ahead.ready if ahead is not None and _same(ahead, job) else set()

    def step(self) -> bool:
        """Fold a block that has arrived, unpublished; return whether there was one."""
        for cohort, job in self._jobs.items():
            if job.tables is not cohort.tables:  # split since: the others may have gone on
                job.todo = []
            for i, span in enumerate(job.todo):
                if self._arrived(span, job.pushes):
                    self._fold(job, i)
                    return True
                if i == WINDOW:
                    break
        return False

    def _fold(self, job: Job, i: int) -> None:
        """Fold the block at `i` and those that follow it, as far as they have arrived and fit into a span."""
        stop = i + 1
        while stop < min(i + self._store.together, len(job.todo)) and self._arrived(job.todo[stop], job.pushes):
            stop += 1
        span = self._store.joined([one.lo for one in job.todo[i:stop]])[0]
        self._transport.sync()
        begin = time.perf_counter()
        del job.todo[i : i + span.hi - span.lo]
        compute(self._transport, self._store, job, span)
        job.ready.update(range(span.lo, span.hi))
        self._store.note("fold ahead", begin, job.clock, span)

    def _arrived(self, span: Span, pushes: list[Push]) -> bool:
        t, words, me = self._transport, self._plan.words, self._store.index
        return all(push.number <= self._mail.commits[push.worker]
                   or t.load(me, words.arrival(push.worker, span.lo, push.half)) == push.number for push in pushes)


def _same(a: Job, b: Job) -> bool:
    return a.tables is b.tables and a.pushes == b.pushes and (a.clock, a.schedule, a.scale) == (b.clock, b.schedule, b.scale)
