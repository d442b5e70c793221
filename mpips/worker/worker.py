"""What user code holds: the verbs of a worker; those that only read stand in `client`, a reader has them too.

    w = ps.pull("w")                      a private copy of the table
    ps.push("w", gradient)                one gradient of this worker's current clock
    u = ps.pull("user", rows=ids)         rows of a table of rows, in the order of the ids
    ps.push("user", gradient, rows=ids)   their gradients; those of equal ids are added up
    ps.clock()                            end of the step
    ps.pushpull({"w": gradient})          push all, clock, pull all
    step = ps.prepare({"w": gradient})    the same of fixed arrays, looked at once: step() for each
    with ps.view("w") as w: ...           read-only, no copy where the table lies whole on this node (staleness 0)
    with ps.gradients("w") as g: ...      the mailbox's own memory, pushed when the block ends
    ps.ipull, ps.ipush, ps.ipushpull      the same with handles: test(), wait()
    ps.cache("user", rows=10_000)         this worker keeps rows that it has pulled, while they are new enough
    ps.intent("user", ids, at_clock=7)    rows that it will want: fetched into its cache before
    ps.barrier(), ps.save()               all workers meet; a checkpoint after this clock
    ps.create(table)                      a table that comes later, in reserved space
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import numpy as np

from mpips.errors import UsageError
from mpips.given import whole
from mpips.table import Dense, Table
from mpips.transport.base import Array
from mpips.worker.ahead import Ahead, Intent
from mpips.worker.arrays import flat
from mpips.worker.background import takes_turn
from mpips.worker.client import Client
from mpips.worker.clocks import Clocks
from mpips.worker.contribution import begin_push
from mpips.worker.device import Device
from mpips.worker.group import Group
from mpips.worker.handles import PullHandle, PushHandle, SaveHandle
from mpips.worker.later import create
from mpips.worker.link import Link
from mpips.worker.neighbours import Neighbours
from mpips.worker.pool import bags_of
from mpips.worker.prepared import Prepared
from mpips.worker.pull import Pull
from mpips.worker.push import Push, check_open
from mpips.worker.row_cache import CachedPull, RowCache, new_cache
from mpips.worker.row_push import RowPush
from mpips.worker.rows import gradient_of, ids_of, rows_table
from mpips.worker.views import Gradients

Arrays = Mapping[str, Any]


class Worker(Client):
    """A rank that computes gradients: `run` gives it to your function; `help('mpips.worker.worker')` has its verbs in one list.

    Attributes:
        index, workers: this worker's number, from 0, and how many there are: each takes another part of the data.
        role: "worker".
    """

    def __init__(self, link: Link, *, device: Device | None = None, saves: bool = False,
                 neighbours: Neighbours | None = None) -> None:
        super().__init__(link, device=device)
        self._neighbours = neighbours
        self._clocks = Clocks(link, neighbours)
        self._saves = saves
        self._sums: dict[str, Array] = {}  # by table, what `push(more=True)` has added up
        self._row_sums: dict[str, list[tuple[Array, Array]]] = {}  # by table of rows, ids and gradients of `push(more=True)`
        self._caches: dict[int, RowCache] = {}  # by table
        self._ahead = Ahead(link)

    @overload
    def push(self, table: str, gradient: Any, *, more: bool = False, rows: Any = None, pool: str | None = None,
             offsets: Any = None) -> None: ...
    @overload
    def push(self, table: Arrays, gradient: None = None, *, more: bool = False) -> None: ...
    def push(self, table: str | Arrays, gradient: Any = None, *, more: bool = False, rows: Any = None, pool: str | None = None,
             offsets: Any = None) -> None:
        """Push a gradient of exactly the table's shape and dtype, or a dict of gradients by table; return once it is committed.

        It may be an array of NumPy, of CuPy on a worker with a GPU, or of another library on the host, such as PyTorch.
        The gradient belongs to the current clock. Committed means that the servers will apply it and that the caller may change
        the array again; `ipush(...).wait(applied=True)` waits until it has been applied.

        Args:
            more: only add the gradient up here; the next push of the table without `more` sends the sum. This is how several
                gradients are pushed in one clock with staleness 0.
            rows: ids, for a table of rows: integers in an array of any shape; the gradient has shape `(*rows.shape, dim)`, and the
                gradients of equal ids are added up.
            pool, offsets: the gradient, (bags, dim), is with respect to the result of a pull with the same arguments.

        Raises:
            UnknownTable, UsageError: no such table or row; wrong shape or dtype.
            NonFiniteGradient: NaN or Inf, unless the table says nonfinite="skip" or "allow". Nothing is pushed, and what `more`
                has added up for it is gone too.
            ProtocolError: the table (staleness 0) has been pushed in this clock already.

        >>> ps.push("w", gradient)                                                    # doctest: +SKIP
        >>> ps.push({"w": gradient_w, "b": gradient_b})                               # doctest: +SKIP
        >>> ps.push("user", gradient, rows=batch.users)                               # doctest: +SKIP
        """
        if type(table) is str and not more and rows is None and pool is None and offsets is None:
            short = self._short(table) if self._neighbours is None else None
            if short is not None and not (self._sums or self._outstanding) and short.push(gradient):
                return
        self._push(table, gradient, more, rows, pool, offsets).wait()

    @takes_turn
    def ipush(self, table: str | Arrays, gradient: Any = None, *, more: bool = False, rows: Any = None, pool: str | None = None,
              offsets: Any = None) -> PushHandle:
        """Begin a push; the gradient may not change before the handle's `wait()`.

        >>> handle = ps.ipush("w", gradient)                                          # doctest: +SKIP
        >>> handle.wait(applied=True)                                                 # doctest: +SKIP
        """
        handle = self._push(table, gradient, more, rows, pool, offsets)
        if (push := handle.push) is not None:
            if isinstance(push, Push):
                self._start(push, push.group)
            else:
                push.advance()
            if not push.committed:
                self._outstanding.append(push)
        return handle

    @takes_turn
    def _push(self, table: str | Arrays, gradient: Any, more: bool, rows: Any, pool: str | None, offsets: Any) -> PushHandle:
        """Return a push of which nothing has been done; what was begun before is committed."""
        if rows is not None:
            return self._push_rows(table, gradient, rows, more, pool, offsets)
        if pool is not None or offsets is not None:
            raise UsageError(f"push: {table!r:.40} with pool= or offsets=, which go with rows=")
        if isinstance(table, str):
            group = self._group((table,))
            states = group.states
            flats = [flat(self._device, self._dense(table, "a push without rows=").table, gradient)]
        else:
            if not isinstance(table, Mapping):
                raise UsageError(f"push: {table!r:.40} is neither a table's name nor a dict of gradients by name")
            if gradient is not None:
                raise UsageError("push: a dict of gradients and another gradient")
            pairs = dict(table)
            group = self._group(tuple(pairs))
            states = group.states
            if group.rows:
                self._dense(group.rows, "a push of several tables")
            flats = [flat(self._device, state.table, array) for state, array in zip(states, pairs.values(), strict=True)]
        check_open(self._link, group)
        self._link.boundary()
        if not more:
            self._settle()  # it may raise: before a sum is taken
        if more or self._sums:
            flats = [self._add_up(state.table, one, more) for state, one in zip(states, flats, strict=True)]
        if more or not states:
            return PushHandle(self._link, None, later=more)
        return PushHandle(self._link, begin_push(self._link, self._neighbours, group, flats))

    def _push_rows(self, name: Any, gradient: Any, rows: Any, more: bool, pool: str | None, offsets: Any) -> PushHandle:
        if not isinstance(name, str):
            raise UsageError(f"push: rows= goes with one table's name, not with a {type(name).__name__}")
        group = self._group((name,))
        table = rows_table(group.states[0].table, "a push")
        ids = ids_of(self._device, table, rows, "push")
        bags = bags_of(table, ids, offsets, pool)
        values = gradient_of(self._device, table, ids.shape if bags is None else (bags.count,), gradient)
        if bags is not None:
            values = bags.spread(values)
        check_open(self._link, group)
        self._link.boundary()
        ids = ids.reshape(-1)
        if more:
            self._row_sums.setdefault(name, []).append((ids, values.copy()))  # the ids are a copy already
            return PushHandle(self._link, None, later=True)
        self._settle()  # it may raise: before a sum is taken
        if parts := self._row_sums.pop(name, []):
            parts.append((ids, values))
            ids, values = np.concatenate([ids for ids, _ in parts]), np.concatenate([values for _, values in parts])
        push = RowPush(self._link, group, ids, values)
        if (cache := self._caches.get(group.lo)) is not None:
            cache.pushed(push.ids, self._link.now)
        self._ahead.step()
        return PushHandle(self._link, push)

    def _row_pull(self, group: Group, ids: Array, out: Array) -> Pull:
        if (cache := self._caches.get(group.lo)) is None:
            return super()._row_pull(group, ids, out)
        self._ahead.finish(group)
        pull = CachedPull(self._link, group, ids, out, cache)
        self._link.stats["cache_hits"] += pull.hits
        self._link.stats["cache_misses"] += len(ids) - pull.hits
        return pull

    def cache(self, table: str, rows: int, *, keep: str = "lru", clocks: int | None = None, own: bool = True) -> None:
        """Cache rows that this worker pulls, and serve later pulls from the cache while the rows are new enough.

        The table's staleness promise holds with a cache as without. It saves network traffic and server time where rows are pulled
        more often than pushed; on one node it gains nothing.

        Args:
            rows: the most rows to keep.
            keep: which rows to keep when there is no room, those used most recently ("lru") or most often ("lfu").
            clocks: for a table with staleness None, where it must be given, and only there: for how many clocks a cached row may
                be used.
            own: whether this worker's pulls must contain its own pushes; pushing a row then drops it from the cache. If False, its
                own pushes may be missing for as long as those of others.

        Raises:
            UnknownTable, UsageError: no such table, or not one of rows; other values than these.

        >>> ps.cache("item", rows=50_000, keep="lfu")                                 # doctest: +SKIP
        >>> ps.stats["cache_hits"], ps.stats["cache_misses"]                          # doctest: +SKIP
        """
        state = self._state(table)
        self._caches[state.number] = new_cache(rows_table(state.table, "cache()"), rows, keep, clocks, own=own)

    @takes_turn
    def intent(self, table: str, rows: Any, at_clock: int) -> None:
        """Announce that these rows will be pulled in a given clock, so that they are fetched into the table's cache ahead of it.

        Args:
            rows: ids, integers in an array of any shape.
            at_clock: the current clock or a later one. With staleness 0 the fetch begins with that clock, otherwise as early as
                the staleness allows.

        Raises:
            UnknownTable, UsageError: no such table or row; the table has no `cache`; the clock is over.

        >>> ps.intent("item", rows=next_ids, at_clock=ps.now + 1)                     # doctest: +SKIP
        """
        group = self._group((table,))
        ids = ids_of(self._device, rows_table(group.states[0].table, "intent()"), rows, "pull")
        if (cache := self._caches.get(group.lo)) is None:
            raise UsageError(f"table '{table}': intent() fetches rows into a cache; call cache() first")
        if (clock := whole(at_clock, self.now)) is None:
            raise UsageError(f"table '{table}': intent() for clock {at_clock!r}, in clock {self.now}")
        self._ahead.add(Intent(group, cache, ids.reshape(-1), clock))

    def pushpull(self, gradients: Arrays) -> dict[str, Any]:
        """Push all gradients, call `clock()`, and return the new values of the same tables, by name.

        >>> w = ps.pushpull({"w": gradient})["w"]                                     # doctest: +SKIP
        """
        self.push(gradients)
        names = list(gradients)
        self.clock()
        return dict(zip(names, self.pull(names), strict=True))

    def ipushpull(self, gradients: Arrays) -> PullHandle[dict[str, Any]]:
        """Begin a `pushpull`: push and clock are done when this returns, the handle's `wait()` returns the values."""
        self.push(gradients)
        names = list(gradients)
        self.clock()
        handle = self.ipull(names)
        return PullHandle(self._link, handle.pull, lambda: dict(zip(names, handle.wait(), strict=True)))

    def prepare(self, gradients: Arrays, out: Arrays | None = None) -> Prepared:
        """Return a round of fixed arrays: each call of it is a `pushpull` of what they hold then, into `out` or arrays of its own.

        Tables and arrays that are wrong are found here, not in the first step. It costs what its verbs cost.

        Raises:
            UnknownTable, UsageError: as of `push` and `pull`, and if `out` is not of the same tables.

        >>> step = ps.prepare({"w": gradient}, out={"w": w})                          # doctest: +SKIP
        >>> for batch in batches:                                                     # doctest: +SKIP
        ...     gradient[...] = batch.x.T @ (batch.x @ w - batch.y)
        ...     step()
        """
        return Prepared(self, gradients, out)

    def gradients(self, table: str) -> Gradients:
        """Return a context manager for an array to write a dense table's gradient into; it is pushed when the block ends.

        The array is uninitialised. Where possible it is the mailbox's own memory (`zero_copy` of the manager tells, inside the
        block), which saves a copy. If the block raises, nothing is pushed. `clock()` comes after the block. Do not keep the
        array: later gradients are written there. After the run to touch it is a crash, except on Linux.

        Raises:
            UnknownTable, UsageError: no such table, or one of rows.
            ProtocolError: the table (staleness 0) has been pushed in this clock already; in `clock()`, if called inside the block.

        >>> with ps.gradients("w") as g:                                              # doctest: +SKIP
        ...     np.matmul(x.T, error, out=g)
        """
        state = self._dense(table, "gradients()")
        if table in self._sums:
            raise UsageError(f"table '{table}': gradients() after push(more=True); the last push must be without more")
        return Gradients(self._link, state, self._settle, self._neighbours)

    @takes_turn
    def clock(self) -> int:
        """End this worker's step and return the new clock.

        It completes what `ipush` has begun, and what `ipull` has begun of tables with staleness 0. It does not wait for other
        workers, except for those of the same node with `run(combine="node")`, see `mpips.worker.neighbours`.
        """
        self._no_sums("clock()")
        self._link.boundary()
        self._settle()
        for pull in self._reading:
            pull.wait()  # the copy of this clock may be written over once this worker is in the next
        self._reading = []
        now = self._clocks.tick()
        self._ahead.step()
        return now

    @takes_turn
    def barrier(self) -> None:
        """Wait until every worker that has not ended has called `barrier()` as often as this one.

        What they have pushed is committed then. It is in a pull of all of them, whatever the staleness, if each has waited for its
        last push to be applied:

        >>> ps.ipush("w", gradient).wait(applied=True); ps.barrier(); w = ps.pull("w")    # doctest: +SKIP
        """
        self._settle()
        self._clocks.barrier()

    @takes_turn
    def save(self) -> SaveHandle:
        """Ask for a checkpoint of everything up to the end of the current clock; return a handle to wait for it after `clock()`.

        Raises:
            UsageError: `run` was given no `checkpoint=`.

        >>> handle = ps.save(); ps.clock(); handle.wait()                             # doctest: +SKIP
        """
        if not self._saves:
            raise UsageError("save: run() was given no checkpoint=Checkpoints(...)")
        self._link.boundary()
        cut = self._clocks.ask_save()

        def wait() -> None:
            if self._link.now < cut:
                raise UsageError(f"save: wait() in clock {self._link.now}, but the checkpoint is taken after clock()")
            self._clocks.wait_saved(cut)

        return SaveHandle(self._link, lambda: self._clocks.test_saved(cut), wait)

    @takes_turn
    def create(self, table: Dense) -> None:
        """Create a dense table in the spare space of `run(reserve=...)`; return when it exists on every server.

        Any worker may create it, and several may create the same one: the first request counts. If there are checkpoints and all
        tables have staleness 0, this waits until every worker has come to the caller's clock. A resumed run creates it again,
        before its first use and the next checkpoint: it begins with the values of the checkpoint that the run started from.

        Raises:
            UsageError: it exists and is declared differently, there is no room for it, or it starts from `init.array`.

        >>> ps.create(mpips.Dense("head", (64, 10), mpips.optim.SGD(lr=0.1)))         # doctest: +SKIP
        """
        if not isinstance(table, Dense):
            raise UsageError(f"create: {table!r:.60} is not a dense table; tables of rows are given to run()")
        create(self._link, table, saves=self._saves)

    @takes_turn
    def _end(self) -> None:
        """Complete what this worker has begun and say that it is gone."""
        self._no_sums("the end")
        self._settle()
        pushed = any(state.pushed_in(self._link.now) for state in self._link.tables.values())
        if pushed or self._clocks.owes_save:
            self._clocks.tick()
        self._clocks.end()
        self._shorts.clear()  # of windows, which stay mapped as long as an array of them is kept

    def _no_sums(self, what: str) -> None:
        """Raise UsageError if a push(more=True) has not been followed by one without: its sum would be lost."""
        for name in (*self._sums, *self._row_sums):
            raise UsageError(f"table '{name}': {what} after push(more=True); the last push must be without more")

    def _settle(self) -> None:
        """Commit the pushes that were begun, in their order: commit numbers have no gaps."""
        while self._outstanding:
            push = self._outstanding.popleft()
            if not (push.failure and push.told):  # whoever holds the handle has been
                push.wait()

    def _add_up(self, table: Table, gradient: Array, more: bool) -> Array:
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
