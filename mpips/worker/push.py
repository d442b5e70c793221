"""A push: wait for a free mailbox half, write the stamp and the gradient, complete them on all servers, then commit.

The commit number counts this worker's pushes over all tables and stands on every server, also on those that hold nothing of the
table: so one number says which pushes exist, on all servers or on none. A half is free when its push is published (ACK).
Servers on this node are told of each block that has arrived before that, and may fold it ahead (`mpips.server.ahead`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import isfinite

import numpy as np

from mpips.errors import NonFiniteGradient, ProtocolError
from mpips.table import Dense
from mpips.transport.base import Array
from mpips.transport.words import COMING, COMMIT, VOIDS
from mpips.worker.link import Link, TableState


class Push:
    """One push of some tables; `gradients` are flat arrays of the tables' dtypes, None where the mailbox is filled already.

    `sums` are those of a node's workers: each has been looked at, and its table closed, where it was pushed (see `neighbours`).
    """

    def __init__(self, link: Link, states: Sequence[TableState], gradients: Sequence[Array | None], *, sums: bool = False) -> None:
        self._link = link
        self._states = states
        self._gradients = gradients
        self.number = 0  # of the commit, once committed
        self.clock = link.now
        self.failure: NonFiniteGradient | None = None  # it will never be committed
        self._sums = sums
        for state in () if sums else states:
            check_open(link, state)
        for state in states:
            if state.table.staleness == 0:
                state.closed = link.now

    @property
    def committed(self) -> bool:
        """Whether the push exists, and the caller's arrays are free."""
        return self.number > 0

    def advance(self) -> bool:
        """Go on as far as possible without waiting; return whether it is committed."""
        if not self.committed and (self.failure or self.ready()):
            self._send()
        return self.committed

    def poll(self) -> None:
        """Let the transport make progress."""
        self._link.transport.poll()

    def wait(self) -> None:
        """Advance until it is committed."""
        if not self.committed:
            if not self.failure:
                wait_half(self._link, self._states)
            self._send()

    def applied(self) -> bool:
        """Whether every server has published it."""
        if not self.committed:
            return False
        link = self._link
        for state, word in link.words(link.plan.words.ack(link.index), self._states):
            if word < self.number:
                if state.table.staleness == 0:
                    link.hurry(self.clock + 1)
                return False
        link.transport.sync()
        return True

    def wait_applied(self) -> None:
        """Wait until every server has published it; under BSP that takes every worker's push or clock."""
        self.wait()
        self._link.wait(self.applied, f"the update of table {names(self._states)}", self._blame)

    def ready(self) -> bool:
        """Whether the half of each table that comes next is free."""
        return half_free(self._link, self._states)

    def _blame(self) -> str:
        return self._link.behind(min((s.newest[1] for s in self._states), default=0) + 1)

    def _send(self) -> None:
        link = self._link
        begin = time.perf_counter()
        if self.failure:
            raise self.failure
        number = link.tries = link.tries + 1
        self._announce(number)
        try:
            voids = [self._write(state, gradient, number) for state, gradient in zip(self._states, self._gradients, strict=True)]
        except NonFiniteGradient as error:
            self.failure = error
            self._stamp(self._states, 0, False)
            for state in self._states:  # nothing was committed: another gradient may be pushed instead
                state.closed = -1
            link.all_flush()  # what has left already must not land on top of the push that comes instead
            raise
        if any(voids):
            self._stamp([state for state, void in zip(self._states, voids, strict=True) if void], number, True)
        link.all_flush()
        link.commits = number
        link.tell_all(COMMIT, number)
        self.number = number
        for state in self._states:
            state.pushed(number, self.clock)
        link.stats["push_bytes"] += sum([state.table.nbytes for state, void in zip(self._states, voids, strict=True) if not void])
        link.stats["pushes"] += 0 if self._sums else len(voids)
        link.stats["push_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add("push", begin, clock=self.clock, what=", ".join(s.table.name for s in self._states))
        note_voids(link, sum(voids))

    def _announce(self, number: int) -> None:
        """Write the stamps, and tell the servers on this node if they may fold blocks of it as they arrive."""
        link, t = self._link, self._link.transport
        self._stamp(self._states, number, False)
        told = [state for state in self._states if state.told]
        for server in {run.server for state in told for run in state.runs if t.near(run.server)} if told else ():
            t.flush(server)
            link.tell(server, COMING, number)

    def _write(self, state: TableState, gradient: Array | None, number: int) -> bool:
        """Put one table's gradient into its half, looking for NaN and Inf while each block is in cache; whether it is void."""
        link, table, t = self._link, state.table, self._link.transport
        half, maps = state.pushes & 1, link.plan.maps
        for run in state.runs:
            base = maps[run.server].mailbox(link.index, half)
            tell = state.told and t.near(run.server)
            for block in run.blocks:
                if gradient is not None:
                    part = gradient[block.start : block.stop]
                    t.put(run.server, base + block.offset, part)
                else:
                    mapped = t.mapped(run.server)
                    assert mapped is not None
                    at = base + block.offset
                    part = mapped[at : at + (block.stop - block.start) * table.np_dtype.itemsize].view(table.np_dtype)
                if not self._sums and not finite(part):
                    return void(link, table, self.clock)
                if tell:
                    t.flush(run.server)
                    t.store(run.server, link.plan.words.arrival(link.index, block.slot, half), number)
        return False

    def _stamp(self, states: Sequence[TableState], number: int, void: bool) -> None:
        """Write the stamps of this push; those between them are this worker's too, and stay as they are."""
        link, numbers, halves = self._link, [state.number for state in states], [state.pushes & 1 for state in states]
        if len(states) == 1:
            at, stamps = link.plan.words.stamp(link.index, numbers[0], halves[0]), link.stamps[numbers[0], halves[0]]
            stamps[:] = number, self.clock << 1 | void
        else:
            lo, hi = min(numbers, default=0), max(numbers, default=-1) + 1
            link.stamps[numbers, halves] = number, self.clock << 1 | void
            at, stamps = link.plan.words.stamp(link.index, lo, 0), link.stamps[lo:hi].reshape(-1)
        for server in {run.server for state in states for run in state.runs}:
            link.transport.stores(server, at, stamps)


def half_free(link: Link, states: Sequence[TableState]) -> bool:
    """Whether the mailbox half that each table's next push goes to is free."""
    used = [state for state in states if state.halves[state.pushes & 1]]
    free = all(word >= state.halves[state.pushes & 1] for state, word in link.words(link.plan.words.ack(link.index), used))
    link.transport.sync()
    return free


def wait_half(link: Link, states: Sequence[TableState]) -> None:
    """Wait for `half_free`."""
    link.wait(lambda: half_free(link, states), f"a free mailbox half for table {names(states)}",
              lambda: link.behind(min((s.newest[1] for s in states), default=0)))


def check_open(link: Link, state: TableState) -> None:
    """Raise ProtocolError if the table takes no push now, or no more in this clock."""
    if state.filling:
        raise ProtocolError(f"table '{state.table.name}': a push inside `with gradients('{state.table.name}')`")
    if state.closed == link.now:
        raise ProtocolError(f"table '{state.table.name}' is closed for clock {link.now}: it has been pushed already "
                            "(push with more=True adds up several)")


def void(link: Link, table: Dense, clock: int) -> bool:
    """Return True if a gradient with NaN or Inf is to be left out, or raise NonFiniteGradient."""
    if table.nonfinite == "skip":
        return True
    raise NonFiniteGradient(f"table '{table.name}': the gradient pushed by {link.name} in clock {clock} has "
                            "NaN or Inf (nonfinite='skip' leaves such pushes out)")


def note_voids(link: Link, count: int) -> None:
    """Count pushes that were left out, and tell the servers."""
    if count:
        link.stats["skipped"] += count
        link.tell_all(VOIDS, int(link.stats["skipped"]))


def finite(values: Array) -> bool:
    """Whether no element is NaN or Inf: a sum tells, unless it overflows; then every element is looked at.

    einsum takes half the time of np.add.reduce (measured), and does not warn of an overflow as a dot product does.
    """
    if values.itemsize == 2:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(values, dtype=np.float32)
    else:
        total = np.einsum("i->", values)
    return isfinite(total) or bool(np.isfinite(values).all())


def names(states: Sequence[TableState]) -> str:
    """The names of the first three, as messages show them."""
    return ", ".join(f"'{s.table.name}'" for s in states[:3]) + (", ..." if len(states) > 3 else "")
