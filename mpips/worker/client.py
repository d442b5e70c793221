"""The verbs that read, which workers and readers have, and readers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, overload

import numpy as np

from mpips.errors import UnknownTable, UsageError
from mpips.server.row_table import COUNTERS
from mpips.table import Rows
from mpips.trace import span
from mpips.transport.base import Array
from mpips.transport.words import CLOCK, DONE, END
from mpips.worker.arrays import deliver, target
from mpips.worker.background import takes_turn
from mpips.worker.contribution import AnyPush
from mpips.worker.device import Device
from mpips.worker.group import Group
from mpips.worker.handles import PullHandle
from mpips.worker.later import adopt
from mpips.worker.link import Link, TableState
from mpips.worker.pool import bags_of, pooled
from mpips.worker.pull import Pull
from mpips.worker.push import Push
from mpips.worker.row_pull import RowPull
from mpips.worker.rows import all_rows, ids_of, rows_table, rows_target
from mpips.worker.short import Short, short_way
from mpips.worker.views import View


class Client:
    """The verbs that read; workers and readers have them."""

    def __init__(self, link: Link, *, device: Device | None = None) -> None:
        self._link = link
        self._device = device
        self._outstanding: deque[AnyPush] = deque()
        self._reading: list[Pull] = []  # begun, of tables with staleness 0
        self._shorts: dict[str, Short | None] = {}
        self.index = link.index - (link.plan.workers if link.reader else 0)
        self.workers = link.plan.workers
        self.role = "reader" if link.reader else "worker"

    def __repr__(self) -> str:
        """Say who this is: `<worker 1 of 4, clock 20>`."""
        link = self._link
        clock = "ended" if link.reader and link.ended else f"clock {self.now}"  # which a reader asks the servers for
        return f"<{link.name}{'' if link.reader else f' of {self.workers}'}, {clock}>"

    @property
    @takes_turn
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        self._adopt()
        return tuple(self._link.tables)

    @property
    def now(self) -> int:
        """The current clock: how many steps this worker has completed; a resumed run goes on counting."""
        return self._link.now

    @property
    def xp(self) -> Any:
        """The namespace of pulled arrays: numpy, or cupy on a worker with a GPU, see `device=` of `mpips.run`."""
        return self._device.xp if self._device else np

    @property
    def stats(self) -> dict[str, float]:
        """What this rank has done so far, by name, in a new dict.

        Counts of tables (pulls, pushes, skipped) and of reads that had to be repeated (retries), bytes (pull_bytes, push_bytes),
        seconds (pull_seconds, push_seconds, wait_seconds), and rows (cache_hits, cache_misses, see `Worker.cache`).
        """
        return dict(self._link.stats)

    @takes_turn
    def server_stats(self, table: str) -> list[dict[str, int]]:
        """Return counts about a table of rows, one dict for each server.

        | count   | rows ...                                       |
        |---------|------------------------------------------------|
        | rows    | that exist now                                 |
        | pushed  | in all pushes so far                           |
        | folded  | updated by all folds so far                    |
        | born    | created (rows=None only, like all that follow) |
        | expired | removed because of `ttl`                       |
        | evicted | removed to make room                           |
        | refused | pushed but not admitted                        |

        `max(pushed) / mean(pushed)` over the servers tells how well the load is balanced. The counts are of the last completed
        fold; checkpoints keep them.

        Raises:
            UnknownTable, UsageError: no such table, or a dense one.

        >>> ps.server_stats("user")[0]["rows"]                                        # doctest: +SKIP
        """
        state, plan, t = self._state(table), self._link.plan, self._link.transport
        if not isinstance(state.table, Rows):
            raise UsageError(f"table '{table}': server_stats() is for tables of rows, it is dense")
        t.poll()
        at, names = plan.words.counts(state.number), ("rows", *COUNTERS)
        return [dict(zip(names, t.row(server, at, len(names)), strict=True)) for server in range(plan.servers)]

    @overload
    def pull(self, tables: str, out: Any = None, *, rows: Any = None, pool: str | None = None, offsets: Any = None) -> Any: ...
    @overload
    def pull(self, tables: Sequence[str], out: Sequence[Any] | None = None) -> list[Any]: ...
    def pull(self, tables: str | Sequence[str], out: Any = None, *, rows: Any = None, pool: str | None = None,
             offsets: Any = None) -> Any:
        """Return a private, writable array of a table's shape and dtype, or a list of them for a list of names.

        On a worker with a GPU (`xp` is cupy) the array is on that GPU. The pull waits until the table is new enough for its
        staleness. After its own `push` and `clock()` a worker's pull contains that push.

        Args:
            out: array, or list of arrays, to fill and return instead: C-contiguous, of the table's shape and dtype. It may be
                another library's, such as a tensor of PyTorch on the host (NumPy 2.1 or newer), see `mpips.worker.arrays`.
            rows: ids, for a table of rows: integers in an array of any shape, repeats allowed. The result has shape
                `(*rows.shape, dim)`. Without it: all rows, in the order of their ids, if the table has rows=N.
            pool, offsets: return the "sum" or "mean" of the rows of each bag, (bags, dim); bag i is
                `rows[offsets[i]:offsets[i + 1]]`, as in PyTorch's EmbeddingBag.

        Raises:
            UnknownTable, UsageError: no such table, or row; `out` has another shape or dtype.
            WaitTimeout: the table did not become new enough in time.

        >>> w = ps.pull("w")                                                          # doctest: +SKIP
        >>> ps.pull("user", rows=[7, 3, 7]).shape                                     # doctest: +SKIP
        (3, 32)
        """
        if type(tables) is str and rows is None and pool is None and offsets is None:
            short = self._short(tables)
            if short is not None and (values := short.pull(out)) is not None:
                return values
        return self._pull(tables, out, rows, pool, offsets).wait()

    @takes_turn
    def ipull(self, tables: str | Sequence[str], out: Any = None, *, rows: Any = None, pool: str | None = None,
              offsets: Any = None) -> PullHandle[Any]:
        """Begin a pull; the handle's `wait()` returns what `pull` would have returned.

        >>> handle = ps.ipull("w")                                                    # doctest: +SKIP
        >>> batch = next(batches); w = handle.wait()                                  # doctest: +SKIP
        """
        handle = self._pull(tables, out, rows, pool, offsets)
        pull, group = handle.pull, handle.pull.group
        self._start(pull, group)
        if 0 in group.staleness and not pull.over:  # it must be over before the clock
            self._reading = [p for p in self._reading if not p.over] + [pull]
        return handle

    def _start(self, begun: Pull | Push, group: Group) -> None:
        """Do what can be done of a pull or push without waiting, now or meanwhile."""
        background = self._link.background
        if background is None or background.far.isdisjoint(group.servers):
            begun.advance()
        if background is not None and not begun.over:
            background.add(begun)

    @takes_turn
    def _pull(self, tables: str | Sequence[str], out: Any, rows: Any, pool: str | None, offsets: Any) -> PullHandle[Any]:
        """Return a pull of which nothing has been done."""
        if isinstance(tables, str) and (rows is not None or isinstance(self._state(tables).table, Rows)):
            return self._pull_rows(tables, rows, out, pool, offsets)
        if pool is not None or offsets is not None:
            raise UsageError(f"pull: {tables!r:.40} with pool= or offsets=, which go with rows= of one table")
        if not isinstance(tables, (str, Sequence)) or (rows is not None and not isinstance(tables, str)):
            raise UsageError(f"pull: {tables!r:.40} with rows= is not one table's name" if rows is not None else
                             f"pull: {tables!r:.40} is neither a table's name nor a list of names")
        single = isinstance(tables, str)
        group = self._group((tables,) if isinstance(tables, str) else tuple(tables))
        states = group.states
        if group.rows:
            raise UsageError(f"table '{group.rows}': a pull of several tables is for dense ones, rows are pulled of one")
        given = [out] if single else list(out) if out is not None else [None] * len(states)
        if len(given) != len(states):
            raise UsageError(f"pull: {len(states)} tables, but out has {len(given)} arrays")
        self._link.boundary()
        targets = [target(self._device, state.table, array) for state, array in zip(states, given, strict=True)]
        pull = Pull(self._link, group, [flat for flat, _ in targets])

        def one(i: int) -> Any:
            values, array = targets[i]
            return deliver(self._device, states[i].table, values, array) if self._device else array

        def result() -> Any:
            if self._device is None:
                return targets[0][1] if single else [array for _, array in targets]
            return one(0) if single else [one(i) for i in range(len(targets))]

        return PullHandle(self._link, pull, result, None if single else one)

    def _pull_rows(self, name: str, rows: Any, out: Any, pool: str | None, offsets: Any) -> PullHandle[Any]:
        group = self._group((name,))
        table = rows_table(group.states[0].table, "a pull")
        ids = ids_of(self._device, table, all_rows(table) if rows is None else rows, "pull")
        bags = bags_of(table, ids, offsets, pool)
        if bags is not None and out is not None:
            raise UsageError(f"table '{name}': a pull with pool= makes a new array, it takes no out")
        values, result = rows_target(self._device, table, ids, out)
        if bags is not None:
            values = np.empty((ids.size, table.dim), table.np_dtype)
            result = pooled(self._device, bags, values)
        self._link.boundary()
        pull = self._row_pull(group, ids.reshape(-1), values)
        return PullHandle(self._link, pull, result)

    def _row_pull(self, group: Group, ids: Array, out: Array) -> Pull:
        return RowPull(self._link, group, ids, out)

    def view(self, table: str) -> View:
        """Return a context manager for a dense table as a read-only NumPy array, valid until this worker's next `clock()`.

        It is the server's own memory, without a copy, if the table has staleness 0 and lies whole on a server of this node
        (`zero_copy` of the manager tells, inside the block); otherwise a copy. Copy what you want to keep: later versions are
        written there. On Linux a kept array outlives the run, and so does the memory of all that server's tables; elsewhere to
        look at it then is a crash.

        >>> with ps.view("w") as w:                                                   # doctest: +SKIP
        ...     loss = float(((x @ w - y) ** 2).mean())
        """
        state = self._dense(table, "view()")
        return View(self._link, state)

    def span(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager whose duration appears under this name in the trace of `run(trace=...)`, if there is one.

        >>> with ps.span("compute"):                                                  # doctest: +SKIP
        ...     gradient = 2 * x.T @ (x @ w - y) / len(y)
        """
        return span(self._link.trace, name)

    def _state(self, name: str) -> TableState:
        if isinstance(name, str) and name not in self._link.tables:
            self._adopt()
        return self._link.table(name)

    def _dense(self, name: str, verb: str) -> TableState:
        state = self._state(name)
        if isinstance(state.table, Rows):
            raise UsageError(f"table '{name}': {verb} is for dense tables; pull and push take rows=")
        return state

    def _short(self, name: str) -> Short | None:
        """The short way of a table, if it has one."""
        try:
            return self._shorts[name]
        except KeyError:
            group = self._group((name,))
        short = self._shorts[name] = short_way(self._link, group) if self._device is None else None
        return short

    def _group(self, names: tuple[str, ...]) -> Group:
        try:
            return self._link.group(names)
        except UnknownTable:
            self._adopt()
        return self._link.group(names)

    @takes_turn
    def _adopt(self) -> None:
        """Take note of tables that others have created, as far as every server has them."""
        adopt(self._link)


class Reader(Client):
    """A rank that only pulls, for evaluation or prediction beside the training; it always gets the newest values.

    Attributes:
        index, workers: this reader's number, from 0, and how many workers there are.
        role: "reader".

    >>> def read(ps):                                                                 # doctest: +SKIP
    ...     while not ps.done:
    ...         print(ps.now, accuracy(ps.pull("w")))
    """

    @property
    @takes_turn
    def now(self) -> int:
        """How many clocks every worker has completed; once all have ended, how many the furthest one had."""
        link = self._link
        rows = [link.transport.row(0, link.plan.words.client(w) + CLOCK, END - CLOCK + 1) for w in range(self.workers)]
        clocks = [clock for clock, end in rows if not end]
        return min(clocks) if clocks else max(clock for clock, _ in rows)

    @property
    @takes_turn
    def done(self) -> bool:
        """Whether every worker has ended and all updates are published, so that a pull returns the final values."""
        t = self._link.transport
        t.poll()
        finished = all(t.load(server, DONE) for server in range(self._link.plan.servers))
        t.sync()
        if not finished:
            t.pause(1e-3)  # whoever asks in a loop leaves the core to the workers
        return finished
