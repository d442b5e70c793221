"""How bytes move: what server and worker code asks of a transport, and the one way to wait.

| transport | moves bytes by                                             | for                                           |
|-----------|------------------------------------------------------------|-----------------------------------------------|
| rma       | MPI one-sided windows (MPI 4.1, chapter 12)                | every job of several processes                |
| local     | the memory of one process, servers stepped while one waits | a world of one process, so that a debugger works |
| model     | a weak memory under a scheduler                            | tests: the worst that MPI allows              |

The memory model that the code above relies on is the weakest one of MPI ("separate"): a server sees what was put, and others see
what it stored, only after it has called `sync`; a put is complete only after `flush`, and until then may become visible late and
in any order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mpips.errors import WaitTimeout

Array = np.ndarray[Any, np.dtype[Any]]


class Transport(Protocol):
    """One process's way to the memory of the servers; offsets are bytes, words are indices of 8-byte words."""

    def put(self, server: int, offset: int, data: Array) -> None:
        """Begin to write contiguous `data` (any dtype); it may not change before `flush`."""

    def get(self, server: int, offset: int, out: Array) -> None:
        """Begin to read into contiguous `out`; it is undefined before `flush`."""

    def gather(self, server: int, offset: int, index: Array, out: Array) -> None:
        """Begin to read pieces into `out`, (n, size): those number `index`, (n,) int64, of all that lie side by side from `offset`.

        `out` is contiguous and says how large a piece is; like `get` otherwise. Only of servers whose memory can be mapped here:
        from elsewhere rows are asked for (`mpips.worker.row_ask`).
        """

    def store(self, server: int, word: int, value: int) -> None:
        """Begin to write one control word."""

    def stores(self, server: int, word: int, values: Array) -> None:
        """Begin to write consecutive control words (int64, copied at once)."""

    def load(self, server: int, word: int) -> int:
        """Return one control word."""

    def loads(self, server: int, word: int, count: int) -> Array:
        """Return consecutive control words as a new int64 array; each is whole, together they are not one moment."""

    def row(self, server: int, word: int, count: int) -> list[int]:
        """Return a few consecutive control words as integers; like `loads`."""

    def flush(self, server: int) -> None:
        """Complete all puts, gets and stores to this server."""

    def sync(self) -> None:
        """Order this process's loads and stores against everybody's puts and gets (MPI_Win_sync)."""

    def near(self, server: int) -> bool:
        """Whether a flush to this server costs next to nothing, and it runs beside this process."""

    def mapped(self, server: int) -> Array | None:
        """Return the server's whole window as bytes if loads and stores reach it, else None."""

    def populate(self, start: int, stop: int) -> None:
        """As a server, get memory for a part of its window that is about to be filled; else it comes as it is touched."""

    def ring(self, server: int) -> None:
        """Wake a server that dozes; after a write that it should see soon."""

    def call(self, server: int) -> None:
        """As this server, wake the clients of the node that listen; after it has published something."""

    def poll(self) -> None:
        """Let MPI make progress and notice failures."""

    def pause(self, seconds: float) -> None:
        """Give the processor to somebody else for about this long."""

    def listen(self, seconds: float) -> None:
        """As a client that waits, pause until a server calls, at most so long; before the next one, look at what is waited for."""


SPIN = 200e-6  # seconds; a small round is over by then, and a sleep of the kernel costs 60 us
SHARE = 8  # a nap is this part of the time waited so far, so that waiting costs little and is never much too long
SHORTEST, LONGEST = 20e-6, 500e-6  # seconds of a nap
IDLE = 1.1e-3  # seconds of the longest nap of a server that nobody wakes: each costs 40 us of a core (measured), and 5 % is enough
LOOKS = 16  # in so many parts of its limit a wait looks whether there was progress: it may read words of every server


class Backoff:
    """Yield the core for a short while, then sleep, longer each time up to `longest` seconds."""

    def __init__(self, transport: Transport, longest: float = LONGEST) -> None:
        self.transport = transport
        self.longest = longest
        self.since = 0.0

    def reset(self) -> None:
        """Something happened: be quick again."""
        self.since = 0.0

    def nap(self) -> float:
        """Nothing happened: return for how many seconds to sleep now, longer than the last time; 0 is to yield the core."""
        now = time.perf_counter()
        if not self.since:
            self.since = now
        waited = now - self.since
        return min(max(SHORTEST, waited / SHARE), self.longest) if waited >= SPIN else 0.0

    def rest(self) -> None:
        """Nothing happened: rest, longer than the last time."""
        self.transport.listen(self.nap())


def wait(transport: Transport, until: Callable[[], bool], what: str, who: Callable[[], str], limit: float,
         progress: Callable[[], object] | None = None) -> float:
    """Wait until `until()`; return the seconds it took.

    Args:
        what: what this process waits for, and `who` (asked at the end) it is that keeps it waiting.
        progress: while its value changes, the limit begins anew.

    Raises:
        WaitTimeout: after `limit` seconds.
    """
    if until():
        return 0.0
    begin = since = looked = time.perf_counter()
    seen: object = None
    backoff = Backoff(transport)
    while True:
        transport.poll()
        if until():
            return time.perf_counter() - begin
        now = time.perf_counter()
        if progress and now - looked > limit / LOOKS:
            looked, state = now, progress()
            if seen is not None and state != seen:
                since = now
            seen = state
        if now - since > limit:
            raise WaitTimeout(f"waited {limit:g} s for {what}: {who()}")
        backoff.rest()


def take(memory: Array, offset: int, index: Array, out: Array) -> None:
    """`Transport.gather` out of mapped memory, (n,) uint8."""
    width = out.nbytes // len(out) if len(out) else 1
    pieces = memory[offset : offset + (memory.size - offset) // width * width].reshape(-1, width)
    np.take(pieces, index, axis=0, out=out.reshape(-1).view(np.uint8).reshape(len(out), width), mode="clip")


def nap(seconds: float) -> None:
    """Sleep, or only yield the core when `seconds` is 0."""
    if seconds:
        time.sleep(seconds)
    else:
        os.sched_yield()
