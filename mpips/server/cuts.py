"""Cuts: the moments at which a checkpoint is taken, and the work of writing it between two folds.

If every table has staleness 0, a cut is a clock: no server folds clock C before its shard at cut C is on disk, and nobody has to
stop. A SAVE word for cut C stands on every server before anything of clock C does, so all servers agree on the list of cuts. A cut
waits for every worker's clock word, because a table that exists here in clock C - 1 need not be known here before (`catalogue`).

With staleness a cut is made by stopping the workers (`stops`); it is the vector of their clocks. When all shards are on disk, GO
lets them run. The next is due by the clock of the slowest: counted from the furthest, workers of unequal speed would have ever
fewer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from mpips.server.mailboxes import Mailboxes
from mpips.server.saving import Cut, Saver
from mpips.server.stops import Stops
from mpips.server.store import Store
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import GO, NEVER, SAVE, SAVE_DONE, SAVE_SEEN, SAVING, SHARD_SAVED

log = logging.getLogger("mpips.server")

PATIENCE = 3600.0  # seconds that a checkpoint is waited for though no end is seen: a disk may hang in an fsync


class Cuts:
    """Takes the cuts of one server; without a saver there are none.

    Attributes:
        wanted: whether `step` can have anything to do at all.
    """

    def __init__(self, transport: Transport, plan: Plan, store: Store, mail: Mailboxes, saver: Saver | None, *,
                 every: int | None = None, at_end: bool = False) -> None:
        self._transport = transport
        self._plan = plan
        self._store = store
        self._mail = mail
        self._saver = saver
        self.wanted = saver is not None
        self._every = every
        self._at_end = at_end and saver is not None
        self._last = tuple(mail.clocks)  # clocks of the newest cut
        self._asked = [0] * plan.workers  # SAVE words taken note of
        self._wanted: set[int] = set()  # cuts that are clocks and not taken yet
        self._next = self._after((max if plan.lockstep else min)(self._last, default=0))
        self._stops = Stops(transport, plan, store.index, mail)
        self._taken = 0  # cuts of which this shard is on disk
        self._writing: Iterator[None] | None = None
        self._publishing: list[tuple[int, int, Cut]] = []  # server 0: cuts whose shards are not all there, or not yet published
        self._publisher: Iterator[None] | None = None
        self._steps = 0  # made of what is being written
        self._since = 0.0

    def _after(self, clock: int) -> int:
        return (clock // self._every + 1) * self._every if self._every and self._saver else NEVER

    @property
    def limit(self) -> int:
        """No table may fold a clock from this one on."""
        if not self._plan.lockstep:
            return NEVER
        if self._writing is not None:
            return max(self._last)
        return min(self._next, *self._wanted) if self._wanted else self._next

    @property
    def idle(self) -> bool:
        """Whether nothing is being written or published."""
        return self._writing is None and not self._publishing and self._stops.idle

    def notice(self) -> None:
        """To be called before each scan, see `Stops.notice`."""
        if not self._plan.lockstep:
            self._stops.notice()

    def look(self) -> None:
        """Take note of the workers' SAVE words; call after each scan that found something."""
        me, words = self._store.index, self._plan.words
        for worker in range(self._plan.workers):
            asked = self._transport.load(me, words.client(worker) + SAVE)  # after the sync that follows the commit words
            if asked > self._asked[worker]:
                self._asked[worker] = asked
                if self._plan.lockstep:
                    self._wanted.add(asked)
                self._transport.store(me, words.reply(worker) + SAVE_SEEN, asked)

    def step(self, floors: list[int], quiet: bool) -> bool:
        """Do a little; `floors` are the tables' floors, `quiet` says that no push waits to be folded. True if it was anything."""
        if self._saver is None:
            return False
        if self._writing is not None:
            begin = time.perf_counter()
            if next(self._writing, self) is self:
                self._writing = None
                self._shard_saved()
            self._tell(self._writing is not None)
            self._trace(begin, max(self._last), "shard")
            return True
        if self._publish_step():
            return True
        cut = self._due(floors, quiet)
        if cut is None:
            return False
        log.info("writing the shard of clock %d", cut.clock)
        self._taken += 1
        self._last = cut.clocks
        self._next = self._after(cut.clock if self._plan.lockstep or self._mail.ended() else self._mail.slowest)
        self._writing = self._saver.write_shard(cut, self._store.index, self._plan.servers, self._store.pieces(cut.clock))
        if self._store.index == 0:
            self._publishing.append((self._taken, self._stops.taken, cut))
        return True

    def _due(self, floors: list[int], quiet: bool) -> Cut | None:
        """Return the cut that holds at this moment, if one is due."""
        mail, lowest = self._mail, min(floors, default=-1)
        if self._plan.lockstep:
            limit = self.limit
            if min(lowest, *mail.reached) >= limit:
                self._wanted.discard(limit)
                return Cut(tuple(limit if live else min(c, limit) for c, live in zip(mail.clocks, mail.live, strict=True)))
        else:
            self._stops.drive(mail.slowest >= self._next or self._owed(ready=True))
            if self._stops.ready() and quiet and lowest >= mail.slowest:
                self._stops.done()
                return Cut(tuple(mail.clocks))
        clocks = tuple(mail.clocks)
        if not (mail.ended() and quiet and lowest >= mail.furthest) or clocks == self._last:
            return None
        # not by `_next`: at the last cut a server may not have heard yet which worker had ended, and all must find the same
        passed = any(clock >= self._after(last) for clock, last in zip(clocks, self._last, strict=True))
        return Cut(clocks) if self._at_end or passed or self._owed() else None

    def _owed(self, ready: bool = False) -> bool:
        """Whether a worker has asked for a cut that is not taken yet, or with `ready`, has completed the clock that it asked in."""
        return any(last < asked and (not ready or clock >= asked)
                   for last, asked, clock in zip(self._last, self._asked, self._mail.clocks, strict=True))

    def _shard_saved(self) -> None:
        if self._store.index != 0:
            t = self._transport
            t.store(0, self._plan.words.peer(self._store.index) + SHARD_SAVED, self._taken)
            t.flush(0)
            t.ring(0)

    def _tell(self, more: bool) -> None:
        """Let those who wait see that this server writes, and that it gets on; `more`: it has not come to an end."""
        now = time.monotonic()
        if not self._steps:
            self._since = now
        if not more:
            self._steps = 0
        elif now - self._since < PATIENCE:
            self._steps += 1
        self._transport.store(self._store.index, SAVING, self._steps)
        self._transport.sync()

    def _trace(self, begin: float, clock: int, what: str) -> None:
        if self._store.trace is not None:
            self._store.trace.add("checkpoint", begin, clock=clock, what=what)

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
        begin = time.perf_counter()
        more = next(self._publisher, self) is not self
        self._trace(begin, cut.clock, "publish")
        if more:
            self._tell(True)
            return True
        self._publisher = None
        self._publishing.pop(0)
        self._tell(False)
        log.info("checkpoint of clock %d is complete (workers at %s)", cut.clock, cut.clocks)
        for worker, clock in enumerate(cut.clocks):
            t.store(0, words.reply(worker) + SAVE_DONE, clock)
        t.store(0, GO, serial)
        t.sync()
        return True
