"""A prepared round: the same arrays in every step, looked at once.

A step is push, `clock()` and pull. A table that is one block goes the short way here, which is the protocol of `push` and `pull`
line by line, without what they need for many blocks, servers and tables:

    push   a free half (ACK), sync; STAMP and gradient, flush on every server; COMMIT on every server
    pull   new enough (FLOOR; with staleness ACK, too), sync; the block's words, sync; data, flush, sync; the words again

All that is not as it nearly always is goes the way of the verbs: of a gradient with NaN or Inf before anything is written, of a
block that is not whole once that is known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mpips.errors import UsageError
from mpips.transport.base import Array
from mpips.transport.words import BEGIN, BLOCK_WORDS, COMMIT, TICK0, VERSION
from mpips.worker.arrays import deliver, flat, target
from mpips.worker.background import takes_turn
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.pull import Pull
from mpips.worker.push import check_open, spoiled, wait_half

if TYPE_CHECKING:
    from mpips.worker.worker import Worker


class Prepared:
    """A round of fixed arrays: `step()` pushes the gradients as they are now, ends the clock, and fills and returns `values`.

    Attributes:
        values: the new values after each step, by table: the arrays given as `out`, or its own.
    """

    def __init__(self, worker: Worker, gradients: Mapping[str, Any], out: Mapping[str, Any] | None) -> None:
        for given in (gradients, out):
            if given is not None and not isinstance(given, Mapping):
                raise UsageError(f"prepare: {given!r:.40} is not a dict of arrays by table")
        if out is not None and set(out) != set(gradients):
            raise UsageError(f"prepare: gradients of {sorted(map(str, gradients))}, but out for {sorted(map(str, out))}")
        self._worker = worker
        self._gradients = dict(gradients)
        self._names = list(gradients)
        tables = [worker._dense(name, "prepare()").table for name in self._names]
        device, flats, self.values = worker._device, list[tuple[Array, Array]](), dict[str, Any]()
        for table in tables:
            gradient = flat(device, table, gradients[table.name])
            values, array = target(device, table, out[table.name] if out is not None else None)
            flats.append((gradient, values))
            self.values[table.name] = array if array is not None or device is None else deliver(device, table, values, None)
        group = worker._group(tuple(self._names))
        own = [type(g) is np.ndarray and g.flags.c_contiguous for g in self._gradients.values()]  # seen through its flat form
        short = all(own) and device is None and worker._neighbours is None and _Short.serves(worker._link, group)
        self._short = _Short(worker, group, *flats[0]) if short else None

    def __call__(self) -> dict[str, Any]:
        """Do one step and return `values`; raises what `push`, `clock` and `pull` do."""
        short, worker = self._short, self._worker
        if short is None or worker._sums or worker._row_sums or not short.push():
            worker.push(self._gradients)
        worker.clock()
        if short is None or not short.pull():
            worker.pull(self._names, out=list(self.values.values()))
        return self.values


class _Short:
    """Push and pull of one table that is one block; each returns False if it is one for the verbs, and has done nothing then."""

    @staticmethod
    def serves(link: Link, group: Group) -> bool:
        """Whether these tables go the short way."""
        return len(group.states) == 1 and sum(len(run.blocks) for run in group.states[0].runs) == 1 and not link.plan.rings

    def __init__(self, worker: Worker, group: Group, gradient: Array, values: Array) -> None:
        self._worker, self._link, self._group = worker, worker._link, group
        self._gradient, self._values = gradient, values
        self._state = state = group.states[0]
        run, plan, me = state.runs[0], self._link.plan, self._link.index
        here, words = plan.maps[run.server], plan.words
        self._server, self._nbytes, self._staleness = run.server, state.table.nbytes, state.table.staleness
        self._stamp_at = [words.stamp(me, state.number, half) for half in (0, 1)]
        self._stamps = [self._link.stamps[state.number, half] for half in (0, 1)]
        self._block, self._floor, self._ack = words.block(run.slot), words.floor + state.number, self._link.acks + state.number
        self._mailbox = mailbox = [here.mailbox(me, half) + run.offset for half in (0, 1)]
        self._copy = copy = [here.copy(number) + run.offset for number in (0, 1)]
        memory = self._link.transport.mapped(run.server)
        self._near = memory is not None  # then these bytes are copied here: for a few KB a call of MPI takes twice as long
        if memory is not None:
            self._halves, self._copies = ([memory[at : at + self._nbytes] for at in places] for places in (mailbox, copy))
            self._given, self._taken = gradient.view(np.uint8), values.view(np.uint8)

    @takes_turn
    def push(self) -> bool:
        """`Push` of the gradient."""
        link, state, server = self._link, self._state, self._server
        t, now = link.transport, link.now
        check_open(link, self._group)
        link.boundary()
        self._worker._settle()
        if spoiled(state.table, self._gradient):
            return False
        half = state.pushes & 1
        if t.load(server, self._ack) < state.halves[half]:
            wait_half(link, self._group)
        t.sync()
        begin = time.perf_counter()
        if self._staleness == 0:
            state.closed = now
        number = link.tries = link.tries + 1
        stamps = self._stamps[half]
        stamps[0], stamps[1] = number, now << 1
        t.stores(server, self._stamp_at[half], stamps)
        if self._near:
            self._halves[half][...] = self._given
        else:
            t.put(server, self._mailbox[half], self._gradient)
        link.all_flush()
        for each in link.servers:  # as `Link.tell_all`; who dozes is woken by the clock that follows
            t.store(each, link.own + COMMIT, number)
        link.all_flush()
        state.pushed(number, now)
        self._note("push", begin, now)
        return True

    @takes_turn
    def pull(self) -> bool:
        """`Pull` of the values."""
        link, server, block = self._link, self._server, self._block
        t, now, exact = link.transport, link.now, self._staleness == 0
        link.boundary()
        if not self._ready():
            link.wait(self._ready, f"a pull of table {self._group.title}", Pull(link, self._group, [self._values])._blame)
        t.sync()
        begin = time.perf_counter()
        row = t.row(server, block, BLOCK_WORDS)
        version = row[VERSION]
        if exact and row[TICK0 + (version & 1)] > now:
            return False
        t.sync()
        if self._near:
            self._taken[...] = self._copies[version & 1]
        else:
            t.get(server, self._copy[version & 1], self._values)
        t.flush(server)
        t.sync()
        if not whole(t.row(server, block, BLOCK_WORDS), version, now if exact else None):
            link.stats["retries"] += 1
            return False
        self._note("pull", begin, now)
        return True

    def _note(self, verb: str, begin: float, clock: int) -> None:
        link = self._link
        stats = link.stats
        stats["pushes" if verb == "push" else "pulls"] += 1
        stats[verb + "_bytes"] += self._nbytes
        stats[verb + "_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add(verb, begin, clock=clock, what=self._state.table.name)

    def _ready(self) -> bool:
        """`Pull.ready`."""
        link, staleness = self._link, self._staleness
        t, now = link.transport, link.now
        if staleness == 0:
            return t.load(self._server, self._floor) >= now
        return ((staleness is None or t.load(self._server, self._floor) >= now - staleness)
                and t.load(self._server, self._ack) >= self._state.before(now))


def whole(row: list[int], version: int, clock: int | None) -> bool:
    """Whether a block that was read from the copy of a version is whole, and of this clock, by its words afterwards."""
    return row[BEGIN] <= version + 1 and (clock is None or row[TICK0 + (version & 1)] <= clock)
