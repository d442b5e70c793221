"""Memory that a few processes of one node share: each has a part of its own, all see every part (MPI 4.1, 12.2.3).

One `Lock_all` for its whole life, ordinary loads and stores, ordered by `sync`, as in `rma`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpips.transport.base import Array
from mpips.transport.pages import Pages
from mpips.transport.words import WORD

if TYPE_CHECKING:
    from mpi4py import MPI


def allocate(comm: MPI.Intracomm, size: int) -> MPI.Win:
    """Return a window that all of `comm` share, with `size` bytes of this process; each part's pages lie near its writer."""
    from mpi4py import MPI

    info = MPI.Info.Create()
    info.Set("alloc_shared_noncontig", "true")
    window = MPI.Win.Allocate_shared(size, 1, info=info, comm=comm)
    info.Free()
    return window


class Shared:
    """One process's view of it.

    Args:
        comm: the processes that share it, all of one node; freed by `close`.
        size: bytes of each one's part.
        control: so many bytes at the beginning of each part are control words; they are 0 at first. Nobody may look at another's
            before all have come here.

    Attributes:
        parts: bytes of each member's part, by rank in `comm`.
        words: the control words of each, as 8-byte integers.
        me: this process's rank in `comm`.
    """

    def __init__(self, comm: MPI.Intracomm, size: int, control: int) -> None:
        from mpi4py import MPI

        self._comm = comm
        self.me = comm.Get_rank()
        self._window = allocate(comm, size)
        self.parts: list[Array] = []
        self.words: list[memoryview] = []
        for rank in range(comm.Get_size()):
            pages = Pages(self._window.Shared_query(rank)[0], size)
            if rank == self.me:
                pages.populate(0, size)
            self.parts.append(pages.memory)
            self.words.append(pages.memory[: control // WORD * WORD].view(np.int64).data)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        self.parts[self.me][:control] = 0
        self.sync()

    def sync(self) -> None:
        """Order this process's loads and stores against those of the others (MPI_Win_sync)."""
        self._window.Sync()

    def close(self) -> None:
        """Give it back; collective, so only after all members are known to come."""
        self.parts = []
        self.words = []
        self._window.Unlock_all()
        self._window.Free()
        self._comm.Free()
