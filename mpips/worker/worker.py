"""What user code holds: the verbs of a worker, and of a reader.

    w = ps.pull("w")                      a private copy of the table
    ps.push("w", gradient)                one gradient of this worker's current clock
    ps.clock()                            end of the step
    ps.pushpull({"w": gradient})          push all, clock, pull all
    with ps.view("w") as w: ...           read-only, no copy where the table lies whole on this node (staleness 0)
    with ps.gradients("w") as g: ...      the mailbox's own memory, pushed when the block ends
    ps.ipull, ps.ipush, ps.ipushpull      the same with handles: test(), wait()
    ps.barrier(), ps.save()               all workers meet; a checkpoint after this clock
    ps.create(table)                      a table that comes later, in reserved space
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, overload

import numpy as np

from mpips.errors import UnknownTable, UsageError
from mpips.server.catalogue import decode, encode, table_of
from mpips.table import Dense
from mpips.trace import span
from mpips.transport.base import Array
from mpips.transport.plan import check_ring
from mpips.transport.words import CATALOGUE, CATALOGUE_BYTES, CLOCK, CREATE, CREATE_DONE, CREATED, DONE, END, SPOOL
from mpips.worker.arrays import deliver, flat, target
from mpips.worker.clocks import Clocks
from mpips.worker.contribution import AnyPush, begin_push
from mpips.worker.device import Device
from mpips.worker.group import Group
from mpips.worker.handles import PullHandle, PushHandle, SaveHandle
from mpips.worker.link import Link, TableState
from mpips.worker.neighbours import Neighbours
from mpips.worker.pull import Pull
from mpips.worker.push import check_open
from mpips.worker.views import Gradients, View

Arrays = Mapping[str, Any]


class Client:
    """The verbs that read; workers and readers have them."""

    def __init__(self, link: Link, *, device: Device | None = None) -> None:
        self._link = link
        self._device = device
        self._outstanding: deque[AnyPush] = deque()
        self._reading: list[Pull] = []  # begun, of tables with staleness 0
        self.index = link.index - (link.plan.workers if link.reader else 0)
        self.workers = link.plan.workers
        self.role = "reader" if link.reader else "worker"

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        self._adopt()
        return tuple(self._link.tables)

    @property
    def now(self) -> int:
        """The current clock: steps that this worker has completed."""
        return self._link.now

    @property
    def xp(self) -> Any:
        """The namespace of pulled arrays: numpy, or cupy on a worker with a GPU."""
        return self._device.xp if self._device else np

    @property
    def stats(self) -> dict[str, float]:
        """Counts, bytes and seconds so far (pulls, pushes, pull_bytes, push_bytes, ..._seconds, retries, skipped)."""
        return dict(self._link.stats)

    @overload
    def pull(self, tables: str, out: Any = None) -> Any: ...
    @overload
    def pull(self, tables: Sequence[str], out: Sequence[Any] | None = None) -> list[Any]: ...
    def pull(self, tables: str | Sequence[str], out: Any = None) -> Any:
        """Return a private, writable array of a table's shape and dtype, or a list of them for a list of names.

        Args:
            out: array(s) to fill instead, C-contiguous, of the table's shape and dtype.

        Raises:
            UnknownTable, UsageError: no such table; `out` has another shape or dtype.
            WaitTimeout: the table did not become new enough in time.

        >>> w = ps.pull("w")                                                          # doctest: +SKIP
        """
        return self.ipull(tables, out).wait()

    def ipull(self, tables: str | Sequence[str], out: Any = None) -> PullHandle[Any]:
        """Begin a pull; the handle's `wait()` returns what `pull` would have."""
        if not isinstance(tables, (str, Sequence)):
            raise UsageError(f"pull: {tables!r:.40} is neither a table's name nor a list of names")
        single = isinstance(tables, str)
        group = self._group((tables,) if isinstance(tables, str) else tuple(tables))
        states = group.states
        given = [out] if single else list(out) if out is not None else [None] * len(states)
        if len(given) != len(states):
            raise UsageError(f"pull: {len(states)} tables, but out has {len(given)} arrays")
        self._link.boundary()
        targets = [target(self._device, state.table, array) for state, array in zip(states, given, strict=True)]
        pull = Pull(self._link, group, [flat for flat, _ in targets])

        def result() -> Any:
            arrays = [array for _, array in targets]
            if self._device:
                arrays = [deliver(self._device, state.table, flat, array)
                          for state, (flat, array) in zip(states, targets, strict=True)]
            return arrays[0] if single else arrays

        handle = PullHandle(pull, result)
        if 0 in group.staleness and not pull.done:
            self._reading = [p for p in self._reading if not p.done] + [pull]
        return handle

    def view(self, table: str) -> View:
        """Return a context whose value is the table, read-only; without a copy if `zero_copy` says so."""
        state = self._state(table)
        self._link.boundary()
        return View(self._link, state)

    def span(self, name: str) -> AbstractContextManager[None]:
        """Return a context that is shown under this name in the trace, if `run` was asked for one.

        >>> with ps.span("compute"):                                                  # doctest: +SKIP
        ...     gradient = 2 * x.T @ (x @ w - y) / len(y)
        """
        return span(self._link.trace, name)

    def _state(self, name: str) -> TableState:
        if name not in self._link.tables:
            self._adopt()
        return self._link.table(name)

    def _group(self, names: tuple[str, ...]) -> Group:
        try:
            return self._link.group(names)
        except UnknownTable:
            self._adopt()
        return self._link.group(names)

    def _adopt(self) -> None:
        """Take note of tables that others have created, as far as every server has them."""
        link = self._link
        t, plan = link.transport, link.plan
        base = plan.maps[0]
        known = len(plan.layout.tables)
        created = min(t.load(server, CREATED) for server in range(plan.servers))
        if created <= known - link.declared:
            return
        t.sync()
        room = np.empty(CATALOGUE_BYTES, np.uint8)
        t.get(0, base.catalogue, room)
        t.flush(0)
        at = 0
        for number in range(created):
            described, size = decode(room[at:])
            at += size
            if number >= known - link.declared:
                layout = plan.fits(table_of(described))
                assert layout is not None, "the servers had room"
                plan.adopt(layout)
        link.grow()


