"""Rows that a worker says it will want: they are fetched into its cache before it asks.

A fetch begins when what it brings can be new enough for the clock that it is for: as many clocks before it as the cache lets rows
be old, with staleness 0 when that clock begins. It goes on whenever the worker is in a verb, and the servers answer meanwhile. The
pull that wants the rows waits for what is still under way.
"""

from __future__ import annotations

import heapq
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


class Ahead:
    """What one worker has said."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._later: list[tuple[int, int, Intent]] = []  # a heap: when it begins, which one it is
        self._said = 0
        self._intents: list[tuple[Intent, CachedPull]] = []  # under way

    def add(self, intent: Intent) -> None:
        """Take note, and begin if it is time."""
        self._said += 1
        heapq.heappush(self._later, (intent.at - intent.cache.clocks, self._said, intent))
        self.step()

    def step(self) -> None:
        """Begin what can begin, and go on with the others; forget those whose clock is over."""
        while self._later and self._later[0][0] <= self._link.now:
            intent = heapq.heappop(self._later)[2]
            out = np.empty((len(intent.ids), intent.cache.table.dim), intent.cache.table.np_dtype)
            pull = CachedPull(self._link, intent.group, intent.ids, out, intent.cache, at=intent.at)
            self._intents.append((intent, pull))
        if self._intents:
            self._intents = [(intent, pull) for intent, pull in self._intents if intent.at >= self._link.now and not pull.advance()]

    def finish(self, group: Group) -> None:
        """Wait for what is under way for this clock of a table."""
        for intent, pull in self._intents:
            if intent.group.numbers == group.numbers and intent.at == self._link.now:
                pull.wait()
        self.step()
