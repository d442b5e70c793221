"""All servers in this process: their windows are arrays, and while the one worker waits the servers are stepped.

No thread, no MPI: what a debugger shows is what runs. Readers are left out, there is nobody to run beside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mpips.transport.base import Array, nap, take
from mpips.transport.words import WORD


class Local:
    """Memory of `sizes[s]` bytes for each server; `steps` are the servers' `step` functions, appended once they exist."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._bytes: list[Array] = [np.zeros(size, np.uint8) for size in sizes]
        self._words = [memoryview(b.data)[: b.size // WORD * WORD].cast("q") for b in self._bytes]
        self.steps: list[Callable[[], bool]] = []

    def put(self, server: int, offset: int, data: Array) -> None:
        flat = data.reshape(-1).view(np.uint8)
        self._bytes[server][offset : offset + flat.size] = flat

    def get(self, server: int, offset: int, out: Array) -> None:
        flat = out.reshape(-1).view(np.uint8)
        flat[:] = self._bytes[server][offset : offset + flat.size]

    def gather(self, server: int, offset: int, index: Array, out: Array) -> None:
        take(self._bytes[server], offset, index, out)

    def store(self, server: int, word: int, value: int) -> None:
        self._words[server][word] = value

    def stores(self, server: int, word: int, values: Array) -> None:
        self._bytes[server][word * WORD : (word + values.size) * WORD].view(np.int64)[:] = values

    def load(self, server: int, word: int) -> int:
        return self._words[server][word]

    def loads(self, server: int, word: int, count: int) -> Array:
        return np.array(self._bytes[server][word * WORD : (word + count) * WORD].view(np.int64))

    def row(self, server: int, word: int, count: int) -> list[int]:
        return self._words[server][word : word + count].tolist()

    def flush(self, server: int) -> None:
        """Nothing is ever under way."""

    def sync(self) -> None:
        """One process sees its own memory."""

    def near(self, server: int) -> bool:
        return False  # the servers run only while the worker waits

    def mapped(self, server: int) -> Array | None:
        return self._bytes[server]

    def populate(self, start: int, stop: int) -> None:
        """NumPy's memory comes in large pages anyway."""

    def ring(self, server: int) -> None:
        """Nobody dozes."""

    def call(self, server: int) -> None:
        """Nobody sleeps."""

    def poll(self) -> None:
        while any([step() for step in self.steps]):  # all of them, each time
            pass

    def pause(self, seconds: float) -> None:
        nap(seconds)

    def listen(self, seconds: float) -> None:
        """Nobody calls."""
        self.pause(seconds)
