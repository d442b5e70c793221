"""The end of a step, standing still for a cut, barriers, and the end of a worker."""

from __future__ import annotations

from mpips.errors import ProtocolError
from mpips.transport.words import (
    BARRIER,
    BARRIER_FLOOR,
    CLOCK,
    END,
    GO,
    NEED,
    SAVE,
    SAVE_DONE,
    SAVE_SEEN,
    STOP_CLOCK,
    STOP_SERIAL,
    STOPPED,
    STOPPED_BITS,
)
from mpips.worker.link import Link
from mpips.worker.neighbours import Neighbours


class Clocks:
    """This worker's clock and what hangs on it."""

    def __init__(self, link: Link, neighbours: Neighbours | None = None) -> None:
        self._link = link
        self._neighbours = neighbours
        self._stood = 0  # cut for which this worker has stood still
        self._checked = -1  # clock in which `boundary` has looked
        self._asked = 0  # last SAVE word
        self._barriers = 0
        self._need = 0  # last NEED word
        link.boundary = self.boundary
        link.hurry = self.hurry
        if link.now:
            link.tell_all(CLOCK, link.now)  # a resumed run

    def tick(self) -> int:
        """End the step: every push of it is committed before the clock word is written. Returns the new clock.

        Raises:
            ProtocolError: inside `with gradients(...)`: its push, which comes when the block ends, would be of the next clock.
        """
        for name in self._link.filling:
            raise ProtocolError(f"table '{name}': clock() inside `with gradients('{name}')`")
        if self._neighbours is not None:
            self._neighbours.complete()
        self._link.now += 1
        self._link.tell_all(CLOCK, self._link.now)
        return self._link.now

    def boundary(self) -> None:
        """Stand still if a cut is being made; every verb calls this, it looks once in a clock, before anything of it."""
        link = self._link
        if self._checked == link.now or link.plan.lockstep:
            return
        self._checked = link.now
        self._stand_if_asked()

    def _asked_to_stop(self) -> int:
        """Number of the cut for which this worker has been asked to stop and has not yet, or 0."""
        if self._link.plan.lockstep:
            return 0
        serial = self._link.transport.load(0, STOP_SERIAL)
        return serial if serial > self._stood else 0

    def _stand_if_asked(self) -> bool:
        """Stand still if a cut is being made and does not need this worker further on; return whether it was taken."""
        link, serial = self._link, self._asked_to_stop()
        if serial:
            link.transport.sync()  # server 0 wrote the clock before the serial
            if link.now >= link.transport.load(0, STOP_CLOCK):
                return self._stand(serial)
        return False

    def _stand(self, serial: int) -> bool:
        link, t = self._link, self._link.transport
        for server in reversed(range(link.plan.servers)):  # server 0 decides, so it hears it last
            link.tell(server, STOPPED, serial << STOPPED_BITS | link.now)

        def go() -> bool:
            return t.load(0, GO) >= serial or t.load(0, STOP_CLOCK) > link.now

        link.wait(go, f"checkpoint {serial} to be written", lambda: link.behind(t.load(0, STOP_CLOCK)))
        if t.load(0, GO) < serial:
            return False
        self._stood = serial
        return True

    @property
    def _fresh(self) -> bool:
        """Whether nothing has been pushed in this clock: only then can this worker stand still in it."""
        return not any(state.pushed_in(self._link.now) for state in self._link.tables.values())

    def hurry(self, clock: int) -> None:
        """Say that this worker cannot stand still before others have come to `clock`."""
        if clock > self._need and self._asked_to_stop():
            link = self._link
            self._need = clock
            link.tell(0, NEED, clock)

    def barrier(self) -> None:
        """Wait until every worker that has not ended has called this as often as this one."""
        link, t = self._link, self._link.transport
        self._barriers += 1
        link.tell(0, BARRIER, self._barriers)

        def met() -> bool:
            if t.load(0, BARRIER_FLOOR) < self._barriers and self._asked_to_stop() and not (self._fresh and self._stand_if_asked()):
                clocks = [t.load(0, link.plan.words.client(w) + CLOCK) for w in self._absent()]
                self.hurry(1 + max(clocks, default=-1))  # one of them may stand in its clock, before it comes here
            return t.load(0, BARRIER_FLOOR) >= self._barriers

        link.wait(met, f"barrier {self._barriers}",
                  lambda: "workers " + ", ".join(map(str, self._absent())) + " have not come")

    def _absent(self) -> list[int]:
        """Live workers that have not come to this barrier."""
        words, t = self._link.plan.words, self._link.transport
        return [w for w in range(self._link.plan.workers)
                if not t.load(0, words.client(w) + END) and t.load(0, words.client(w) + BARRIER) < self._barriers]

    def ask_save(self) -> int:
        """Ask for a checkpoint once the current clock is complete; returns the clocks that are complete then."""
        link, words = self._link, self._link.plan.words
        cut = link.now + 1
        if self._asked and self._asked != cut:
            seen = words.reply(link.index) + SAVE_SEEN
            link.wait(lambda: all(link.transport.load(s, seen) >= self._asked for s in range(link.plan.servers)),
                      "the servers to take note of an earlier save()", lambda: "they have not looked")
        self._asked = cut
        link.tell_all(SAVE, cut)
        return cut

    def saved(self, cut: int) -> bool:
        """Whether the checkpoint asked for at `cut` is complete on disk."""
        link = self._link
        return link.transport.load(0, link.plan.words.reply(link.index) + SAVE_DONE) >= cut

    def wait_saved(self, cut: int) -> None:
        """Wait for the checkpoint asked for at `cut`; a cut that needs the workers to stop needs this one, too.

        Raises:
            ProtocolError: some tables have staleness and some worker may have to go on before the cut can be made: this one, if
                it has pushed in this clock already, or if tables make workers wait for each other. Raised even if the checkpoint
                happens to be complete: whether a program is right must not depend on who was faster.
        """
        link = self._link
        if not link.plan.lockstep:
            if any(table.staleness is not None for table in link.plan.layout.tables):
                raise ProtocolError("save: wait() is for tables that all have staleness 0, or all None; where some make workers "
                                    "wait for each other the cut may be clocks away: go on with the steps and ask test()")
            if not self._fresh:
                raise ProtocolError(f"save: wait() in clock {link.now} after a push; with staleness None, wait before the first "
                                    "push of a clock, or ask test()")
        link.wait(lambda: self.test_saved(cut), f"the checkpoint of clock {cut}", lambda: link.behind(cut))

    def test_saved(self, cut: int) -> bool:
        """Whether it is complete on disk; stands still for it if this worker is asked to and may."""
        self._link.transport.poll()
        if not self.saved(cut) and not self._link.plan.lockstep and self._fresh:
            self._stand_if_asked()
        return self.saved(cut)

    @property
    def owes_save(self) -> bool:
        """Whether a save was asked for in the current clock."""
        return self._asked > self._link.now

    def end(self) -> None:
        """Say that this client is gone; it holds nobody back any more."""
        if self._neighbours is not None:
            self._neighbours.end()
        self._link.end(self._link.now + 1)
