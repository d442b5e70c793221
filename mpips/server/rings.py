"""Rings: pieces of pushes are added up as they arrive, because there is no room for whole ones (`mpips.worker.rings`).

For each block there is one sum, in the dtype that the rule computes in. A clock's gradients are added to it in worker order: a
piece of worker k stays in its ring until all workers before k have given theirs of these blocks, or can give none any more. So
the bits are those of whole mailboxes. A push of a later clock stays until the fold of this one is published. Nobody waits for a
worker that comes after it, in the order of clocks and then workers, and this order is the same on all servers: no deadlock.

But a push that is larger than its ring waits for the pushes of the workers before it: a program in which these wait for it
meanwhile, in a barrier that comes before their pushes of this clock and after its own, does not go on.

The sums are not what is published: a push exists only by its commit, and nothing is folded before all of them are there. But they
cannot be taken back, so a job with rings makes no promise about a worker that dies in the middle of a push: it ends.
"""

from __future__ import annotations

import numpy as np

from mpips.server.cohorts import Cohort, Push
from mpips.server.mailboxes import Mailboxes
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import HEAD, RECORD_WORDS, TAIL

SLICE = 4 << 20  # bytes added up before the mailboxes and MPI are looked at again


class Rings:
    """The rings of all workers on one server."""

    def __init__(self, transport: Transport, plan: Plan, store: Store, mail: Mailboxes) -> None:
        self._transport = transport
        self._plan = plan
        self._store = store
        self._mail = mail
        self._tails = [0] * plan.workers
        self._through = [0] * plan.workers  # number of the last push of which all pieces here have been added up
        self._given = np.zeros((plan.workers, plan.words.blocks), np.int64)  # clock + 1 of what each worker last gave to each block

    def step(self) -> bool:
        """Add up what may be; return whether there was anything."""
        left = SLICE
        for worker, row in enumerate(self._mail.rows[: self._plan.workers]):
            taken = 0
            while self._tails[worker] + taken < row[HEAD] and left > 0:
                nbytes = self._take(worker, self._tails[worker] + taken)
                if nbytes < 0:
                    break
                left -= nbytes
                taken += 1
            if taken:
                self._tails[worker] += taken
                self._transport.sync()  # read before it is free
                self._transport.store(self._store.index, self._plan.words.reply(worker) + TAIL, self._tails[worker])
        if left == SLICE:
            return False
        self._transport.sync()
        return True

    def through(self, cohort: Cohort, clock: int) -> bool:
        """Whether all that was pushed of a cohort in this clock, which is committed, has been added up."""
        return all(head != clock or queue[0].void or self._through[queue[0].worker] >= queue[0].number
                   for head, queue in zip(cohort.heads, cohort.waiting, strict=True))

    def _take(self, worker: int, count: int) -> int:
        """Add up one piece and return its bytes, -1 if it must wait."""
        store, words = self._store, self._plan.words
        number, clock, blocks, place = self._transport.row(store.index, words.record(worker, count), RECORD_WORDS)
        lo, hi = blocks >> 32, blocks & 0xFFFFFFFF
        cohorts = {self._mail.of[store.block(slot).table] for slot in range(lo, hi)}
        if not all(self._turn(cohort, worker, clock, lo, hi) for cohort in cohorts):
            return -1
        before = self._given[:worker, lo:hi] > clock
        more = before.any(axis=0)  # by block, whether there is a sum already
        memory = store.ring(worker, place >> 1)
        first = store.spans[lo].start
        with np.errstate(all="ignore"):  # as in a fold: sums may overflow, and between small blocks lies anything
            for again in (False, True):
                for span in store.joined([store.spans[slot] for slot in (lo + np.flatnonzero(more == again)).tolist()]):
                    total = store.total(span)
                    piece = memory[span.start - first : span.stop - first].view(span.dtype)
                    if again:
                        np.add(total, piece, out=total)
                    else:
                        np.copyto(total, piece)
        self._given[worker, lo:hi] = clock + 1
        if place & 1:
            self._through[worker] = number
        return store.spans[hi - 1].stop - first

    def _turn(self, cohort: Cohort, worker: int, clock: int, lo: int, hi: int) -> bool:
        """Whether all that comes before a piece of `worker`, in blocks `lo:hi` of a cohort, has been added up."""
        if cohort.floor != clock:
            return False
        reached = self._mail.reached
        for earlier in range(worker):
            if cohort.heads[earlier] == clock:
                push: Push = cohort.waiting[earlier][0]
                if not push.void and self._through[earlier] < push.number and not self._gave(earlier, clock, lo, hi):
                    return False
            elif reached[earlier] <= clock and not self._gave(earlier, clock, lo, hi):
                return False
        return True

    def _gave(self, worker: int, clock: int, lo: int, hi: int) -> bool:
        return bool((self._given[worker, lo:hi] > clock).all())
