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
from mpips.layout import Block
from mpips.table import Rows, Table
from mpips.transport.base import Array
from mpips.transport.words import COMING, COMMIT, VOIDS
from mpips.worker.group import Group
from mpips.worker.link import Link, TableState

FEW = 10_000  # elements


class Push:
    """One push of some tables; `gradients` are flat arrays of the tables' dtypes, None where the mailbox is filled already.

    `sums` are those of a node's workers: each has been looked at, and its table closed, where it was pushed (see `neighbours`).
    """

    def __init__(self, link: Link, group: Group, gradients: Sequence[Array | None], *, sums: bool = False) -> None:
        self._link = link
        self.group = group
        self._gradients = gradients
        self.number = 0  # of the commit, once committed
        self.clock = link.now
        self.failure: NonFiniteGradient | None = None  # it will never be committed,
        self.told = True  # and whether the worker has been told so
        self._sums = sums
        self._kept: list[Array] = []  # what must stay as it is until it has left
        self.nbytes = group.nbytes  # that travel
        if not sums:
            check_open(link, group)
        for state, staleness in zip(group.states, group.staleness, strict=True):
            if staleness == 0:
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

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for this worker."""
        return self.committed or self.failure is not None

    def go_on(self, most: int) -> bool:
        """Advance where nobody can be told of a failure; return whether it did anything."""
        self._link.transport.poll()
        try:
            return self.advance()
        except NonFiniteGradient:
            self.told = False
            return True

    def wait(self) -> None:
        """Advance until it is committed."""
        if not self.advance():
            wait_half(self._link, self.group)
            self._send()

    def applied(self) -> bool:
        """Whether every server has published it."""
        if not self.committed:
            return False
        link = self._link
        t, group = link.transport, self.group
        if not group.least(t, link.acks, [self.number] * len(group.states)):
            if not group.least(t, link.acks, [self.number if staleness == 0 else 0 for staleness in group.staleness]):
                link.hurry(self.clock + 1)
            return False
        link.transport.sync()
        return True

    def wait_applied(self) -> None:
        """Wait until every server has published it; under BSP that takes every worker's push or clock.

        Raises:
            ProtocolError: see `check_applied`.
        """
        self.wait()
        check_applied(self._link, self.group, self.clock)
        self._link.wait(self.applied, f"the update of table {self.group.title}", self._blame)

    def ready(self) -> bool:
        """Whether the half of each table that comes next is free."""
        return half_free(self._link, self.group)

    def _complain(self) -> None:
        """Raise what has made this push fail, if anything."""
        if self.failure:
            self.told = True
            raise self.failure

    def _blame(self) -> str:
        return self._link.behind(min((s.newest[1] for s in self.group.states), default=0) + 1)

    def _send(self) -> None:
        link, group = self._link, self.group
        begin = time.perf_counter()
        self._complain()
        number = link.tries = link.tries + 1
        self._announce(number)
        try:
            voids = self._write_all(number)
        except NonFiniteGradient as error:
            self.failure = error
            link.all_flush()  # what has left already must not land on top of the push that comes instead
            self._stamp(0)
            reopen(group)
            link.all_flush()
            raise
        if True in voids:
            link.all_flush()  # or the stamps that left before could land on top of these
            self._stamp(number, voids)
        self._commit(number, voids, begin)

    def _commit(self, number: int, voids: Sequence[bool], begin: float) -> None:
        """Complete all that was written, then say that the push exists; it began at `begin`."""
        link, group = self._link, self.group
        states, nbytes = group.states, self.nbytes
        if True in voids:
            nbytes -= sum([nbytes if isinstance(state.table, Rows) else state.table.nbytes
                           for state, void in zip(states, voids, strict=True) if void])
        link.all_flush()
        self._kept.clear()
        link.tell_all(COMMIT, number)
        self.number = number
        for state in states:
            state.pushed(number, self.clock)
        stats = link.stats
        stats["push_bytes"] += nbytes
        stats["pushes"] += 0 if self._sums else len(voids)
        stats["push_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add("push", begin, clock=self.clock, what=", ".join(s.table.name for s in states))
        note_voids(link, sum(voids))

    def _announce(self, number: int) -> None:
        """Write the stamps, and tell the servers on this node if they may fold blocks of it as they arrive."""
        self._stamp(number)
        for server in self.group.told:
            self._link.transport.flush(server)
            self._link.tell(server, COMING, number)

    def _write_all(self, number: int) -> list[bool]:
        """Put all gradients into their halves, small tables side by side in one piece; return which are void."""
        link, group, states, gradients = self._link, self.group, self.group.states, self._gradients
        voids, alone = [False] * len(states), group.alone
        for batch in group.batches:
            parts = [part for i in batch.owners if (part := gradients[i]) is not None]
            halves = {states[i].pushes & 1 for i in batch.owners}
            if len(halves) > 1 or len(parts) < len(batch.owners):
                alone = [*alone, *batch.owners]
                continue
            t, half = link.transport, halves.pop()
            base = link.plan.maps[batch.server].mailbox(link.index, half)
            window = t.mapped(batch.server)
            piece = batch.piece(parts, window, base)
            if window is None:
                t.put(batch.server, base + batch.offset, piece)
                self._kept.append(piece)
            if batch.told and batch.server in group.told:
                self._arrived(batch.server, batch.blocks, half, number)
            if batch.looks and not self._sums and not finite(piece):
                for i, part in zip(batch.owners, parts, strict=True):
                    voids[i] = spoiled(states[i].table, part) and void(link, states[i].table, self.clock)
        for i in alone:
            voids[i] = self._write(states[i], gradients[i], number)
        return voids

    def _write(self, state: TableState, gradient: Array | None, number: int) -> bool:
        """Put one table's gradient into its half, looking for NaN and Inf while each block is in cache; whether it is void."""
        link, table, t = self._link, state.table, self._link.transport
        half = state.pushes & 1
        for run in state.runs:
            server, base = run.server, link.plan.maps[run.server].mailbox(link.index, half)
            tell = state.told and server in self.group.told
            for block in run.blocks:
                if gradient is not None:
                    part = gradient[block.start : block.stop]
                    t.put(server, base + block.offset, part)
                else:
                    mapped = t.mapped(server)
                    assert mapped is not None
                    at = base + block.offset
                    part = mapped[at : at + (block.stop - block.start) * table.np_dtype.itemsize].view(table.np_dtype)
                if tell:
                    self._arrived(server, [block], half, number)
                if not self._sums and spoiled(table, part):
                    return void(link, table, self.clock)
        return False

    def _arrived(self, server: int, blocks: Sequence[Block], half: int, number: int) -> None:
        """Tell a server of the node of neighbouring blocks that stand whole in a half.

        Before they are looked at, which a fold need not wait for: nothing is published before the commit.
        """
        link = self._link
        t, at = link.transport, link.plan.words.arrival(link.index, blocks[0].slot, half)
        t.flush(server)
        t.sync()
        if len(blocks) == 1:
            t.store(server, at, number)
        else:
            t.stores(server, at, np.full(len(blocks), number))
        t.ring(server)

    def _stamp(self, number: int, voids: Sequence[bool] = ()) -> None:
        """Write the stamps of this push; those between them are this worker's too, and stay as they are.

        Two stores of one word may land in any order: what was stored there before must be complete.
        """
        link, group, clock = self._link, self.group, self.clock << 1
        if len(group.states) == 1:
            state = group.states[0]
            half = state.pushes & 1
            at, stamps = link.plan.words.stamp(link.index, state.number, half), link.stamps[state.number, half]
            stamps[0], stamps[1] = number, clock | (True in voids)
        else:
            packed = [(number, clock | void) for void in voids] if voids else (number, clock)
            link.stamps[group.numbers, [state.pushes & 1 for state in group.states]] = packed
            at, stamps = link.plan.words.stamp(link.index, group.lo, 0), link.stamps[group.lo : group.hi].reshape(-1)
        for server in group.servers:
            link.transport.stores(server, at, stamps)


