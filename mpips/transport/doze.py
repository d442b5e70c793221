"""Sleeping until somebody rings: who has had nothing to do for a while waits in the kernel (futex(2), Linux).

A nap costs 40 us of a core, wherever it ends; a server that naps often enough to answer within a millisecond takes 8 % of a core
for nothing (measured). Here it says that it is ASLEEP, looks once more, and waits until the BELL word changes. A client of the node
that has written something looks at ASLEEP and rings if it is set. Both order their writes before their reads with a full barrier
(MPI_Win_sync), so either the server sees what was written or the client sees that it sleeps; and because the server waits on the
value that BELL had before it looked, a ring in between is not lost.

A client that waits sets WAITED on every server of its node, looks at what it waits for, and naps until CALL changes; a server that
has published something clears WAITED and changes CALL. So no call is lost either. Naps are short all the same, because a client may
wait for what no server publishes.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from typing import Any

CALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98}  # number of the system call
WAIT, WAKE = 0, 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Futex:
    """The kernel's queue of those who wait for a word in shared memory to change; only its lower half counts."""

    def __init__(self, call: Callable[..., Any], number: int, memory: Any, word: int) -> None:
        self._call = call
        self._number = number
        self._low = ctypes.c_uint32.from_buffer(memory, word * 8)

    @property
    def value(self) -> int:
        """The word now."""
        return self._low.value

    def works(self) -> bool:
        """Whether the kernel has it: a sandbox may not, and who then sleeps does not."""
        return int(self._call(ctypes.c_long(self._number), ctypes.byref(self._low), WAKE, 0, None, None, 0)) >= 0

    def wait(self, value: int, seconds: float) -> None:
        """Sleep while the word is `value`, until somebody wakes, but not longer than `seconds` (below one)."""
        limit = _Timespec(0, int(seconds * 1e9))
        self._call(ctypes.c_long(self._number), ctypes.byref(self._low), WAIT, ctypes.c_uint32(value), ctypes.byref(limit), None, 0)

    def wake(self, value: int) -> None:
        """Change the word and wake everybody who waits for it."""
        self._low.value = value & 0xFFFFFFFF
        self._call(ctypes.c_long(self._number), ctypes.byref(self._low), WAKE, 1 << 30, None, None, 0)


def futex(memory: Any, word: int) -> Futex | None:
    """Return the futex of a word in shared memory (a writable buffer), or None where there is none."""
    number = CALLS.get(platform.machine())
    if sys.platform != "linux" or sys.byteorder != "little" or number is None:
        return None
    bell = Futex(ctypes.CDLL(None).syscall, number, memory, word)
    return bell if bell.works() else None
