"""Folds: the pushes of one clock (BSP), or one push (SSP, ASP), change the tables of a cohort span by span.

The order of one fold of a block is the protocol's heart: begin-mark, sync, data and tick, sync, version, sync. A reader that has
read copy v % 2 between two looks at the words may keep it if the begin-mark is at most v + 1, because only fold v + 2 writes that
copy again. After the last block: floor, sync, acknowledgement; so a worker that sees its acknowledgement sees its update.

A span is a stretch of blocks that go through this together: one large block, or many small ones that lie side by side.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from mpips.server.cohorts import Cohort, Push
from mpips.server.row_table import Batch
from mpips.server.store import Span, Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BEGIN, TICK0, VERSION


@dataclass(eq=False)
class Job:
    """One update of the tables of a cohort on this server, and the spans it still has to do."""

    cohorts: list[Cohort]  # more than one if it was split since
    tables: list[int]
    clock: int  # that the update belongs to
    schedule: int  # clock at which the learning rate is taken
    pushes: list[Push]  # in worker order; void ones count as zero
    scale: float
    todo: list[Span]
    batches: deque[Batch] | None = None  # of a table of rows, see `rows`; None before it has begun
    ready: set[int] = field(default_factory=set)  # first slots of the chunks that are computed already, see `ahead`
    summed: bool = False  # whether the gradients have been added up already, see `rings`


def fold_span(transport: Transport, store: Store, job: Job) -> int:
    """Fold the next span of `job` and publish it; return its bytes."""
    span, begin = job.todo.pop(), time.perf_counter()
    done = span.lo in job.ready
    version = store.version(span.lo) + 1 if done else compute(transport, store, job, span)
    store.mark(span, TICK0 + (version & 1), job.clock + 1)
    transport.sync()
    store.mark(span, VERSION, version)
    transport.sync()
    store.note("publish" if done else "fold", begin, job.clock, span)
    return 0 if done else span.nbytes


def compute(transport: Transport, store: Store, job: Job, span: Span) -> int:
    """Write the next version of a span to the copy that is not the published one; return it."""
    version = store.version(span.lo)
    store.mark(span, BEGIN, version + 1)
    transport.sync()  # it also stands between the words that told of the gradients and the gradients
    if job.summed:
        gradients = [store.total(span)]
    else:
        gradients = [store.gradient(span, p.worker, p.half) for p in job.pushes if not p.void]
    span.fold(store.copy(span, version & 1), store.copy(span, (version + 1) & 1), store.slots(span), gradients,
              step=version + 1, clock=job.schedule, scale=job.scale)
    return version + 1


def acknowledge(transport: Transport, plan: Plan, store: Store, jobs: list[Job]) -> None:
    """Tell the workers that the pushes of these folds are published and their mailbox halves free; after the floors."""
    for job in jobs:
        for push in job.pushes:
            store.tell(store.acks[push.worker], plan.words.ack(push.worker), job.tables, push.number)
    transport.sync()


def raise_floors(transport: Transport, plan: Plan, store: Store, cohorts: list[Cohort]) -> None:
    """Publish the floors of these cohorts; their blocks were published before."""
    transport.sync()
    for cohort in cohorts:
        store.tell(store.floors, plan.words.floor, cohort.tables, cohort.floor)
    transport.sync()
