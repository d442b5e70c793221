"""The end of a step, standing still for a cut, barriers, and the end of a worker."""

from __future__ import annotations

from mpips.transport.words import (
    BARRIER,
    BARRIER_FLOOR,
    CLOCK,
    END,
    GO,
    SAVE,
    SAVE_DONE,
    SAVE_SEEN,
    STOP_CLOCK,
    STOP_SERIAL,
    STOPPED,
)
from mpips.worker.link import Link

STOPPED_BITS = 40  # low bits of STOPPED that hold the clock; see mpips.server.cuts


class Clocks:
    """This worker's clock and what hangs on it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stood = 0  # cut for which this worker has stood still
        self._checked = -1  # clock in which `boundary` has looked
        self._asked = 0  # last SAVE word
        self._barriers = 0
        link.boundary = self.boundary

    def tick(self) -> int:
        """End the step: every push of it is committed before the clock word is written. Returns the new clock."""
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

    def _stand_if_asked(self) -> None:
        link = self._link
        serial = link.transport.load(0, STOP_SERIAL)
        if serial > self._stood:
            link.transport.sync()  # server 0 wrote the clock before the serial
            if link.now >= link.transport.load(0, STOP_CLOCK):
                self._stand(serial)

    def _stand(self, serial: int) -> None:
        link, t = self._link, self._link.transport
        link.tell_all(STOPPED, serial << STOPPED_BITS | link.now)

        def go() -> bool:
            return t.load(0, GO) >= serial or t.load(0, STOP_CLOCK) > link.now

        link.wait(go, f"checkpoint {serial} to be written", lambda: link.behind(t.load(0, STOP_CLOCK)))
        if t.load(0, GO) >= serial:
            self._stood = serial

    def barrier(self) -> None:
        """Wait until every worker that has not ended has called this as often as this one."""
        link = self._link
        self._barriers += 1
        link.transport.store(0, link.plan.words.client(link.index) + BARRIER, self._barriers)
        link.transport.flush(0)
        link.wait(lambda: link.transport.load(0, BARRIER_FLOOR) >= self._barriers, f"barrier {self._barriers}", self._absent)

    def _absent(self) -> str:
        link, words = self._link, self._link.plan.words
        t = link.transport
        late = [w for w in range(link.plan.workers)
                if not t.load(0, words.client(w) + END) and t.load(0, words.client(w) + BARRIER) < self._barriers]
        return "workers " + ", ".join(map(str, late)) + " have not come"

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

        Only before the first push of a clock, or this worker's part of the clock would be torn from the rest.
        """
        link = self._link
        fresh = all(state.newest[1] < link.now for state in link.tables.values())

        def saved() -> bool:
            if not self.saved(cut) and fresh and not link.plan.lockstep:
                self._stand_if_asked()
            return self.saved(cut)

        link.wait(saved, f"the checkpoint of clock {cut}", lambda: link.behind(cut))

    @property
    def owes_save(self) -> bool:
        """Whether a save was asked for in the current clock."""
        return self._asked > self._link.now

    def end(self) -> None:
        """Say that this client is gone; it holds nobody back any more."""
        self._link.tell_all(END, self._link.now + 1)
