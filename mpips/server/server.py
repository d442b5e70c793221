"""The server: one loop that looks at the mailboxes, folds what has arrived, publishes, and takes checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpips.server.catalogue import Catalogue
from mpips.server.cuts import Cuts
from mpips.server.folding import Job, acknowledge, fold_block
from mpips.server.mailboxes import Mailboxes
from mpips.server.saving import Restored, Saver
from mpips.server.store import Store
from mpips.transport.base import Array, Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BARRIER, BARRIER_FLOOR, DONE, END, HELD, HOLD, NEVER

SLICE = 2 << 20  # bytes folded before the mailboxes and MPI are looked at again


class Server:
    """Server number `index`. It executes nothing for a pull; `step` does a little of everything else.

    Args:
        clocks: clock at which each worker starts.
        saver: writes checkpoints, or None; `every` is in clocks.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, *, seed: int = 0, engine: str = "auto",
                 clocks: Sequence[int] = (), saver: Saver | None = None, every: int | None = None, at_end: bool = False,
                 restored: Restored | None = None) -> None:
        self.index = index
        self._transport = transport
        self._plan = plan
        self._store = Store(transport, plan, index, seed=seed, engine=engine, restored=restored)
        started = np.array(clocks if len(clocks) else [0] * plan.workers, np.int64)
        self._mail = Mailboxes(transport, plan, index, started)
        self._cuts = Cuts(transport, plan, self._store, self._mail, saver, every=every, at_end=at_end)
        self._catalogue = Catalogue(transport, plan, index)
        self._restored = restored
        self._jobs: list[Job] = []
        self._held: dict[int, int] = {}  # client -> table
        self._done = False
        self._grow()

    def _grow(self) -> None:
        """Take the plan's tables into the arrays that go by table."""
        tables = self._plan.layout.tables
        t, words = self._transport, self._plan.words
        self._floors: Array = t.loads(self.index, words.floor, len(tables))
        self._lockstep = np.array([table.staleness == 0 for table in tables], bool)
        self._busy = np.zeros(len(tables), bool)
        for job in self._jobs:
            self._busy[job.table] = True
        self._mail.grow()
        t.sync()

    def step(self) -> bool:
        """Do a slice of work; return whether there was any."""
        if self._mail.scan():
            self._cuts.look()
            self._answer_words()
            news = True
        else:
            news = False
        new = self._catalogue.grow()
        if new:
            for number in new:
                self._store.add(number, self._saved(number))
                self._transport.store(self.index, self._plan.words.floor + number, self._start_clock())
            self._grow()
            self._catalogue.announce()
        if news or new:
            self._advance()
        worked = self._work()
        cut = self._cuts.step(self._floors, not self._jobs and bool((self._mail.heads == NEVER).all()))
        if cut:
            self._advance()  # a cut that is taken lets folds go on
        return news or bool(new) or worked or cut or self._finish()

    @property
    def finished(self) -> bool:
        """Whether every client has ended and everything is published and saved."""
        return self._done and self._cuts.idle and all(row[END] for row in self._mail.rows[self._plan.workers :])

    def _saved(self, number: int) -> Restored | None:
        """The checkpoint that this run began from, if it holds a table that is created now."""
        table = self._plan.layout.tables[number]
        if self._restored is None or table.name not in self._restored.tables:
            return None
        self._restored.check([table], more=True)
        return self._restored

    def _start_clock(self) -> int:
        """Floor of a table created now: no clock before the slowest worker's can have a push of it."""
        return int(self._mail.clocks.min(initial=NEVER))

    def _answer_words(self) -> None:
        """Barriers, holds and requests for tables."""
        t, words, rows = self._transport, self._plan.words, self._mail.rows
        count = min((rows[w][BARRIER] for w in range(self._plan.workers) if self._mail.live[w]), default=NEVER)
        t.store(self.index, BARRIER_FLOOR, count)
        self._catalogue.answer(rows)
        for client, row in enumerate(rows):
            hold = row[HOLD]
            table = (hold & 0xFFFFFFFF) - 1
            if table < 0:
                self._held.pop(client, None)
            elif table < self._busy.size and client not in self._held and not self._busy[table]:
                self._held[client] = table
                t.store(self.index, words.reply(client) + HELD, hold)

    def _advance(self) -> None:
        """Raise floors over clocks in which nobody pushed, and start the folds that are due."""
        mail, floors = self._mail, self._floors
        reached, heads = mail.reached(), mail.heads
        before = floors.copy()
        behind = np.minimum(reached, heads).min(axis=1, initial=NEVER)  # no worker has anything to say before this clock
        idle = ~self._busy
        ceiling = np.where(self._lockstep, min(mail.horizon(), self._cuts.limit), int(mail.clocks.max(initial=0)))
        rise = idle & (behind > floors)
        floors[rise] = np.maximum(floors, np.minimum(behind, ceiling))[rise]
        mine = heads == floors[:, None]
        ready = ((reached > floors[:, None]) | mine).all(axis=1) & mine.any(axis=1) & (floors < ceiling)
        due = np.where(self._lockstep, ready, (heads < NEVER).any(axis=1)) & idle
        for table in np.flatnonzero(due).tolist():
            if table not in self._held.values():
                self._start(table)
        self._publish_floors(before)

    def _start(self, table: int) -> None:
        """Begin the fold of the next clock (BSP) or of the oldest push (SSP, ASP) of a table."""
        mail = self._mail
        scale = 1.0
        if self._lockstep[table]:
            clock = schedule = int(self._floors[table])
            pushes = [mail.waiting[table][int(w)][0] for w in np.flatnonzero(mail.heads[table] == clock)]
            if self._store.table(table).combine == "mean":
                scale = 1.0 / int(np.sum(mail.live | (mail.clocks > clock)))
        else:
            worker = int(np.argmin(mail.heads[table]))
            pushes = [mail.waiting[table][worker][0]]
            clock = pushes[0].clock
            schedule = int(mail.clocks[mail.live].min()) if mail.live.any() else clock
        changes = any(not p.void for p in pushes)  # a clock in which every push was void changes nothing
        todo = self._store.blocks[table][::-1] if changes else []
        self._busy[table] = True
        self._jobs.append(Job(table, clock, schedule, pushes, scale, list(todo)))

    def _work(self) -> bool:
        """Fold blocks of the running jobs, in turn, until a slice is done."""
        if not self._jobs:
            return False
        left, ended = SLICE, False
        while self._jobs and left > 0:
            job = self._jobs.pop(0)
            if job.todo:
                left -= max(fold_block(self._transport, self._plan, self._store, job), 1024)
            if job.todo:
                self._jobs.append(job)
            else:
                self._end(job)
                ended = True
        if ended:
            self._answer_words()
            self._advance()
        return True

    def _end(self, job: Job) -> None:
        before = self._floors.copy()
        for push in job.pushes:
            self._mail.pop(job.table, push.worker)
        self._busy[job.table] = False
        if self._lockstep[job.table]:
            self._floors[job.table] = job.clock + 1
        self._publish_floors(before)
        acknowledge(self._transport, self._plan, self._store, job.pushes, job.table)

    def _publish_floors(self, before: Array) -> None:
        changed = np.flatnonzero(self._floors != before)
        if changed.size:
            lo, hi = int(changed[0]), int(changed[-1]) + 1
            self._transport.sync()
            self._transport.stores(self.index, self._plan.words.floor + lo, self._floors[lo:hi])
            self._transport.sync()

    def _finish(self) -> bool:
        """Say that all is published, once every worker has ended."""
        if self._done or self._mail.live.any() or self._jobs or (self._mail.heads < NEVER).any() or not self._cuts.idle:
            return False
        self._done = True
        self._transport.store(self.index, DONE, 1)
        self._transport.sync()
        return True
