"""Stopping: how a cut is made where tables have staleness.

Server 0 asks the workers to stop (STOP_SERIAL). Each stands still before its first push of a clock and says so (STOPPED) on every
server, on server 0 last. Server 0 alone decides, and tells the others (CUT): so all servers cut at the same clocks.

A worker that stands goes on to STOP_CLOCK when server 0 raises it, and server 0 decides only when all stand at or beyond it, so
nobody leaves after that. It is raised because one that stands may hold up one that cannot stop yet:
- if a table has staleness n, to the furthest clock of a live worker, who may wait in a pull for those behind;
- if a table has staleness 0, to that of an ended worker too, whose pushes are folded with those of the others;
- to what a worker says it must wait for (NEED), in a barrier or for a push to be applied.
"""

from __future__ import annotations

from mpips.server.mailboxes import Mailboxes
from mpips.transport.base import Transport
from mpips.transport.plan import Plan
from mpips.transport.words import CLOCK, CUT, NEED, STOP_CLOCK, STOP_SERIAL, STOPPED, STOPPED_BITS


class Stops:
    """One server's part in it.

    Attributes:
        serial: number of the newest cut for which workers were asked to stop (on server 0), or that was taken (elsewhere).
        decided: number of the newest cut for which every worker is known to stand until it is taken.
        taken: number of the newest cut taken.
    """

    def __init__(self, transport: Transport, plan: Plan, index: int, mail: Mailboxes) -> None:
        self._transport = transport
        self._plan = plan
        self._index = index
        self._mail = mail
        self._clock = 0  # STOP_CLOCK
        self.serial = 0
        self.decided = 0
        self.taken = 0

    @property
    def idle(self) -> bool:
        """Whether no cut is being made."""
        return max(self.serial, self.decided) == self.taken

    def notice(self) -> None:
        """Look whether server 0 has decided; to be called before the scan, which then sees where the workers stand."""
        if self._index == 0:
            return
        decided = self._transport.load(self._index, self._plan.words.peer(0) + CUT)
        if decided != self.decided:
            self._transport.sync()
            self.decided = decided

    def drive(self, wanted: bool) -> None:
        """On server 0: ask the workers to stop if a cut is wanted, and decide once they all stand."""
        if self._index != 0 or self.decided > self.taken:
            return
        if self._mail.ended():
            self.taken = self.decided = self.serial  # nobody is left to stop
            return
        t = self._transport
        if self.serial > self.taken:
            self._raise_clock()
        elif wanted:
            self._raise_clock()
            self.serial += 1
            t.store(0, STOP_SERIAL, self.serial)
            t.sync()
        else:
            return
        if self._stand(self.serial) and all(s >= self._clock for s in self._standing()):
            self.decided = self.serial
            for server in range(1, self._plan.servers):
                t.store(server, self._plan.words.peer(0) + CUT, self.decided)
                t.flush(server)
                t.ring(server)

    def ready(self) -> bool:
        """Whether a cut is decided and this server knows all that came before it."""
        return self.decided > self.taken and self._stand(self.decided)

    def done(self) -> None:
        """The cut has been taken."""
        self.taken = self.decided
        self.serial = max(self.serial, self.taken)

    def _stand(self, serial: int) -> bool:
        """Whether every live worker stands for this cut, in the clock that is its newest; also in the words read last, because the
        clock that is taken may be older than these, and there can be pushes between."""
        mail = self._mail
        rows = [(row, clock) for row, clock, lives in zip(mail.rows, mail.clocks, mail.live, strict=False) if lives]
        return (all(row[STOPPED] >> STOPPED_BITS >= serial for row, _ in rows)
                and all(s == row[CLOCK] == clock for s, (row, clock) in zip(self._standing(), rows, strict=True)))

    def _standing(self) -> list[int]:
        """Clocks at which the live workers stand, or stood last."""
        rows = self._mail.rows
        return [rows[w][STOPPED] & (1 << STOPPED_BITS) - 1 for w, lives in enumerate(self._mail.live) if lives]

    def _raise_clock(self) -> None:
        mail = self._mail
        staleness = [table.staleness for table in self._plan.layout.tables]
        clock = max([self._clock, *(row[NEED] for row, lives in zip(mail.rows, mail.live, strict=False) if lives)])
        for reached, lives in zip(mail.clocks, mail.live, strict=True):
            if 0 in staleness or (lives and any(s is not None for s in staleness)):
                clock = max(clock, reached)
        if clock > self._clock:
            self._clock = clock
            self._transport.store(0, STOP_CLOCK, clock)
            self._transport.sync()
