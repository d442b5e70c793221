"""The server: one loop that looks at the mailboxes, folds what has arrived, publishes, and takes checkpoints."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from mpips.server.ahead import Ahead
from mpips.server.catalogue import Catalogue
from mpips.server.cuts import Cuts
from mpips.server.folding import Job, acknowledge, fold_block
from mpips.server.mailboxes import Mailboxes, Push
from mpips.server.saving import Restored, Saver
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BARRIER, BARRIER_FLOOR, DONE, END, HELD, HOLD, NEVER

SLICE = 2 << 20  # bytes folded before the mailboxes and MPI are looked at again
CALL = 64 << 10  # bytes that could be folded while a fold is called


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
        self._mail = Mailboxes(transport, plan, index, clocks if len(clocks) else [0] * plan.workers)
        self._cuts = Cuts(transport, plan, self._store, self._mail, saver, every=every, at_end=at_end)
        self._catalogue = Catalogue(transport, plan, index)
        self._ahead = Ahead(transport, plan, self._store, self._mail)
        self._restored = restored
        self._jobs: deque[Job] = deque()
        self._held: dict[int, tuple[int, int]] = {}  # client -> its HOLD word, table
        self._freed: list[int] = []  # tables that were held until now
        self._barrier = -1
        self._spare = plan.words.tables > len(plan.layout.tables)  # whether tables can be created later
        self._floors: list[int] = []
        self._raised: list[int] = []  # tables whose floor is higher than the one published
        self._lockstep: list[bool] = []
        self._busy: list[bool] = []  # a fold is under way
        self._done = False
        self._grow()

    def _grow(self) -> None:
        """Take the plan's tables into the arrays that go by table."""
        tables = self._plan.layout.tables
        floor, known = self._plan.words.floor, len(self._floors)
        self._floors += self._transport.row(self.index, floor + known, len(tables) - known)
        self._lockstep += [table.staleness == 0 for table in tables[known:]]
        self._busy += [False] * (len(tables) - known)
        self._mail.grow()
        self._transport.sync()

    def step(self) -> bool:
        """Do a slice of work; return whether there was any."""
        mail = self._mail
        self._cuts.notice()
        news, moved = mail.scan()
        if news:
            self._cuts.look()
            self._answer_words()
        new = self._catalogue.grow() if self._spare else []
        if new:
            self._create(new)
            self._answer_words()  # who asked for another table meanwhile
        if moved or new:
            self._advance(range(len(self._floors)))
        elif news:
            self._advance([*mail.touched, *self._freed])
        mail.touched.clear()
        self._freed.clear()
        if news and any(mail.coming):
            self._look_ahead()
        done = self._work() or self._ahead.step()
        if self._cuts.wanted and self._cuts.step(self._floors, not self._jobs and mail.quiet):
            self._advance(range(len(self._floors)))  # a cut that is taken lets folds go on
            done = True
        return news or bool(new) or done or self._finish()

    def _create(self, new: list[tuple[int, int]]) -> None:
        """Add tables that were created later."""
        for number, since in new:
            self._store.add(number, self._saved(number), since)
            self._transport.store(self.index, self._plan.words.floor + number, self._start_clock())
        self._grow()
        self._catalogue.announce()

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
        return self._mail.slowest() if not self._mail.ended() else max(self._mail.clocks, default=0)

    def _answer_words(self) -> None:
        """Barriers, holds and requests for tables."""
        rows = self._mail.rows
        count = min((rows[w][BARRIER] for w in range(self._plan.workers) if self._mail.live[w]), default=NEVER)
        if count != self._barrier:
            self._barrier = count
            self._transport.store(self.index, BARRIER_FLOOR, count)
        if self._spare:
            self._catalogue.answer(rows, self._mail.slowest())
        self._answer_holds()

    def _answer_holds(self) -> None:
        """Put the clients' holds in force where no fold is under way, and end those that were given up."""
        t, words = self._transport, self._plan.words
        for client, row in enumerate(self._mail.rows):
            hold = row[HOLD]
            if client in self._held and self._held[client][0] != hold:  # given up, maybe for another one already
                self._freed.append(self._held.pop(client)[1])
            table = (hold & 0xFFFFFFFF) - 1
            if 0 <= table < len(self._busy) and client not in self._held and not self._busy[table]:
                self._held[client] = hold, table
                t.store(self.index, words.reply(client) + HELD, hold)

    def _advance(self, tables: Iterable[int]) -> None:
        """Raise floors over clocks in which nobody pushed, and start the folds that are due, of some tables."""
        mail = self._mail
        reached, far = mail.reached(), max(mail.clocks, default=0)
        lowest, ceiling = min(reached, default=NEVER), min(mail.horizon(), self._cuts.limit)
        held = {table for _, table in self._held.values()}
        for table in tables:
            if self._busy[table]:
                continue
            heads, floor = mail.heads[table], self._floors[table]
            first = min(heads, default=NEVER)
            behind = min(lowest, first)  # nobody has anything to say before this clock
            top = ceiling if self._lockstep[table] else far
            if behind > floor and top > floor:
                floor = self._floors[table] = min(behind, top)
                self._raised.append(table)
            if self._lockstep[table]:
                due = first == floor < top and all(r > floor or h == floor for r, h in zip(reached, heads, strict=True))
            else:
                due = first < NEVER
            if due and table not in held:
                self._start(table)
        self._publish_floors()

    def _start(self, table: int) -> None:
        """Begin the fold of the next clock (BSP) or of the oldest push (SSP, ASP) of a table."""
        mail = self._mail
        heads = mail.heads[table]
        first = self._floors[table] if self._lockstep[table] else min(heads)
        pushes = [mail.waiting[table][w][0] for w, head in enumerate(heads) if head == first]
        job = self._job(table, pushes if self._lockstep[table] else pushes[:1])
        if any(not p.void for p in job.pushes):  # a clock in which every push was void changes nothing
            job.todo = self._store.blocks[table][::-1]
        job.ready = self._ahead.take(job)
        self._busy[table] = True
        self._jobs.append(job)

    def _job(self, table: int, pushes: list[Push]) -> Job:
        """The update that these pushes make, with nothing to do yet."""
        mail, clock, scale = self._mail, pushes[0].clock, 1.0
        if self._lockstep[table]:
            schedule = clock
            if self._store.table(table).combine == "mean":
                scale = 1.0 / sum(live or c > clock for c, live in zip(mail.clocks, mail.live, strict=True))
        else:
            schedule = clock if mail.ended() else mail.slowest()
        return Job(table, clock, schedule, pushes, scale, [])

    def _look_ahead(self) -> None:
        """Find the folds that would be due if every push that is coming were committed."""
        mail = self._mail
        held = {table for _, table in self._held.values()}
        for table in {table for coming in mail.coming for table in coming}:
            pushes = self._expected(table) if not self._busy[table] and table not in held else []
            if pushes:
                self._ahead.propose(self._job(table, pushes))
            else:
                self._ahead.drop(table)

    def _expected(self, table: int) -> list[Push]:
        """Pushes that the next fold of a table would take; none if some worker's is not even coming."""
        mail, pushes = self._mail, []
        heads, coming = mail.heads[table], [coming.get(table) for coming in mail.coming]
        if not self._lockstep[table]:
            return [push for push in coming if push][:1] if min(heads) == NEVER else []
        clock = self._floors[table]
        for worker, reached in enumerate(mail.reached()):
            push = mail.waiting[table][worker][0] if heads[worker] == clock else coming[worker]
            if push and push.clock == clock:
                pushes.append(push)
            elif reached <= clock:
                return []
        return pushes if clock < self._cuts.limit else []

    def _work(self) -> bool:
        """Fold blocks of the running jobs, in turn, until a slice is done."""
        if not self._jobs:
            return False
        left, ended = SLICE, []
        while self._jobs and left > 0:
            job = self._jobs.popleft()
            if job.todo:
                left -= fold_block(self._transport, self._plan, self._store, job) + CALL
            if job.todo:
                self._jobs.append(job)
            else:
                ended.append(job)
        if ended:
            self._end(ended)
        return True

    def _end(self, jobs: list[Job]) -> None:
        """Publish floors, then acknowledgements, of folds whose blocks are all published; begin what they let go on."""
        for job in jobs:
            for push in job.pushes:
                self._mail.pop(job.table, push.worker)
            self._busy[job.table] = False
            if self._lockstep[job.table]:
                self._floors[job.table] = job.clock + 1
                self._raised.append(job.table)
        self._publish_floors()
        acknowledge(self._transport, self._plan, self._store, jobs)
        self._answer_holds()
        self._advance([job.table for job in jobs])

    def _publish_floors(self) -> None:
        """Write the floors that were raised; their blocks were published before."""
        raised = self._raised
        if not raised:
            return
        t, at = self._transport, self._plan.words.floor
        t.sync()
        lo, hi = min(raised), max(raised) + 1
        if hi - lo == 1:
            t.store(self.index, at + lo, self._floors[lo])
        else:
            t.stores(self.index, at + lo, np.array(self._floors[lo:hi], np.int64))
        t.sync()
        self._raised = []

    def _finish(self) -> bool:
        """Say that all is published, once every worker has ended."""
        if self._done or not self._mail.ended() or self._jobs or not self._mail.quiet or not self._cuts.idle:
            return False
        self._done = True
        self._transport.store(self.index, DONE, 1)
        self._transport.sync()
        return True
