"""Rows that a worker says it will want: they are fetched into its cache before it asks.

A fetch begins when what it brings can be new enough for the clock that it is for: as many clocks before it as the cache lets rows
be old, with staleness 0 when that clock begins. It goes on whenever the worker is in a verb, and the servers answer meanwhile. The
pull that wants the rows waits for what is still under way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpips.transport.base import Array
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.row_cache import CachedPull, RowCache


@dataclass(eq=False)
class Intent:
    """Rows `ids`, (n,) int64, that will be wanted in a clock."""

    group: Group
    cache: RowCache
    ids: Array
    at: int
    pull: CachedPull | None = None


class Ahead:
    """What one worker has said."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._intents: list[Intent] = []

    def add(self, intent: Intent) -> None:
        """Take note, and begin if it is time."""
        self._intents.append(intent)
        self.step()

    def step(self) -> None:
        """Begin what can begin, and go on with the others; forget those whose clock is over."""
        left = []
        for intent in self._intents:
            if intent.pull is None and intent.at - intent.cache.clocks <= self._link.now <= intent.at:
                out = np.empty((len(intent.ids), intent.cache.table.dim), intent.cache.table.np_dtype)
                intent.pull = CachedPull(self._link, intent.group, intent.ids, out, intent.cache, at=intent.at)
            if intent.at >= self._link.now and not (intent.pull is not None and intent.pull.advance()):
                left.append(intent)
        self._intents = left

    def finish(self, group: Group) -> None:
        """Wait for what is under way for this clock of a table."""
        for intent in self._intents:
            if intent.pull is not None and intent.group.numbers == group.numbers and intent.at == self._link.now:
                intent.pull.wait()
        self.step()
