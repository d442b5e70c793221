"""The server: one loop that looks at the mailboxes, folds what has arrived, publishes, and takes checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpips.server.agenda import Agenda
from mpips.server.ahead import Ahead
from mpips.server.catalogue import Catalogue
from mpips.server.cohorts import Cohort, Push
from mpips.server.cuts import Cuts
from mpips.server.folding import Job, acknowledge, fold_span, raise_floors
from mpips.server.mailboxes import Mailboxes
from mpips.server.rings import Rings
from mpips.server.rows import RowFolds
from mpips.server.saving import Restored, Saver
from mpips.server.store import Span, Store
from mpips.trace import Trace
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import BARRIER, BARRIER_FLOOR, DONE, END, HELD, HOLD, NEVER

SLICE = 2 << 20  # bytes folded before the mailboxes and MPI are looked at again
CALL = 64 << 10  # bytes that could be folded while a fold is called


class Server:
    """Server number `index`. It executes nothing for a pull; `step` does a little of everything else.

    Args:
        engine: what folds, see `mpips.optim.Fold`; with so many threads.
        clocks: clock at which each worker starts.
        saver: writes checkpoints, or None; `every` is in clocks.
        trace: takes the spans of folds and checkpoints, or None.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, *, seed: int = 0, engine: str = "auto", threads: int = 1,
                 clocks: Sequence[int] = (), saver: Saver | None = None, every: int | None = None, at_end: bool = False,
                 restored: Restored | None = None, trace: Trace | None = None) -> None:
        self.index = index
        self._transport = transport
        self._plan = plan
        self._store = Store(transport, plan, index, seed=seed, engine=engine, threads=threads, restored=restored,
                            trace=trace)
        self._mail = Mailboxes(transport, plan, index, clocks if len(clocks) else [0] * plan.workers)
        self._cuts = Cuts(transport, plan, self._store, self._mail, saver, every=every, at_end=at_end)
        self._catalogue = Catalogue(transport, plan, index)
        self._ahead = Ahead(transport, plan, self._store, self._mail)
        self._rings = Rings(transport, plan, self._store, self._mail) if plan.rings else None
        self._rows = RowFolds(transport, plan, self._store) if plan.words.logs else None
        self._restored = restored  # kept open for tables that are created later: by then it may have been removed
        self._jobs = Agenda()
        self._holds = [0] * plan.clients  # HOLD words that are dealt with
        self._held: dict[int, int] = {}  # client -> table
        self._barrier = -1
        self._spare = plan.words.tables > len(plan.layout.tables)  # whether tables can be created later
        if restored is not None and not self._spare:
            restored.close()
        self._raised: list[Cohort] = []  # whose floor is higher than the one published
        self._done = False
        self._mail.grow(self._store.floors.tolist())
        transport.sync()

    def step(self) -> bool:
        """Do a slice of work; return whether there was any."""
        mail = self._mail
        if self._cuts.wanted:
            self._cuts.notice()
        news, moved = mail.scan()
        new = self._catalogue.grow() if self._spare else []
        if new:
            self._create(new)
        if news or new:
            if self._cuts.wanted:
                self._cuts.look()
            self._advance(mail.cohorts if moved or new else mail.touched)
            mail.touched = []
            if any(mail.coming):
                self._look_ahead()
        if self._rings is not None and self._rings.step():
            self._advance(mail.cohorts)
            news = True
        if self._rows is not None and self._rows.look(mail.rows):
            news = True
        done = self._work() or self._ahead.step()
        if news or new:
            self._answer_words()  # those who push and pull come first
        if self._cuts.wanted and self._cuts.step([cohort.floor for cohort in mail.cohorts], not self._jobs and mail.quiet):
            self._advance(mail.cohorts)  # a cut that is taken lets folds go on
            done = True
        return news or bool(new) or done or self._finish()

    def _create(self, new: list[tuple[int, int]]) -> None:
        """Add tables that were created later."""
        for number, since in new:
            self._store.make_room(number)
            self._store.add([number], self._saved(number), since)
            self._store.floors[number] = self._start_clock()
            self._transport.store(self.index, self._plan.words.floor + number, self._start_clock())
        self._mail.grow(self._store.floors.tolist())
        self._transport.sync()
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
        return self._mail.slowest if not self._mail.ended() else self._mail.furthest

    def _answer_words(self) -> None:
        """Barriers, holds and requests for tables."""
        rows = self._mail.rows
        count = min([row[BARRIER] for row, live in zip(rows, self._mail.live, strict=False) if live], default=NEVER)
        if count != self._barrier:
            self._barrier = count
            self._transport.store(self.index, BARRIER_FLOOR, count)
        if self._spare:
            self._catalogue.answer(rows, self._mail.slowest)
        self._answer_holds()

    def _answer_holds(self) -> None:
        """Put the clients' holds in force where no fold is under way, and end those that were given up."""
        mail, freed = self._mail, []
        holds = [row[HOLD] for row in mail.rows]
        if holds == self._holds:
            return
        for client, hold in enumerate(holds):
            if hold == self._holds[client]:
                continue
            if client in self._held:  # given up, maybe for another one already
                freed.append(mail.of[self._held.pop(client)])
            table = (hold & 0xFFFFFFFF) - 1
            if table < 0:
                self._holds[client] = hold
            elif table < len(mail.of) and mail.of[table].job is None:
                self._holds[client], self._held[client] = hold, table
                self._transport.store(self.index, self._plan.words.reply(client) + HELD, hold)
        if freed:
            self._advance(freed)

    def _advance(self, cohorts: Iterable[Cohort]) -> None:
        """Raise floors over clocks in which nobody pushed, and start the folds that are due, of some cohorts."""
        mail = self._mail
        reached, lowest, ceiling = mail.reached, mail.slowest, min(mail.horizon, self._cuts.limit)
        held = self._held_cohorts() if self._held else []
        for cohort in cohorts:
            if cohort.job is not None:
                continue
            heads, floor = cohort.heads, cohort.floor
            first = min(heads)
            behind = min(lowest, first)  # nobody has anything to say before this clock
            top = ceiling if cohort.lockstep else mail.furthest
            if behind > floor and top > floor:
                floor = cohort.floor = min(behind, top)
                self._raised.append(cohort)
            if cohort.lockstep:
                due = first == floor < top and all([r > floor or (h == floor and not cohort.rows)
                                                    for r, h in zip(reached, heads, strict=True)])
            else:
                due = first < NEVER
            if due and cohort not in held and (self._rings is None or cohort.rows or self._rings.through(cohort, first)):
                self._start(cohort)
        self._publish_floors()

    def _held_cohorts(self) -> list[Cohort]:
        return [self._mail.of[table] for table in self._held.values()]

    def _start(self, cohort: Cohort) -> None:
        """Begin the fold of the next clock (BSP) or of the oldest push (SSP, ASP) of a cohort."""
        first = cohort.floor if cohort.lockstep else min(cohort.heads)
        pushes = [queue[0] for queue, head in zip(cohort.waiting, cohort.heads, strict=True) if head == first]
        job = self._job(cohort, pushes if cohort.lockstep else pushes[:1])
        job.ready = self._ahead.take(job)
        if not all([p.void for p in job.pushes]):  # a clock in which every push was void changes nothing
            job.todo = self._spans(cohort, job.ready)
        cohort.job = job
        self._jobs.add(job)

    def _spans(self, cohort: Cohort, ready: set[int]) -> list[Span]:
        """What a fold of a cohort has to do, from the end; chunks in `ready` have only to be published, and come first."""
        store = self._store
        chunks = store.chunks(cohort)
        if ready:
            return (store.joined([chunk for chunk in chunks if chunk.lo not in ready])[::-1]
                    + store.joined([chunk for chunk in chunks if chunk.lo in ready])[::-1])
        if cohort.spans is None:
            cohort.spans = store.joined(chunks)[::-1]
        return cohort.spans.copy()

    def _job(self, cohort: Cohort, pushes: list[Push]) -> Job:
        """The update that these pushes make, with nothing to do yet."""
        mail, clock, scale = self._mail, pushes[0].clock, 1.0
        if cohort.lockstep:
            schedule = clock
            if cohort.mean:
                scale = 1.0 / sum(live or c > clock for c, live in zip(mail.clocks, mail.live, strict=True))
        else:
            schedule = clock if mail.ended() else mail.slowest
            if cohort.mean:
                scale = 1.0 / self._plan.workers
        return Job([cohort], cohort.tables, clock, schedule, pushes, scale, [], summed=self._rings is not None and not cohort.rows)

    def _look_ahead(self) -> None:
        """Find the folds that would be due if every push that is coming were committed."""
        mail, held = self._mail, self._held_cohorts()
        for cohort in {cohort: None for coming in mail.coming for cohort in coming}:
            pushes = self._expected(cohort) if cohort.job is None and cohort not in held else []
            if pushes:
                self._ahead.propose(self._job(cohort, pushes))
            else:
                self._ahead.drop(cohort)

    def _expected(self, cohort: Cohort) -> list[Push]:
        """Pushes that the next fold of a cohort would take; none if some worker's is not even coming."""
        mail, pushes = self._mail, []
        heads, coming = cohort.heads, [coming.get(cohort) for coming in mail.coming]
        if not cohort.lockstep:
            return [push for push in coming if push][:1] if min(heads) == NEVER else []
        clock = cohort.floor
        for worker, reached in enumerate(mail.reached):
            push = cohort.waiting[worker][0] if heads[worker] == clock else coming[worker]
            if push and push.clock == clock:
                pushes.append(push)
            elif reached <= clock:
                return []
        return pushes if clock < self._cuts.limit else []

    def _work(self) -> bool:
        """Fold spans of the running jobs, see `agenda`, until a slice is done."""
        left, ended = SLICE, []
        while left > 0 and (job := self._jobs.first()) is not None:
            left -= CALL
            if job.todo:
                if job.cohorts[0].rows:
                    assert self._rows is not None
                    left -= self._rows.fold(job)
                else:
                    left -= fold_span(self._transport, self._store, job)
            self._jobs.done(ended=not job.todo)
            if not job.todo:
                ended.append(job)
        if ended:
            self._end(ended)
        return left < SLICE

    def _end(self, jobs: list[Job]) -> None:
        """Publish floors, then acknowledgements, of folds whose blocks are all published; begin what they let go on."""
        cohorts = [cohort for job in jobs for cohort in job.cohorts]
        for job in jobs:
            for cohort in job.cohorts:
                for push in job.pushes:
                    cohort.pop(push.worker)
                cohort.job = None
                if cohort.lockstep:
                    cohort.floor = job.clock + 1
                    self._raised.append(cohort)
        self._publish_floors()
        acknowledge(self._transport, self._plan, self._store, jobs)
        self._answer_holds()
        self._advance(cohorts)

    def _publish_floors(self) -> None:
        if self._raised:
            raise_floors(self._transport, self._plan, self._store, self._raised)
            self._raised = []

    def _finish(self) -> bool:
        """Say that all is published, once every worker has ended."""
        if self._done or not self._mail.ended() or self._jobs or not self._mail.quiet or not self._cuts.idle:
            return False
        self._done = True
        if self._rows is not None:
            self._rows.tell()
        self._transport.store(self.index, DONE, 1)
        self._transport.sync()
        return True