class Reader(Client):
    """A rank that only pulls, always the newest; `done` once every worker has ended and all is published."""

    @property
    def now(self) -> int:
        """Clocks that every worker has completed; once all have ended, the furthest one's."""
        link = self._link
        rows = [link.transport.row(0, link.plan.words.client(w) + CLOCK, END - CLOCK + 1) for w in range(self.workers)]
        clocks = [clock for clock, end in rows if not end]
        return min(clocks) if clocks else max(clock for clock, _ in rows)

    @property
    def done(self) -> bool:
        """Whether what a pull gives now is final."""
        t = self._link.transport
        t.poll()
        finished = all(t.load(server, DONE) for server in range(self._link.plan.servers))
        t.sync()
        if not finished:
            t.pause(1e-3)  # whoever asks in a loop leaves the core to the workers
        return finished


class Worker(Client):
    """A rank that computes gradients."""

    def __init__(self, link: Link, *, device: Device | None = None, saves: bool = False,
                 neighbours: Neighbours | None = None) -> None:
        super().__init__(link, device=device)
        self._neighbours = neighbours
        self._clocks = Clocks(link, neighbours)
        self._saves = saves
        self._requests = 0
        self._sums: dict[str, Array] = {}  # by table, what `push(more=True)` has added up

    @overload
    def push(self, table: str, gradient: Any, *, more: bool = False) -> None: ...
    @overload
    def push(self, table: Arrays, gradient: None = None, *, more: bool = False) -> None: ...
    def push(self, table: str | Arrays, gradient: Any = None, *, more: bool = False) -> None:
        """Push a gradient of exactly the table's shape and dtype, or a dict of them; returns when it is committed.

        Args:
            more: only add it up here; the next push without `more` sends the sum.

        Raises:
            UnknownTable, UsageError: no such table; wrong shape or dtype.
            NonFiniteGradient: NaN or Inf, unless the table says nonfinite="skip". Nothing is pushed.
            ProtocolError: the table (staleness 0) has been pushed in this clock already.

        >>> ps.push("w", gradient)                                                    # doctest: +SKIP
        """
        self.ipush(table, gradient, more=more).wait()

    def ipush(self, table: str | Arrays, gradient: Any = None, *, more: bool = False) -> PushHandle:
        """Begin a push; the gradient may not change before the handle's `wait()`."""
        if isinstance(table, str):
            group = self._group((table,))
            states = group.states
            flats = [flat(self._device, states[0].table, gradient)]
        else:
            if not isinstance(table, Mapping):
                raise UsageError(f"push: {table!r:.40} is neither a table's name nor a dict of gradients by name")
            if gradient is not None:
                raise UsageError("push: a dict of gradients and another gradient")
            pairs = dict(table)
            group = self._group(tuple(pairs))
            states = group.states
            flats = [flat(self._device, state.table, array) for state, array in zip(states, pairs.values(), strict=True)]
        check_open(self._link, group)
        self._link.boundary()
        if more or self._sums:
            flats = [self._add_up(state.table, one, more) for state, one in zip(states, flats, strict=True)]
        if more or not states:
            return PushHandle(None)
        self._settle()
        push = begin_push(self._link, self._neighbours, group, flats)
        handle = PushHandle(push)
        if not push.committed:
            self._outstanding.append(push)
        return handle

    def pushpull(self, gradients: Arrays) -> dict[str, Any]:
        """Push all, `clock()`, pull all; returns the new values by name."""
        return self.ipushpull(gradients).wait()

    def ipushpull(self, gradients: Arrays) -> PullHandle[dict[str, Any]]:
        """Begin a pushpull: push and clock are done when this returns, the handle waits for the values."""
        names = list(gradients)
        self.push(gradients)
        self.clock()
        handle = self.ipull(names)
        return PullHandle(handle._pull, lambda: dict(zip(names, handle.wait(), strict=True)))

    def gradients(self, table: str) -> Gradients:
        """Return a context whose value is an array to write the gradient to; pushed when the block ends without an exception."""
        state = self._state(table)
        if table in self._sums:
            raise UsageError(f"table '{table}': gradients() after push(more=True); the last push must be without more")
        self._link.boundary()
        self._settle()
        return Gradients(self._link, state, self._neighbours)

    def clock(self) -> int:
        """End this worker's step and return the new clock; waits for what was begun by `ipush` or `ipull`.

        With `run(combine="node")` it may wait for the node's other workers too, see `neighbours`; else for nobody.
        """
        self._no_sums("clock()")
        self._link.boundary()
        self._settle()
        for pull in self._reading:
            pull.wait()  # the copy of this clock may be written over once this worker is in the next
        self._reading = []
        return self._clocks.tick()

    def barrier(self) -> None:
        """Wait until every worker that has not ended is here."""
        self._settle()
        self._clocks.barrier()

    def save(self) -> SaveHandle:
        """Ask for a checkpoint that holds everything up to the end of the current clock; `wait()` only after `clock()`."""
        if not self._saves:
            raise UsageError("save: run() was given no checkpoint=Checkpoints(...)")
        self._link.boundary()
        cut = self._clocks.ask_save()

        def wait() -> None:
            if self._link.now < cut:
                raise UsageError(f"save: wait() in clock {self._link.now}, but the checkpoint is taken after clock()")
            self._clocks.wait_saved(cut)

        return SaveHandle(lambda: self._clocks.test_saved(cut), wait)

    def create(self, table: Dense) -> None:
        """Create a table in the spare space of `run(reserve=...)`; every worker may ask, the first one's request counts.

        With checkpoints and only tables of staleness 0, this waits until every worker has come to the caller's clock.

        Raises:
            UsageError: it exists and is declared differently, or there is no room.
        """
        link = self._link
        t, words = link.transport, link.plan.words
        if table.name not in link.tables:
            self._adopt()
        if table.name in link.tables and link.tables[table.name].table.describe() == table.describe():
            return
        if link.plan.rings:
            check_ring(table)
            if self._neighbours is not None:
                raise UsageError(f"table '{table.name}': created later where mailboxes are rings and combine='node'")
        if link.plan.lockstep and table.staleness != 0 and self._saves:
            raise UsageError(f"table '{table.name}': staleness {table.staleness} in a job whose checkpoints rely on staleness 0")
        self._requests += 1
        since = link.now if link.plan.lockstep and self._saves else -1
        entry, spool = encode(table, since), link.plan.maps[0].spool(link.index)
        t.put(0, spool, entry)
        t.flush(0)
        link.tell(0, CREATE, self._requests)
        reply = words.reply(link.index) + CREATE_DONE
        link.wait(lambda: abs(t.load(0, reply)) >= self._requests, f"table '{table.name}' to be created",
                  lambda: "server 0 has not answered")
        t.sync()
        if t.load(0, reply) < 0:
            answer = np.empty(SPOOL, np.uint8)
            t.get(0, spool, answer)
            t.flush(0)
            size = int(answer[:8].view(np.int64)[0])
            raise UsageError(answer[8 : 8 + size].tobytes().decode())
        count = t.load(0, words.peer(0) + CATALOGUE)
        link.wait(lambda: all(t.load(s, CREATED) >= count for s in range(link.plan.servers)),
                  f"table '{table.name}' on every server", lambda: "a server has not created it yet")
        self._adopt()

    def _end(self) -> None:
        """Complete what this worker has begun and say that it is gone."""
        self._no_sums("the end")
        self._settle()
        pushed = any(state.pushed_in(self._link.now) for state in self._link.tables.values())
        if pushed or self._clocks.owes_save:
            self._clocks.tick()
        self._clocks.end()

    def _no_sums(self, what: str) -> None:
        """Raise UsageError if a push(more=True) has not been followed by one without: its sum would be lost."""
        for name in self._sums:
            raise UsageError(f"table '{name}': {what} after push(more=True); the last push must be without more")

    def _settle(self) -> None:
        """Commit the pushes that were begun, in their order: commit numbers have no gaps."""
        while self._outstanding:
            push = self._outstanding.popleft()
            if not push.failure:  # else whoever holds the handle has been told
                push.wait()

    def _add_up(self, table: Dense, gradient: Array, more: bool) -> Array:
        """Add to the worker's sum of a table in the compute dtype; without `more`, return the sum and start anew."""
        total = self._sums.pop(table.name, None)
        if total is None:
            if not more:
                return gradient
            total = gradient.astype(table.compute_dtype)
        else:
            total += gradient.astype(table.compute_dtype, copy=False)
        if more:
            self._sums[table.name] = total
            return gradient
        return total.astype(table.np_dtype, copy=False)
