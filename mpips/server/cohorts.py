"""Cohorts: tables of one server that have been through the same pushes, and so are looked at and folded as one.

A model has dozens or thousands of tables, but its worker pushes them together. All that a server knows of a table's progress is
the same for all of those, so it is kept once; a cohort is split when a push brings only some of its tables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mpips.transport.words import NEVER

if TYPE_CHECKING:
    from mpips.server.folding import Job
    from mpips.server.store import Span


class Push(NamedTuple):
    """The part of a push that concerns one cohort."""

    worker: int
    number: int
    clock: int
    half: int
    void: bool


@dataclass(eq=False)
class Cohort:
    """Tables with one history.

    Attributes:
        tables: their numbers, ascending; never changed in place.
        lockstep: whether they have staleness 0; `mean` whether their gradients are averaged.
        rows: whether it is a table of rows, which is a cohort of its own.
        floor: clocks folded (staleness 0), or completed by all with all pushes published.
        waiting: by worker, the committed pushes not yet folded; `heads` is the clock of each first one, `NEVER` if there is none.
        job: the fold that is under way.
        chunks: what `Store.chunks` has found for these tables; `spans` are the same joined, from the end.
    """

    tables: list[int]
    lockstep: bool
    mean: bool
    rows: bool
    floor: int
    waiting: list[deque[Push]]
    heads: list[int] = field(default_factory=list)
    job: Job | None = None
    chunks: list[Span] | None = None
    spans: list[Span] | None = None

    def __post_init__(self) -> None:
        self.heads = self.heads or [NEVER] * len(self.waiting)

    def add(self, push: Push) -> None:
        """Take a committed push."""
        self.waiting[push.worker].append(push)
        if self.heads[push.worker] == NEVER:
            self.heads[push.worker] = push.clock

    def pop(self, worker: int) -> None:
        """Drop the oldest push of a worker: it is published."""
        queue = self.waiting[worker]
        queue.popleft()
        self.heads[worker] = queue[0].clock if queue else NEVER

    def split(self, tables: Container[int]) -> Cohort:
        """Let some tables go their own way, with the history that they had until now."""
        leave = [table for table in self.tables if table in tables]
        self.tables = [table for table in self.tables if table not in tables]
        self.chunks = self.spans = None
        waiting = [deque(queue) for queue in self.waiting]
        other = Cohort(leave, self.lockstep, self.mean, self.rows, self.floor, waiting, list(self.heads), self.job)
        if self.job is not None:
            self.job.cohorts.append(other)
        return other
