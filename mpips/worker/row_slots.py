"""Where rows lie whose ids come and go: asked once for each id, then remembered.

A row that has gone from its place has another owner there, so whoever gathers rows looks at their owners, too, and forgets.
"""

from __future__ import annotations

import numpy as np

from mpips.directory import Directory
from mpips.transport.base import Array
from mpips.worker.link import Link, TableState
from mpips.worker.row_ask import ask
from mpips.worker.rows import Part


class Slots:
    """What one client knows of one table."""

    def __init__(self, link: Link, state: TableState) -> None:
        self._link = link
        self._state = state
        self._known = [Directory() for _ in range(link.plan.servers)]
        self._last: tuple[Array, Array] | None = None  # ids that were pulled, and where they lay

    def recall(self, ids: Array, slots: Array) -> None:
        """Take note of where ids lay, -1 of those that did not live."""
        self._last = ids, slots

    def recalled(self, ids: Array) -> Array | None:
        """Return where these ids lay, if they are those of which note was taken last."""
        return self._last[1] if self._last is not None and np.array_equal(self._last[0], ids) else None

    def known(self, part: Part) -> Array:
        """Return where rows are believed to lie, (n,) int64, given their ids; -1 of those of which nothing is known."""
        slots: Array = self._known[part.server].lookup(part.index)
        return slots

    def find(self, part: Part, slots: Array) -> Array:
        """Return where rows lie, (n,) int64, given their ids and what is known of them; -1 of those that do not live."""
        known = self._known[part.server]
        new = np.flatnonzero(slots < 0)
        slots[new] = known.lookup(part.index[new])  # another pull may have asked meanwhile
        new = new[slots[new] < 0]
        if new.size:
            ids = np.unique(part.index[new])
            answer = np.empty((len(ids), 1), np.int64)
            ask(self._link, self._state, [Part(part.server, ids, None)], answer, values=False)
            live = answer[:, 0] >= 0
            if len(known) + int(live.sum()) > 2 * self._link.plan.maps[part.server].rows[self._state.number].rows:
                known.clear()  # most of them have gone
            known.insert(ids[live], answer[live, 0])
            slots[new] = known.lookup(part.index[new])
        return slots

    def forget(self, server: int, ids: Array) -> None:
        """These rows lie elsewhere now, or nowhere."""
        if ids.size:
            self._known[server].remove(ids)


def slots_of(link: Link, state: TableState) -> Slots:
    """What a client knows of a table."""
    if state.number not in link.slots:
        link.slots[state.number] = Slots(link, state)
    return link.slots[state.number]
