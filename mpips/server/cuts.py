"""Cuts: the moments at which a checkpoint is taken, and the work of writing it between two folds.

If every table has staleness 0, a cut is a clock: no server folds clock C before its shard at cut C is on disk, and nobody has to
stop. A SAVE word for cut C stands on every server before anything of clock C does, so all servers agree on the list of cuts.

With staleness a cut must be made: server 0 asks the workers to stop (STOP_SERIAL), each stands still at the beginning of a clock
and says so on every server (STOPPED); the cut is the vector of their clocks. If some table makes workers wait for each other, they
must stop at one and the same clock, else one that stands could hold up one that cannot stop yet: STOP_CLOCK is raised to the
furthest clock seen, and those before it go on to there. When all shards are on disk, GO lets them run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mpips.server.mailboxes import Mailboxes
from mpips.server.saving import Cut, Saver
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import (
    GO,
    NEVER,
    SAVE,
    SAVE_DONE,
    SAVE_SEEN,
    SHARD_SAVED,
    STOP_CLOCK,
    STOP_SERIAL,
    STOPPED,
)

log = logging.getLogger("mpips.server")

STOPPED_BITS = 40  # of the STOPPED word hold the clock


class Cuts:
    """Takes the cuts of one server; without a saver there are none."""

    def __init__(self, transport: Transport, plan: Plan, store: Store, mail: Mailboxes, saver: Saver | None, *,
                 every: int | None = None, at_end: bool = False) -> None:
        self._transport = transport
        self._plan = plan
        self._store = store
        self._mail = mail
        self._saver = saver
        self._every = every
        self._at_end = at_end and saver is not None
        start = max(mail.clocks, default=0)
        self._last = start if saver else NEVER  # clock of the newest cut
        self._asked = [0] * plan.workers  # SAVE words taken note of
        self._wanted: set[int] = set()
        self._next = self._after(start)
        self._serial = 0  # cuts made by stopping
        self._stopping = False
        self._taken = 0  # cuts of which this shard is on disk
        self._writing: Iterator[None] | None = None
        self._publishing: list[tuple[int, int, Cut]] = []  # server 0: cuts whose shards are not all there, or not yet published
        self._publisher: Iterator[None] | None = None

    def _after(self, clock: int) -> int:
        return (clock // self._every + 1) * self._every if self._every and self._saver else NEVER

    @property
    def limit(self) -> int:
        """No table may fold a clock from this one on."""
        if not self._plan.lockstep:
            return NEVER
        return min(self._next, min(self._wanted, default=NEVER))

    @property
    def wanted(self) -> bool:
        """Whether `step` can have anything to do at all."""
        return self._saver is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is being written or published."""
        return self._writing is None and not self._publishing and not self._stopping

    def look(self) -> None:
        """Take note of the workers' SAVE words; call after each scan that found something."""
        me, words = self._store.index, self._plan.words
        for worker in range(self._plan.workers):
            asked = self._transport.load(me, words.client(worker) + SAVE)  # after the sync that follows the commit words
            if asked > self._asked[worker]:
                self._asked[worker] = asked
                self._wanted.add(asked)
                self._transport.store(me, words.reply(worker) + SAVE_SEEN, asked)

    def step(self, floors: list[int], quiet: bool) -> bool:
        """Do a little; `floors` are the tables' floors, `quiet` says that no push waits to be folded. True if something was done."""
        if self._saver is None:
            return False
        if self._writing is not None:
            if next(self._writing, self) is self:
                self._writing = None
                self._shard_saved()
            return True
        if self._publish_step():
            return True
        cut = self._due(floors, quiet)
        if cut is None:
            return False
        log.info("writing the shard of clock %d", cut.clock)
        self._taken += 1
        self._last = cut.clock
        self._writing = self._saver.write_shard(cut, self._store.index, self._plan.servers, self._store.pieces(cut.clock))
        if self._store.index == 0:
            self._publishing.append((self._taken, self._serial, cut))
        return True

    def _due(self, floors: list[int], quiet: bool) -> Cut | None:
        """Return the cut that holds at this moment, if one is due."""
        mail = self._mail
        ended = mail.ended()
        if self._plan.lockstep:
            limit = self.limit
            if limit < NEVER and floors and min(floors) >= limit:
                self._wanted.discard(limit)
                self._next = self._after(limit) if limit == self._next else self._next
                if limit != self._last:
                    return Cut(tuple(limit if live else min(c, limit) for c, live in zip(mail.clocks, mail.live, strict=True)))
        elif self._stop(floors, quiet):
            self._stopping = False
            self._wanted.clear()
            self._next = self._after(max(mail.clocks))
            return Cut(tuple(mail.clocks))
        clock = max(mail.clocks, default=0)
        if ended and quiet and (self._at_end or self._wanted) and self._last != clock and floors and min(floors) >= clock:
            self._wanted.clear()
            return Cut(tuple(mail.clocks))
        return None

    def _stop(self, floors: list[int], quiet: bool) -> bool:
        """Drive the stopping of the workers; return whether they all stand and everything is folded."""
        mail, t, me = self._mail, self._transport, self._store.index
        if mail.ended():
            return self._stopping and quiet
        live = [w for w in range(self._plan.workers) if mail.live[w]]
        if not self._stopping:
            wanted = bool(self._wanted) or mail.slowest() >= self._next
            asked = self._serial < max((mail.first[w][STOPPED] >> STOPPED_BITS for w in range(self._plan.workers)), default=0)
            if not (wanted if me == 0 else asked):
                return False
            self._stopping = True
            self._serial += 1
            if me == 0:
                t.store(0, STOP_CLOCK, self._common_clock())
                t.sync()
                t.store(0, STOP_SERIAL, self._serial)
                t.sync()
        elif me == 0:
            t.store(0, STOP_CLOCK, self._common_clock())
        standing = [mail.first[w][STOPPED] for w in live]
        if any(s >> STOPPED_BITS < self._serial for s in standing):
            return False
        clocks = [s & (1 << STOPPED_BITS) - 1 for s in standing]
        if self._common and len(set(clocks)) > 1:
            return False
        return quiet and [mail.clocks[w] for w in live] == clocks and self._folded(floors)

    @property
    def _common(self) -> bool:
        """Whether workers may wait for each other, so that they must stop at one clock."""
        return any(table.staleness is not None for table in self._plan.layout.tables)

    def _common_clock(self) -> int:
        if not self._common:
            return 0
        return max(c for c, live in zip(self._mail.clocks, self._mail.live, strict=True) if live)

    def _folded(self, floors: list[int]) -> bool:
        """Whether every table has come as far as its workers."""
        return min(floors, default=NEVER) >= self._mail.slowest()

    def _shard_saved(self) -> None:
        if self._store.index != 0:
            t = self._transport
            t.store(0, self._plan.words.peer(self._store.index) + SHARD_SAVED, self._taken)
            t.flush(0)

    def _publish_step(self) -> bool:
        """On server 0: publish the oldest cut once all its shards are on disk."""
        if not self._publishing:
            return False
        number, serial, cut = self._publishing[0]
        t, words = self._transport, self._plan.words
        if self._publisher is None:
            peers = [t.load(0, words.peer(s) + SHARD_SAVED) for s in range(1, self._plan.servers)]
            if min(peers, default=number) < number:
                return False
            t.sync()
            assert self._saver is not None
            self._publisher = self._saver.publish(cut, self._plan.servers, self._store.tables(cut.clock))
        if next(self._publisher, self) is not self:
            return True
        self._publisher = None
        self._publishing.pop(0)
        log.info("checkpoint of clock %d is complete (workers at %s)", cut.clock, cut.clocks)
        for worker, asked in enumerate(self._asked):
            if asked and (asked <= cut.clock or not self._plan.lockstep):
                t.store(0, words.reply(worker) + SAVE_DONE, asked)
        t.store(0, GO, serial)
        t.sync()
        return True
