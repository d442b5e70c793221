"""Which of a server's folds has the next turn.

Those of tables with staleness 0 follow each other, older clocks first and then tables as they were declared: a network's forward
pass begins with the first ones, and its worker reads those while the others are folded. All the others take turns, with each other
and with these, so that a small table that nobody else waits for does not wait for a large one.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from mpips.server.folding import Job


class Agenda:
    """The folds that are under way."""

    def __init__(self) -> None:
        self._ordered: list[tuple[int, int, int, Job]] = []  # a heap; the number that settles ties counts what was added
        self._turns: deque[Job | None] = deque()  # None is the first of the ordered ones
        self._added = 0

    def __len__(self) -> int:
        return len(self._ordered) + len(self._turns) - bool(self._ordered)

    def add(self, job: Job) -> None:
        """Take in a fold that begins."""
        if not job.cohorts[0].lockstep:
            self._turns.append(job)
            return
        if not self._ordered:
            self._turns.append(None)
        self._added += 1
        heappush(self._ordered, (job.clock, job.tables[0], self._added, job))

    def first(self) -> Job | None:
        """The fold whose turn it is, None if there is none."""
        return (self._turns[0] or self._ordered[0][-1]) if self._turns else None

    def done(self, *, ended: bool) -> None:
        """The first has had its turn, and maybe ended: the next one's."""
        turn = self._turns.popleft()
        if turn is None and ended:
            heappop(self._ordered)
            ended = not self._ordered
        if not ended:
            self._turns.append(turn)
