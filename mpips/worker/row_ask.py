"""Rows that this client cannot gather itself: it asks their servers, which write them where it can read them in one piece.

A question is a piece of the client's log that holds ids. The server writes the values to the client's answers and takes the
question out of the log; that is the sign. A client has one batch of questions under way on each server, as many as its answers have
room for.

Off the node this is faster than to gather: 10 000 rows of 256 bytes by one Get with an indexed type took 79 ms under Open MPI and
22 under MPICH, asked for they take 11 and 6 (one machine, each rank as if alone on its node).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from mpips.transport.base import Array
from mpips.transport.plan import ID
from mpips.worker.link import Link, TableState
from mpips.worker.rings import Piece
from mpips.worker.row_push import log_of
from mpips.worker.rows import Part


def ask(link: Link, state: TableState, parts: Sequence[Part], out: Array, *, values: bool = True) -> None:
    """Read the rows of some parts into their places in `out`, (n, dim); or, (n, 1) int64, where they lie on their servers."""
    asked = Asked(link, state, parts, out, values=values)
    link.wait(asked.advance, f"rows of table '{state.table.name}'", asked.blame, asked.progress)


class Asked:
    """Rows that have been asked for; `advance` until it returns True."""

    def __init__(self, link: Link, state: TableState, parts: Sequence[Part], out: Array, *, values: bool = True) -> None:
        self._talks = [_Talk(link, state, part, out, values) for part in parts]

    def advance(self) -> bool:
        """Read what has been answered, ask more; return whether all has been read."""
        for talk in self._talks:
            talk.go_on()
        self._talks = [talk for talk in self._talks if not talk.over]
        return not self._talks

    def progress(self) -> list[int]:
        """What changes while servers answer."""
        return [talk.asked for talk in self._talks]

    def blame(self) -> str:
        """Say who has not answered."""
        return f"servers {[talk.server for talk in self._talks]} have not answered"


class _Talk:
    """Questions to one server, about one part.

    A server's answers belong to one talk at a time: the others wait in the link's queue, and who wants to go on helps the first.
    """

    def __init__(self, link: Link, state: TableState, part: Part, out: Array, values: bool) -> None:
        self.server = part.server
        self._link, self._number, self._part, self._out = link, state.number, part, out
        self._map = link.plan.maps[part.server]
        self._values = values
        self._width = out.shape[1] * out.itemsize
        self._asked: deque[tuple[int, int, int]] = deque()  # rows lo:hi, and where their values are to be
        self._until = 0  # pieces in the log up to the last question
        self._next = 0
        if part.server not in link.logs:
            link.logs[part.server] = log_of(link, part.server)
        self._log = link.logs[part.server]
        link.talks.setdefault(part.server, deque()).append(self)

    @property
    def over(self) -> bool:
        """Whether all has been read."""
        return not self._asked and self._next == len(self._part.index)

    @property
    def asked(self) -> int:
        """Rows asked for so far."""
        return self._next

    def go_on(self) -> None:
        """Read answers that are there, and ask more, as far as that goes without waiting."""
        queue = self._link.talks[self.server]
        while queue and not self.over:
            queue[0]._step()
            if not queue[0].over:
                return
            queue.popleft()

    def _step(self) -> None:
        if self._asked and self._log.taken(self._until):
            self._link.transport.sync()  # they stood there before the questions were taken out
            while self._asked:
                self._read(*self._asked.popleft())
        if not self._asked:
            self._ask()

    def _ask(self) -> None:
        most = min(self._map.answer // self._width, self._map.log // 4 // ID)
        at = 0
        while self._next < len(self._part.index):
            hi = min(self._next + most, len(self._part.index))
            ids = self._part.index[self._next : hi]
            if at + len(ids) * self._width > self._map.answer:
                return
            if not self._log.put(Piece(self._number, len(ids), ids.nbytes, [(0, ids)]), 0, at, last=self._values):
                return
            self._asked.append((self._next, hi, at))
            self._until = self._log.written
            self._next, at = hi, at + len(ids) * self._width

    def _read(self, lo: int, hi: int, at: int) -> None:
        t, places, base = self._link.transport, self._part.places, self._map.answers(self._link.index)
        room = self._out[lo:hi] if places is None else np.empty((hi - lo, self._out.shape[1]), self._out.dtype)
        t.get(self.server, base + at, room)
        t.flush(self.server)
        if places is not None:
            self._out[places[lo:hi]] = room
