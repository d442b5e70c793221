"""Threads that share the elements of one fold.

Every rule is element-wise, so the bits do not depend on who computes which part. NumPy's loops and the compiled ones both run
without the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mpips.errors import UsageError

SMALLEST = 32 << 10  # elements that are worth waking a thread for (measured: 20 to 50 us)
LINE = 16  # elements; parts begin at multiples of it, so that two threads write no cache line in common


class Team:
    """The caller and `size - 1` threads more, started when they are first needed.

    >>> import numpy as np
    >>> a = np.zeros(100_000)
    >>> Team(2).share(a.size, lambda lo, hi: a[lo:hi].fill(1))
    >>> a.min()
    np.float64(1.0)
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise UsageError(f"fold threads: {size} is not a number from 1")
        self.size = size
        self._pool: ThreadPoolExecutor | None = None

    def share(self, elements: int, call: Callable[[int, int], None]) -> None:
        """Call `call(lo, hi)` on parts that cover `range(elements)`, at the same time; raises what a part raises."""
        parts = min(self.size, elements // SMALLEST)
        if parts <= 1:
            call(0, elements)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.size - 1, "mpips-fold")
        step = -(-elements // (parts * LINE)) * LINE
        others = [self._pool.submit(call, lo, min(lo + step, elements)) for lo in range(step, elements, step)]
        call(0, step)
        for other in others:
            other.result()
