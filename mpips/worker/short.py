"""The short way of a push and a pull of one table that is one block: the protocol of `push` and `pull` line by line, without what
these need for many blocks, servers and tables, which takes longer than a few KB.

    push   a free half (ACK), sync; STAMP and gradient, flush on every server; COMMIT on every server
    pull   new enough (FLOOR; with staleness ACK, too), sync; the block's words, sync; data, flush, sync; the words again

All that is not as it nearly always is goes the way of the verbs, which say what is wrong: an array that does not fit as it is, a
table that is closed, a gradient with NaN or Inf, before anything is written; a block that is not whole once that is known.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mpips.table import Rows
from mpips.transport.base import Array
from mpips.transport.words import BEGIN, BLOCK_WORDS, COMMIT, TICK0, VERSION
from mpips.worker.background import takes_turn
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.push import spoiled, wait_half


def short_way(link: Link, group: Group) -> Short | None:
    """Return the short way of a group, if it has one for this client."""
    state = group.states[0]
    if isinstance(state.table, Rows) or link.reader or link.plan.rings:
        return None
    return Short(link, group) if sum([len(run.blocks) for run in state.runs]) == 1 else None


class Short:
    """Push and pull of one table; where they are for the verbs they return False and None, and nothing has been pushed or read."""

    def __init__(self, link: Link, group: Group) -> None:
        self._link, self._group = link, group
        self._state = state = group.states[0]
        run, plan, me, table = state.runs[0], link.plan, link.index, state.table
        here, words = plan.maps[run.server], plan.words
        self._table, self._shape, self._dtype, self._nbytes = table, table.shape, table.np_dtype, table.nbytes
        self._server, self._staleness = run.server, table.staleness
        self._stamp_at = [words.stamp(me, state.number, half) for half in (0, 1)]
        self._stamps = [link.stamps[state.number, half] for half in (0, 1)]
        self._block, self._floor, self._ack = words.block(run.slot), words.floor + state.number, link.acks + state.number
        self._mailbox = mailbox = [here.mailbox(me, half) + run.offset for half in (0, 1)]
        self._copy = copy = [here.copy(number) + run.offset for number in (0, 1)]
        memory = link.transport.mapped(run.server)
        self._near = memory is not None  # then these bytes are copied here: for a few KB a call of MPI takes twice as long
        if memory is not None:
            self._halves, self._copies = ([memory[at : at + self._nbytes].view(self._dtype).reshape(self._shape) for at in places]
                                          for places in (mailbox, copy))

    @takes_turn
    def push(self, gradient: Any) -> bool:
        """Push a gradient, with nothing begun before it; return whether it is committed."""
        link, state, server = self._link, self._state, self._server
        if (type(gradient) is not np.ndarray or gradient.shape != self._shape or gradient.dtype != self._dtype
                or not gradient.flags.c_contiguous):
            return False
        t, now = link.transport, link.now
        if state.closed == now or self._table.name in link.filling:
            return False
        link.boundary()
        if spoiled(self._table, gradient.reshape(-1)):
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
            self._halves[half][...] = gradient
        else:
            t.put(server, self._mailbox[half], gradient)
        link.all_flush()
        link.tell_all(COMMIT, number)
        state.pushed(number, now)
        stats = link.stats
        stats["pushes"] += 1
        stats["push_bytes"] += self._nbytes
        stats["push_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add("push", begin, clock=now, what=self._table.name)
        return True

    @takes_turn
    def pull(self, out: Any) -> Array | None:
        """Read the table into `out`, a new array if that is None, and return it; None if the verb has to."""
        link, server, block = self._link, self._server, self._block
        if out is None:
            out = np.empty(self._shape, self._dtype)
        elif type(out) is not np.ndarray or out.shape != self._shape or out.dtype != self._dtype or not out.flags.carray:
            return None
        t, now, exact = link.transport, link.now, self._staleness == 0
        link.boundary()
        if not self._ready():
            link.wait(self._ready, f"a pull of table {self._group.title}", lambda: link.behind(now - (self._staleness or 0)))
        t.sync()
        begin = time.perf_counter()
        row = t.row(server, block, BLOCK_WORDS)
        version = row[VERSION]
        if exact and row[TICK0 + (version & 1)] > now:
            return None
        t.sync()
        if self._near:
            out[...] = self._copies[version & 1]
        else:
            t.get(server, self._copy[version & 1], out)
        t.flush(server)
        t.sync()
        stats = link.stats
        if not whole(t.row(server, block, BLOCK_WORDS), version, now if exact else None):
            stats["retries"] += 1
            return None
        stats["pulls"] += 1
        stats["pull_bytes"] += self._nbytes
        stats["pull_seconds"] += time.perf_counter() - begin
        if link.trace is not None:
            link.trace.add("pull", begin, clock=now, what=self._table.name)
        return out  # type: ignore[no-any-return]

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
