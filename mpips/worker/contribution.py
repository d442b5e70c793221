"""A push of a worker that adds up with its neighbours: into the memory that the node shares, see `neighbours`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mpips.errors import NonFiniteGradient, ProtocolError
from mpips.transport.base import Array
from mpips.worker.link import Link, TableState
from mpips.worker.neighbours import Neighbours
from mpips.worker.push import Push, check_open, names, note_voids, wait_half


def begin_push(link: Link, neighbours: Neighbours | None, states: Sequence[TableState],
               gradients: Sequence[Array | None]) -> AnyPush:
    """Begin a push; gradients are flat, None where the memory that they travel from is filled already."""
    if neighbours is not None and any(neighbours.has(state) for state in states):
        return Contribution(link, neighbours, states, gradients)
    return Push(link, states, gradients)


class Contribution:
    """A push of which some tables are added up on the node; the others travel at once, all or nothing as ever.

    It is committed, and the caller's arrays are its own again, when the gradients lie in the shared memory.
    """

    def __init__(self, link: Link, neighbours: Neighbours, states: Sequence[TableState],
                 gradients: Sequence[Array | None]) -> None:
        self._link = link
        self._neighbours = neighbours
        self._states = states
        self.clock = link.now
        self.committed = False
        self.failure: NonFiniteGradient | None = None  # it will never be committed
        for state in states:
            check_open(link, state)
        pairs = list(zip(states, gradients, strict=True))
        self._here = [(state, gradient) for state, gradient in pairs if neighbours.has(state)]
        self._away = [state for state in states if not neighbours.has(state)]
        self._rest = Push(link, self._away, [g for s, g in pairs if not neighbours.has(s)]) if self._away else None
        for state, _ in self._here:
            state.closed = link.now

    def advance(self) -> bool:
        """Go on as far as possible without waiting; return whether it is committed."""
        if not self.committed and (self.failure or self._rest is None or self._rest.ready()):
            self._give()
        return self.committed

    def poll(self) -> None:
        """Let the transport make progress."""
        self._link.transport.poll()

    def wait(self) -> None:
        """Advance until it is committed."""
        if not self.committed:
            if not self.failure:
                wait_half(self._link, self._away)
            self._give()

    def applied(self) -> bool:
        """Whether every server has published the clock that it belongs to."""
        if not self.committed or (self._rest is not None and not self._rest.applied()):
            return False
        here = [state for state, _ in self._here]
        if any(floor <= self.clock for _, floor in self._link.words(self._link.plan.words.floor, here)):
            self._link.hurry(self.clock + 1)
            return False
        self._link.transport.sync()
        return True

    def wait_applied(self) -> None:
        """Wait until every server has published it.

        Raises:
            ProtocolError: in the clock of the push, whose sum leaves the node with `clock()`.
        """
        self.wait()
        here = [state for state, _ in self._here]
        if self._link.now == self.clock and not self.applied():
            raise ProtocolError(f"table {names(here)}: wait(applied=True) before clock(); with combine='node' the workers' sum "
                                "leaves with clock()")
        self._link.wait(self.applied, f"the update of table {names(here)}", lambda: self._link.behind(self.clock + 1))

    def _give(self) -> None:
        if self.failure:
            raise self.failure
        link, begin = self._link, time.perf_counter()
        try:
            voids = [self._neighbours.write(state, gradient, self.clock) for state, gradient in self._here]
            if self._rest is not None:
                self._rest.wait()
        except NonFiniteGradient as error:
            self.failure = error
            for state in self._states:  # nothing was committed: another gradient may be pushed instead
                state.closed = -1
            raise
        here = [state for state, _ in self._here]
        self._neighbours.give(here, voids, self.clock)
        self.committed = True
        link.stats["pushes"] += len(here)
        link.stats["push_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add("give", begin, clock=self.clock, what=", ".join(state.table.name for state in here))
        note_voids(link, sum(voids))


AnyPush = Push | Contribution
