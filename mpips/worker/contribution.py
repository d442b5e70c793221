"""A push of a worker that adds up with its neighbours: into the memory that the node shares, see `neighbours`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mpips.errors import NonFiniteGradient
from mpips.transport.base import Array
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.neighbours import Neighbours
from mpips.worker.push import Push, check_applied, check_open, note_voids, reopen
from mpips.worker.rings import sending


def begin_push(link: Link, neighbours: Neighbours | None, group: Group, gradients: Sequence[Array | None]) -> AnyPush:
    """Begin a push; gradients are flat, None where the memory that they travel from is filled already."""
    if neighbours is not None and any(neighbours.has(state) for state in group.states):
        return Contribution(link, neighbours, group, gradients)
    return sending(link, group, gradients)


class Contribution:
    """A push of which some tables are added up on the node; the others travel at once, all or nothing as ever.

    It is committed, and the caller's arrays are its own again, when the gradients lie in the shared memory.
    """

    def __init__(self, link: Link, neighbours: Neighbours, group: Group, gradients: Sequence[Array | None]) -> None:
        self._link = link
        self._neighbours = neighbours
        self._all = group
        self.clock = link.now
        self.committed = False
        self.failure: NonFiniteGradient | None = None  # it will never be committed
        self.told = True
        check_open(link, group)
        pairs = list(zip(group.states, gradients, strict=True))
        self._here = [(state, gradient) for state, gradient in pairs if neighbours.has(state)]
        self._group = link.group(tuple([state.table.name for state, _ in self._here]))
        away = link.group(tuple([s.table.name for s in group.states if not neighbours.has(s)]))
        self._rest = sending(link, away, [g for s, g in pairs if not neighbours.has(s)]) if away.states else None
        for state, _ in self._here:
            state.closed = link.now

    def advance(self) -> bool:
        """Go on as far as possible without waiting; return whether it is committed."""
        if not self.committed and (self.failure or self._rest is None or self._rest.ready()):
            self._give()
        return self.committed

    def wait(self) -> None:
        """Advance until it is committed."""
        if not self.committed:
            self._give()

    def applied(self) -> bool:
        """Whether every server has published the clock that it belongs to."""
        if not self.committed or (self._rest is not None and not self._rest.applied()):
            return False
        link, group = self._link, self._group
        if not group.least(link.transport, link.plan.words.floor, [self.clock + 1] * len(group.states)):
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
        check_applied(self._link, self._group, self.clock)
        self._link.wait(self.applied, f"the update of table {self._group.title}", lambda: self._link.behind(self.clock + 1))

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
            reopen(self._all)
            raise
        here = self._group.states
        self._neighbours.give(here, voids, self.clock)
        self.committed = True
        link.stats["pushes"] += len(here)
        link.stats["push_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add("give", begin, clock=self.clock, what=", ".join(state.table.name for state in here))
        note_voids(link, sum(voids))


AnyPush = Push | Contribution
