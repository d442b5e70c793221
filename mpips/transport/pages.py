"""A window's memory once more, in large pages.

Shared memory comes in pages of 4 KB, scattered over the machine's memory, unless a site has set otherwise. To read and write much
of it then takes a third longer than a process's own, for which NumPy asks for large pages (measured: tests/bench/README.md). Linux
joins pages of shared memory, too, whatever is set (6.1 and later: MADV_COLLAPSE, madvise(2)), but only where the address and the
place in the file are equal modulo the size of a large page, and MPI maps a window wherever there is room. So it is mapped a second
time, where they are: an old size of 0 asks mremap(2) for another mapping of the same pages.

The second mapping lasts as long as an array of it: what a program has kept may be read after the window has gone.

What does not work here, because of the kernel or of how this MPI shares memory, is done without: the memory is the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mpips.transport.base import Array

LARGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
MOST = 32 << 20  # bytes: pages of 512 MB (arm64, with small ones of 64 KB) would be more than most windows
MAYMOVE, FIXED = 1, 2  # of mremap(2)
COLLAPSE = 25  # of madvise(2); Python has no name for it
PIECE = 64 << 20  # bytes that one call joins


class _Mapping:
    """Memory mapped by this process, until nobody has an array of it."""

    def __init__(self, libc: ctypes.CDLL, start: int, size: int, address: int, nbytes: int) -> None:
        self._unmap = libc.munmap, ctypes.c_void_p(start), ctypes.c_size_t(size)  # at the program's end `ctypes` may be gone first
        self.__array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self) -> None:
        call, *place = self._unmap
        call(*place)


class Pages:
    """The memory of one server, or neighbour, as this process has it.

    Args:
        buffer: as MPI has mapped it; its first `size` bytes count.

    Attributes:
        memory: (size,) uint8, writable.
    """

    def __init__(self, buffer: Any, size: int) -> None:
        self.memory: Array = np.frombuffer(buffer, np.uint8)[:size]
        again = _again(self.memory, _large() or mmap.PAGESIZE) if size and _addresses() else None
        self._large = _large() if again is not None else 0
        if again is not None:
            self.memory = again

    def populate(self, start: int, stop: int) -> bool:
        """Allocate memory of this process for these bytes in large pages; what they hold stays. Return whether there are any."""
        if not self._large:
            return False
        large, base = self._large, self.memory.ctypes.data
        first, last = _pages(self.memory)
        lo = max((base + start) // large * large, -(-first // large) * large)
        hi = min(-(-(base + stop) // large) * large, last // large * large)
        libc = ctypes.CDLL(None)
        for at in range(lo, hi, PIECE):
            end = min(at + PIECE, hi)
            self.memory[max(at - base, 0) : end - base : large].max()  # what is all empty is not joined, and to read makes a page
            if libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(end - at), COLLAPSE):
                return False
        return hi > lo


def _large() -> int:
    """Bytes of a large page, 0 where there is none that is of use."""
    size = 0
    with contextlib.suppress(OSError, ValueError):
        size = int(LARGE.read_text())
    return size if size <= MOST else 0


def _addresses() -> bool:
    """Whether there are addresses enough to map memory twice, and a system that does so."""
    return sys.platform == "linux" and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def _again(memory: Array, large: int) -> Array | None:
    """Map memory that is shared a second time, where pages of so many bytes fit; None if that cannot be."""
    first, last = _pages(memory)
    place = _place(first, last)
    if place is None:
        return None
    libc = ctypes.CDLL(None)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    size = last - first
    spare, nothing = size + 2 * large, 0
    room = libc.mmap(None, ctypes.c_size_t(spare), nothing, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
    if room in (None, ctypes.c_void_p(-1).value):
        return None
    start = -(-room // large) * large + place % large
    got = libc.mremap(ctypes.c_void_p(first), ctypes.c_size_t(0), ctypes.c_size_t(size), MAYMOVE | FIXED, ctypes.c_void_p(start))
    for at, end in ((room, start), (start + size, room + spare)):
        if end > at:
            libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(end - at))
    if got != start:
        return None  # what was to be there costs addresses, no memory
    return np.asarray(_Mapping(libc, start, size, start + memory.ctypes.data - first, memory.size))


def _pages(memory: Array) -> tuple[int, int]:
    """Addresses of its pages, and behind them."""
    page, address = mmap.PAGESIZE, memory.ctypes.data
    return address // page * page, -(-(address + memory.size) // page) * page


def _place(first: int, last: int) -> int | None:
    """Return where in its file memory lies that is shared and mapped as one; proc(5), /proc/PID/maps."""
    with contextlib.suppress(OSError, ValueError), Path("/proc/self/maps").open() as lines:
        for line in lines:
            addresses, kind, offset, *_ = line.split()
            start, end = (int(number, 16) for number in addresses.split("-"))
            if start <= first < end:
                return int(offset, 16) + first - start if last <= end and kind.startswith("rw-s") else None
    return None
