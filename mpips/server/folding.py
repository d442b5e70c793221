"""Folds: the pushes of one clock (BSP), or one push (SSP, ASP), change a table block by block.

The order of one block's fold is the protocol's heart: begin-mark, sync, data and tick, sync, version, sync. A reader that has read
copy v % 2 between two looks at the words may keep it if the begin-mark is at most v + 1, because only fold v + 2 writes that copy
again. After the last block: floor, sync, acknowledgement; so a worker that sees its acknowledgement sees its update.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mpips.layout import Block
from mpips.server.mailboxes import Push
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BEGIN, TICK0, VERSION


@dataclass
class Job:
    """One update of one table on this server, and the blocks it still has to do."""

    table: int
    clock: int  # that the update belongs to
    schedule: int  # clock at which the learning rate is taken
    pushes: list[Push]  # in worker order; void ones count as zero
    scale: float
    todo: list[Block]
    ready: set[int] = field(default_factory=set)  # slots of blocks that are computed already, see `ahead`


def fold_block(transport: Transport, plan: Plan, store: Store, job: Job) -> int:
    """Fold the next block of `job` and publish it; return its bytes."""
    block = job.todo.pop()
    me, at = store.index, plan.words.block(block.slot)
    if block.slot not in job.ready:
        compute(transport, plan, store, job, block)
    version = transport.load(me, at + VERSION) + 1
    transport.store(me, at + TICK0 + (version & 1), job.clock + 1)
    transport.sync()
    transport.store(me, at + VERSION, version)
    transport.sync()
    return 0 if block.slot in job.ready else (block.stop - block.start) * store.table(job.table).np_dtype.itemsize


def compute(transport: Transport, plan: Plan, store: Store, job: Job, block: Block) -> None:
    """Write the next version of a block to the copy that is not the published one."""
    me, at = store.index, plan.words.block(block.slot)
    version = transport.load(me, at + VERSION)
    transport.store(me, at + BEGIN, version + 1)
    transport.sync()
    gradients = [store.gradient(block, p.worker, p.half) for p in job.pushes if not p.void]
    store.folds[job.table](store.copy(block, version & 1), store.copy(block, (version + 1) & 1), store.slots[block.slot], gradients,
                           step=version + 1, clock=job.schedule, scale=job.scale)


def acknowledge(transport: Transport, plan: Plan, store: Store, jobs: list[Job]) -> None:
    """Tell the workers that the pushes of these folds are published and their mailbox halves free; after the floors."""
    for job in jobs:
        for push in job.pushes:
            transport.store(store.index, plan.words.ack(push.worker) + job.table, push.number)
    transport.sync()