def half_free(link: Link, group: Group) -> bool:
    """Whether the mailbox half that each table's next push goes to is free."""
    free = group.least(link.transport, link.acks, [state.halves[state.pushes & 1] for state in group.states])
    link.transport.sync()
    return free


def wait_half(link: Link, group: Group) -> None:
    """Wait for `half_free`."""
    link.wait(lambda: half_free(link, group), f"a free mailbox half for table {group.title}",
              lambda: link.behind(min((s.newest[1] for s in group.states), default=0)))


def check_open(link: Link, group: Group) -> None:
    """Raise ProtocolError if a table takes no push now, or no more in this clock."""
    for state in group.states:
        if state.table.name in link.filling:
            raise ProtocolError(f"table '{state.table.name}': a push inside `with gradients('{state.table.name}')`")
        if state.closed == link.now:
            raise ProtocolError(f"table '{state.table.name}' is closed for clock {link.now}: it has been pushed already; "
                                "end the step with clock(), or add several pushes up with more=True")


def reopen(group: Group) -> None:
    """Nothing was committed: another gradient may be pushed instead."""
    for state in group.states:
        state.closed = -1


def check_applied(link: Link, group: Group, clock: int) -> None:
    """Raise ProtocolError if waiting for a push to be applied could wait for this worker's own clock().

    With combine="node" a worker may tell the servers of its clock only after this one's `clock()`, see `neighbours`. And a table of
    rows with staleness 0 is folded when every worker has ended the clock.
    """
    if link.now == clock and any(isinstance(s.table, Rows) and s.table.staleness == 0 for s in group.states):
        raise ProtocolError(f"table {group.title}: wait(applied=True) before clock(); rows are folded when all workers have ended "
                            "the clock")
    if link.combines and link.now == clock and 0 in group.staleness:
        raise ProtocolError(f"table {group.title}: wait(applied=True) before clock(); with combine='node' other workers of "
                            "this node may wait for that")


def void(link: Link, table: Table, clock: int) -> bool:
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


def spoiled(table: Table, part: Array) -> bool:
    """Whether a part of a gradient has NaN or Inf, for a table that minds."""
    return table.nonfinite != "allow" and not finite(part)


def finite(values: Array) -> bool:
    """Whether no element is NaN or Inf: one sum tells, unless it overflows; then every element is looked at.

    Of what NumPy has, einsum goes fastest over many elements, and vdot, with the squares, costs least for a few (measured: 1.5 us
    instead of 4.5 for a thousand; BLAS would start threads for more). Neither warns of an overflow, as others do.
    """
    if values.itemsize == 2:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(values, dtype=np.float32)
    elif values.size <= FEW:
        total = np.vdot(values, values)
    else:
        total = np.einsum("i->", values)
    return isfinite(total) or bool(np.isfinite(values).all())
