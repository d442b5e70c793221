"""A push of rows: their ids and gradients go through this worker's log on each server, then the push is committed as ever.

It is cut into pieces. A piece is written where the log is free, and its record; when both are complete LOG_HEAD is raised. What the
server does with it: `mpips.server.logs`. Duplicates are added up, and NaN and Inf looked for, before anything leaves.

Where ids come and go, the push of the rows that were pulled last says where they lay then: the server looks whether they still do,
and need not look them up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from mpips.layout import align
from mpips.table import Rows
from mpips.transport.base import Array
from mpips.transport.plan import ids_bytes, piece_bytes
from mpips.transport.words import LOG_HEAD, LOG_TAIL
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.rings import Piece, Ring, RingPush
from mpips.worker.rows import Part, distinct, parts_of

PIECE = 1 << 20  # bytes


def log_of(link: Link, server: int) -> Ring:
    """This worker's log on a server."""
    here, words = link.plan.maps[server], link.plan.words
    return Ring(link, server, here.logs(link.index), here.log, lambda count: words.log(link.index, count), LOG_HEAD, LOG_TAIL)


class RowPush(RingPush):
    """A push of rows `ids`, (n,) int64, with their gradients, (n, dim).

    Attributes:
        ids: all different, ascending.
    """

    new_ring = staticmethod(log_of)
    tail = LOG_TAIL

    def __init__(self, link: Link, group: Group, ids: Array, gradient: Array) -> None:
        self._table = cast(Rows, group.states[0].table)
        known = link.slots.get(group.states[0].number)
        slots = known.recalled(ids) if known is not None else None
        self.ids, gradient, first = distinct(ids, gradient)
        self._slots: Array | None = None  # where ids come and go, where they lie, -1 if this worker does not know
        if self._table.rows is None:
            self._slots = np.full(len(self.ids), -1) if slots is None else slots[first]
        super().__init__(link, group, [gradient])
        self.nbytes = gradient.nbytes + self.ids.nbytes

    @property
    def _rings(self) -> dict[int, Ring]:
        return self._link.logs

    def _before(self) -> str:
        return "its servers have not looked"

    def _parts(self) -> Iterator[Iterable[Array]]:
        (gradient,) = self._gradients
        assert gradient is not None
        step = max(PIECE // self._table.row_bytes, 1)
        yield (gradient[lo : lo + step].reshape(-1) for lo in range(0, len(gradient), step))

    def _cut(self) -> dict[int, deque[Piece]]:
        if self._voids[0]:
            return {}
        (gradient,) = self._gradients
        assert gradient is not None
        return {part.server: self._pieces(part, gradient) for part in parts_of(self._table, self.ids, self._link.plan.servers)}

    def _pieces(self, part: Part, gradient: Array) -> deque[Piece]:
        values = gradient if part.places is None else gradient[part.places]
        table, number = self._table, self.group.states[0].number
        slots = self._slots if self._slots is None or part.places is None else self._slots[part.places]
        step = max(min(PIECE, self._link.plan.maps[part.server].log // 4) // (table.row_bytes + ids_bytes(1, table)), 1)
        pieces = deque[Piece]()
        for lo in range(0, len(values), step):
            ids, some = part.index[lo : lo + step], values[lo : lo + step]
            parts = [(0, ids), (align(ids_bytes(len(ids), table)), some)]
            if slots is not None:
                parts.insert(1, (ids.nbytes, slots[lo : lo + step]))
            pieces.append(Piece(number, len(ids), piece_bytes(len(ids), table), parts))
        return pieces
