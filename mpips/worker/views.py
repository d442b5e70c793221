"""Memory of the node without a copy: `view` of a published table, `gradients` in the mailbox itself."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np

from mpips.transport.base import Array
from mpips.transport.words import BLOCK_WORDS, TICK0, VERSION
from mpips.worker.background import takes_turn
from mpips.worker.contribution import begin_push
from mpips.worker.link import Link, TableState
from mpips.worker.neighbours import Neighbours
from mpips.worker.pull import Pull, chosen
from mpips.worker.push import check_open, wait_half

FEW = 32  # blocks


class View:
    """A table to read; `with` gives the array, `zero_copy` says whether it is the server's own memory.

    Valid until this worker's next `clock()`.
    """

    def __init__(self, link: Link, state: TableState) -> None:
        self._link = link
        self._state = state
        self.zero_copy = False

    @takes_turn
    def __enter__(self) -> Array:
        state, link = self._state, self._link
        link.boundary()
        values, whole = None, whole_on_node(link, state)
        if whole is not None and state.table.staleness == 0 and not link.reader:
            if not self._ready():
                link.wait(self._ready, f"a view of table '{state.table.name}'", lambda: link.behind(link.now))
            link.transport.sync()
            values = self._in_place(whole)
        self.zero_copy = values is not None
        if values is None:
            values = np.empty(state.table.size, state.table.np_dtype)
            Pull(link, link.group((state.table.name,)), [values]).wait()
        values = values.reshape(state.table.shape)
        values.flags.writeable = False
        return values

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to give back: the copy that was shown stays as it is until the worker's next clock."""

    def _ready(self) -> bool:
        """Whether all earlier clocks are published."""
        link, state = self._link, self._state
        return link.transport.load(state.runs[0].server, link.plan.words.floor + state.number) >= link.now

    def _in_place(self, whole: Array) -> Array | None:
        """The server's own copy, if all blocks lie in one piece of it; `whole` is its window."""
        t, plan, run = self._link.transport, self._link.plan, self._state.runs[0]
        words, count, now = plan.words.block(run.slot), len(run.blocks) * BLOCK_WORDS, self._link.now
        few = len(run.blocks) <= FEW  # lists are faster for these, arrays for many
        first = t.row(run.server, words, count) if few else t.loads(run.server, words, count)
        if not self._state.pushed_in(now):  # then no fold of this clock can be due, and the newest version is this clock's
            versions = first[VERSION::BLOCK_WORDS]
            version = int(versions[0])
            if versions.count(version) == len(versions) if isinstance(versions, list) else (versions == version).all():
                return _piece(whole, plan.maps[run.server].copy(version & 1) + run.offset, self._state)
        t.sync()
        marks = t.row(run.server, words, count) if few else t.loads(run.server, words, count)
        t.sync()
        marks[VERSION::BLOCK_WORDS] = first[VERSION::BLOCK_WORDS]  # a TICK read after the version is at least as new
        if isinstance(marks, np.ndarray):
            version = int(marks[VERSION])
            if (marks[VERSION::BLOCK_WORDS] == version).all() and (marks[TICK0 + (version & 1) :: BLOCK_WORDS] <= now).all():
                return _piece(whole, plan.maps[run.server].copy(version & 1) + run.offset, self._state)
            marks = marks.tolist()
        versions = chosen(marks, now)
        copies = {version & 1 for version in versions}
        if min(versions) < 0 or len(copies) > 1:
            return None
        return _piece(whole, plan.maps[run.server].copy(copies.pop()) + run.offset, self._state)


class Gradients:
    """A table's gradient to be written in place, pushed when the block ends without an exception.

    `with` gives the array, undefined at first; `zero_copy` says whether it is the mailbox's own memory, or what the node shares.
    """

    def __init__(self, link: Link, state: TableState, settle: Callable[[], None], neighbours: Neighbours | None = None) -> None:
        self._link = link
        self._state = state
        self._settle = settle  # commits the pushes that were begun before
        self._neighbours = neighbours
        self.zero_copy = False

    @takes_turn
    def __enter__(self) -> Array:
        link, state = self._link, self._state
        link.boundary()
        self._settle()
        group = link.group((state.table.name,))
        check_open(link, group)
        whole = whole_on_node(link, state) if not link.plan.rings else None
        here = self._neighbours if self._neighbours is not None and self._neighbours.has(state) else None
        self.zero_copy = whole is not None or here is not None
        if here is not None:
            values = here.half(state, link.now)
        elif whole is None:
            values = np.empty(state.table.size, state.table.np_dtype)
        else:
            wait_half(link, group)
            run = state.runs[0]
            values = _piece(whole, link.plan.maps[run.server].mailbox(link.index, state.pushes & 1) + run.offset, state)
        link.filling.add(state.table.name)
        self._values = values
        return values.reshape(state.table.shape)

    @takes_turn
    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._link.filling.discard(self._state.table.name)
        if kind is None:
            self._settle()  # what was begun inside
            group = self._link.group((self._state.table.name,))
            begin_push(self._link, self._neighbours, group, [None if self.zero_copy else self._values]).wait()


def whole_on_node(link: Link, state: TableState) -> Array | None:
    """Return the window of the one server that holds all of a table, if it is mapped here."""
    if len(state.runs) != 1:
        return None
    return link.transport.mapped(state.runs[0].server)


def _piece(window: Array, offset: int, state: TableState) -> Array:
    return window[offset : offset + state.table.nbytes].view(state.table.np_dtype)
