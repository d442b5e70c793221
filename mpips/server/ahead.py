"""Folding ahead: blocks of a push that is still under way are folded as they arrive, so that transport and fold overlap.

A fold of block v writes the copy that nobody reads; only the version word publishes it. So it may be computed before the push
exists (COMMIT): if the push never does, or a clock turns out to have other pushes, the copy is computed again, and nobody has
seen anything. Only tables whose rule keeps no slots can do that, because slots are changed in place.

A worker tells each block that has arrived (ARRIVAL, after the block is complete), but first the stamps and then COMING, so that
who sees the number in COMING sees stamps that belong to it. Under staleness 0 the copy of clock c is written over only when every
worker is known to be past it: it has committed, is about to commit, or has completed the clock that is folded. A number is never
used for two pushes, also where the first of them failed.
"""

from __future__ import annotations

from mpips.layout import Block
from mpips.server.folding import Job, compute
from mpips.server.mailboxes import Mailboxes, Push
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan


class Ahead:
    """The folds of one server that have begun before their pushes exist."""

    def __init__(self, transport: Transport, plan: Plan, store: Store, mail: Mailboxes) -> None:
        self._transport = transport
        self._plan = plan
        self._store = store
        self._mail = mail
        self._jobs: dict[int, Job] = {}  # by table

    def propose(self, job: Job) -> None:
        """Fold this job as its blocks arrive; one that is the same as before goes on."""
        before = self._jobs.get(job.table)
        if before is None or not _same(before, job):
            job.todo = self._store.blocks[job.table][::-1]
            self._jobs[job.table] = job

    def drop(self, table: int) -> None:
        """Begin nothing more ahead in a table; what has been done may still be taken."""
        if table in self._jobs:
            self._jobs[table].todo = []

    def take(self, job: Job) -> set[int]:
        """Return the slots whose blocks are folded already for this job, which is begun now."""
        ahead = self._jobs.pop(job.table, None)
        return ahead.ready if ahead is not None and _same(ahead, job) else set()

    def step(self) -> bool:
        """Fold a block that has arrived, unpublished; return whether there was one."""
        for job in self._jobs.values():
            if job.todo and self._arrived(job.todo[-1], job.pushes):
                self._transport.sync()
                block = job.todo.pop()
                compute(self._transport, self._plan, self._store, job, block)
                job.ready.add(block.slot)
                return True
        return False

    def _arrived(self, block: Block, pushes: list[Push]) -> bool:
        t, words, me = self._transport, self._plan.words, self._store.index
        return all(push.number <= self._mail.commits[push.worker]
                   or t.load(me, words.arrival(push.worker, block.slot, push.half)) == push.number for push in pushes)


def _same(a: Job, b: Job) -> bool:
    return a.pushes == b.pushes and (a.clock, a.schedule, a.scale) == (b.clock, b.schedule, b.scale)
