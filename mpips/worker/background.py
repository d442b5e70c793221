"""What `ipull` and `ipush` have begun goes on while the worker computes, where a server is on another node.

Off the node MPI moves nothing while nobody calls it (measured, tests/bench/README.md). So a thread of the client lets what was
begun go on, again and again, whenever no verb is running. Verbs and this thread take turns: nothing else has to be safe against
threads. MPI must give MPI_THREAD_MULTIPLE (MPI 4.1, 11.6), because the worker's own code may call it, too. On the node there is no
such thread: there a transfer is a copy by this process, which costs the compute what it saves.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from mpips.errors import ProtocolError, WaitTimeout
from mpips.transport.base import SHORTEST, Backoff, Transport

LEAST, MOST = 1 << 20, 64 << 20  # bytes of a pull that are read in one turn, fewer after one
TURN = 30e-3  # that took more seconds than this: verbs wait for it, and each turn begins and ends with round trips
NAP = 2e-3  # seconds, the longest between two looks; each costs some round trips

F = TypeVar("F", bound=Callable[..., Any])


class Begun(Protocol):
    """A pull or a push under way."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to do for it."""

    def go_on(self, most: int) -> bool:
        """Do a part of it, about so many bytes, without waiting for anybody; return whether it did anything."""


class Background:
    """The thread, which begins when there is something to do.

    Args:
        far: for which servers it is of use.
    """

    def __init__(self, transport: Transport, far: frozenset[int]) -> None:
        self.far = far
        self.turn = threading.RLock()
        self._transport = transport
        self._begun: list[Begun] = []
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._most = 4 * LEAST

    def add(self, begun: Begun) -> None:
        """Let this go on until it is over; in its verb's turn."""
        self._begun.append(begun)
        self._work.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mpips-background", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Forget what is not over, and end the thread; outside of any verb's turn."""
        with self.turn:
            self._closed = True
            self._work.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(self._transport, NAP)
        while self._work.wait():
            with self.turn:
                if self._closed:
                    return
                moved = any(begun.over or self._step(begun) for begun in self._begun)  # up to the first that has moved
                self._begun = [begun for begun in self._begun if not begun.over]
                if not self._begun:
                    self._work.clear()
            if moved:
                backoff.reset()
                self._transport.pause(SHORTEST)  # or this thread would take the next turn, too
            else:
                backoff.rest()

    def _step(self, begun: Begun) -> bool:
        since = time.perf_counter()
        try:
            moved = begun.go_on(self._most)
        except WaitTimeout:  # who waits for it will see that itself
            return False
        if moved:
            slow = time.perf_counter() - since > TURN
            self._most = max(self._most // 2, LEAST) if slow else min(self._most * 2, MOST)
        return moved


def takes_turn(verb: F) -> F:
    """Let nothing that was begun go on while this method of a client, or of what a client gave, is running.

    Once the client has ended its methods raise ProtocolError: there is nobody to ask, the windows may be gone.
    """

    @functools.wraps(verb)
    def alone(self: Any, *args: Any, **options: Any) -> Any:
        link = self._link
        if link.ended:
            raise ProtocolError(f"{link.name} has ended: its verbs are for the function that run() calls, which may return what is "
                                "needed later")
        background: Background | None = link.background
        if background is None:
            return verb(self, *args, **options)
        with background.turn:
            return verb(self, *args, **options)

    return cast(F, alone)
