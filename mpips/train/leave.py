"""Leaving early: SIGUSR2, which job scripts send near the time limit, means save and end with exit code 75.

Every rank may be sent it (`srun` passes a signal to all); worker 0 acts on it, the others must only survive it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mpips.errors import StartAgain
from mpips.worker import Worker
from mpips.worker.handles import SaveHandle


@contextmanager
def told_to_leave() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGUSR2 has come since the block began."""
    told = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True

    try:
        before = signal.signal(signal.SIGUSR2, note)
    except ValueError:  # not the main thread: nobody can be told there
        yield lambda: False
        return
    try:
        yield lambda: told
    finally:
        signal.signal(signal.SIGUSR2, before)


class Leave:
    """What worker 0 does about it: asks for a checkpoint, works on until that is complete, and ends the job."""

    def __init__(self, ps: Worker, saves: bool, told: Callable[[], bool]) -> None:
        self._ps = ps
        self._saves = saves
        self._told = told
        self._saving: SaveHandle | None = None

    def look(self) -> None:
        """To be called at the end of each step, before `clock()`.

        Raises:
            StartAgain: the checkpoint is complete, or none can be written.
        """
        if self._saving is None:
            if self._ps.index == 0 and self._told():
                if not self._saves:
                    raise StartAgain(f"told to leave (SIGUSR2) in clock {self._ps.now}, and no checkpoint directory is set")
                self._saving = self._ps.save()
        elif self._saving.test():
            raise StartAgain("told to leave (SIGUSR2): a checkpoint is complete; go on with --resume auto")
