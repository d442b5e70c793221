"""What all verbs of one client share: transport, plan, this client's words, and what it knows of its own pushes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mpips.errors import UnknownTable
from mpips.layout import Run, repeatable
from mpips.table import Table
from mpips.trace import Trace
from mpips.transport.base import Transport, wait
from mpips.transport.plan import Plan
from mpips.transport.words import CLOCK, END, SAVING
from mpips.worker.background import Background
from mpips.worker.group import Group

GROUPS = 64  # kept by a client

if TYPE_CHECKING:
    from mpips.worker.rings import Ring
    from mpips.worker.row_ask import _Talk
    from mpips.worker.row_slots import Slots


@dataclass
class TableState:
    """One table as a worker sees it.

    Attributes:
        halves: number of the push that last filled each mailbox half (0: none).
        pushes: pushes made, so that the next goes to half `pushes % 2`.
        newest: number and clock of the last push.
        earlier: number of the last push of a clock before that one.
        told: whether servers on this node are told of each block that has arrived, where there are enough of them (`Group.told`).
        closed: the clock for which it is closed (staleness 0), -1 if none.
    """

    number: int
    table: Table
    runs: tuple[Run, ...]
    halves: list[int] = field(default_factory=lambda: [0, 0])
    pushes: int = 0
    newest: tuple[int, int] = (0, -1)
    earlier: int = 0
    told: bool = False
    closed: int = -1

    def pushed(self, number: int, clock: int) -> None:
        """Take note of a push that is committed."""
        if self.newest[1] < clock:
            self.earlier = self.newest[0]
        self.newest = (number, clock)
        self.halves[self.pushes & 1] = number
        self.pushes += 1

    def pushed_in(self, clock: int) -> bool:
        """Whether it has been pushed in this clock; on the node alone (`neighbours`), it is only closed for it."""
        return clock in (self.newest[1], self.closed)

    def before(self, clock: int) -> int:
        """Number of the last push that belongs to a clock before this one, 0 if there is none (`clock` is the current one)."""
        return self.newest[0] if self.newest[1] < clock else self.earlier


@dataclass
class Link:
    """Shared by the verbs of client `index`; readers follow the workers in the numbering."""

    transport: Transport
    plan: Plan
    index: int
    now: int
    limit: float  # seconds that any wait may take
    tables: dict[str, TableState] = field(default_factory=dict)
    tries: int = 0  # number of the last push that was begun
    holds: int = 0  # holds asked for
    requests: int = 0  # tables asked for
    filling: set[str] = field(default_factory=set)  # tables of which `gradients()` has given the next mailbox half away
    ended: bool = False  # whether this client has said that it is gone
    combines: bool = False  # whether the workers of this node add up their gradients, see `neighbours`
    rings: dict[int, Ring] = field(default_factory=dict)  # by server, of this worker, if there are any
    logs: dict[int, Ring] = field(default_factory=dict)  # by server, this worker's logs, see `row_push`
    talks: dict[int, deque[_Talk]] = field(default_factory=dict)  # by server, who asks for rows, in order
    slots: dict[int, Slots] = field(default_factory=dict)  # by table, what this client knows of its rows
    trace: Trace | None = None  # of this rank, if it is traced
    background: Background | None = None  # where a server is elsewhere
    boundary: Callable[[], None] = lambda: None  # called by verbs at the beginning of a clock; see Clocks
    hurry: Callable[[int], None] = lambda clock: None  # called while the others must come to a clock; see Clocks
    stats: dict[str, float] = field(default_factory=lambda: dict.fromkeys(
        ("pulls", "pushes", "pull_bytes", "push_bytes", "pull_seconds", "push_seconds", "wait_seconds", "retries", "skipped",
         "cache_hits", "cache_misses"), 0))

    def __post_init__(self) -> None:
        self.declared = len(self.plan.layout.tables)  # tables given to run(); the others were created later
        self.grow()
        words = self.plan.words
        self.own, self.acks = words.client(self.index), words.ack(min(self.index, self.plan.workers - 1))  # first of their words
        self.servers = range(self.plan.servers)
        self._groups: dict[tuple[str, ...], Group] = {}
        self.stamps = np.zeros((self.plan.words.tables, 2, 2), np.int64)

    @property
    def reader(self) -> bool:
        """Whether this client only pulls."""
        return self.index >= self.plan.workers

    @property
    def name(self) -> str:
        """How messages call this process."""
        return f"reader {self.index - self.plan.workers}" if self.reader else f"worker {self.index}"

    def grow(self) -> None:
        """Take note of tables added to the plan."""
        layout = self.plan.layout
        for number in range(len(self.tables), len(layout.tables)):
            table = layout.tables[number]
            self.tables[table.name] = TableState(number, table, layout.runs[number], told=repeatable(table) and not self.plan.rings)

    def table(self, name: str) -> TableState:
        """Return the state of a table, or raise UnknownTable."""
        try:
            return self.tables[name]
        except (KeyError, TypeError):
            known = ", ".join(self.tables) or "none"
            raise UnknownTable(f"unknown table {name!r}; the tables are: {known}") from None

    def group(self, names: tuple[str, ...]) -> Group:
        """Return the group of these tables, or raise UnknownTable."""
        try:
            return self._groups[names]
        except (KeyError, TypeError):  # new, or a name that is none
            group = Group(self.transport, self.plan.words, [self.table(name) for name in names])
            if len(self._groups) >= GROUPS:  # others each time: then it does not help to keep them
                self._groups.clear()
            self._groups[names] = group
            return group

    def wait(self, until: Callable[[], bool], what: str, who: Callable[[], str],
             progress: Callable[[], object] | None = None) -> None:
        """Wait with this client's limit, which begins anew while `progress()` changes or a checkpoint grows, and count the time."""
        def state() -> object:
            return progress() if progress else None, saving(self.transport, self.plan)

        seconds = wait(self.transport, until, f"{self.name}, clock {self.now}: {what}", who, self.limit, state)
        self.stats["wait_seconds"] += seconds
        if self.trace is not None and seconds:
            self.trace.add("wait", time.perf_counter() - seconds, clock=self.now, what=what)

    def end(self, value: int) -> None:
        """Say that this client is gone: a worker's last clock and one more, a reader's 1."""
        self.tell_all(END, value)
        self.ended = True

    def all_flush(self) -> None:
        """Complete everything on every server."""
        for server in self.servers:
            self.transport.flush(server)

    def tell_all(self, word: int, value: int) -> None:
        """Write one of this client's words on every server, complete when this returns."""
        t, at = self.transport, self.own + word
        for server in self.servers:
            t.store(server, at, value)
        for server in self.servers:
            t.flush(server)
        for server in self.servers:
            t.ring(server)

    def tell(self, server: int, word: int, value: int) -> None:
        """Write one of this client's words on one server, complete when this returns."""
        self.transport.store(server, self.own + word, value)
        self.transport.flush(server)
        self.transport.ring(server)

    def behind(self, clock: int, first: int | None = None) -> str:
        """Say which workers, or which of the first few, keep clock `clock` from being complete, by the words on server 0; or else
        which servers of this node (of another one, to ask is to wait)."""
        words, late = self.plan.words, []
        for worker in range(self.plan.workers if first is None else first):
            at = words.client(worker)
            if self.transport.load(0, at + END) == 0:
                reached = self.transport.load(0, at + CLOCK)
                if reached < clock:
                    late.append(f"worker {worker} is at clock {reached}")
        late += [f"server {server} is writing a checkpoint" for server in writing(self.transport, self.plan)]
        if late:
            return "; ".join(late)
        slow = sorted({run.server for state in self.tables.values() for run in state.runs if self.transport.near(run.server)
                       and self.transport.load(run.server, words.floor + state.number) < clock})
        servers = f"server{'s' * (len(slow) > 1)} {', '.join(map(str, slow))}" if slow else "the servers"
        return f"every worker has come so far, but {servers} {'has' if len(slow) == 1 else 'have'} not folded yet"


def saving(transport: Transport, plan: Plan) -> list[int]:
    """What each server has done of a checkpoint that it writes now: while this changes, those who wait for it may go on waiting."""
    return [transport.load(server, SAVING) for server in range(plan.servers)]


def writing(transport: Transport, plan: Plan) -> list[int]:
    """Servers of this node (of another one, to ask is to wait) that are writing a checkpoint."""
    return [server for server in range(plan.servers) if transport.near(server) and transport.load(server, SAVING)]
