"""Large reads from servers elsewhere by two-sided messages, for networks where MPI_Get is slow.

Over TCP Open MPI 5.0 sends the bytes of a Get back, too: it takes twice as long as a message (measured, tests/bench/README.md).
So a client may ask the server to send what it would have got, and the server does so when it polls. Nothing else changes: the
bytes are read between `get` and the end of the `flush`, and whether they were whole is seen by the same marks.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from mpips.transport.base import Array

if TYPE_CHECKING:
    from mpi4py import MPI

ASK = 0  # tag of a question; answers have the others
TAGS = 1 << 14  # MPI has 32767 at least (MPI 4.1, 9.1.2)
LEAST = 64 << 10  # bytes of a read that is asked for
TRIES = 3  # of each way, before the faster one is known
TELLING = 1 << 20  # bytes that tell how fast a way is


class Messages:
    """One process's: of a server that is asked, or a client that asks.

    Args:
        comm: all ranks, with no other messages.
        memory: of a server, what is read by others.
    """

    def __init__(self, comm: MPI.Intracomm, memory: Array | None) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = comm
        self._memory = memory
        self._status = MPI.Status()
        self._sending: list[MPI.Request] = []
        self._asked: dict[int, list[MPI.Request]] = {}
        self._questions: list[Array] = []  # that may not have left
        self._tag = 0

    def get(self, rank: int, offset: int, out: Array) -> None:
        """Ask a server's rank for contiguous bytes."""
        byte, comm, requests = self._mpi.BYTE, self._comm, self._asked.setdefault(rank, [])
        self._tag = self._tag % TAGS + 1
        question = np.array([offset, out.nbytes, self._tag], np.int64)
        requests.append(comm.Irecv([out, out.nbytes, byte], rank, self._tag))
        requests.append(comm.Isend([question, question.nbytes, byte], rank, ASK))
        self._questions.append(question)

    def arrived(self, rank: int) -> bool:
        """Whether all that this rank was asked for is here."""
        if not self._mpi.Request.Testall(self._asked.get(rank, [])):
            return False
        self._asked.pop(rank, None)
        if not self._asked:
            self._questions = []
        return True

    def serve(self) -> bool:
        """Send what has been asked for; return whether anything is on its way."""
        comm, byte, status, memory = self._comm, self._mpi.BYTE, self._status, self._memory
        while memory is not None and comm.Iprobe(self._mpi.ANY_SOURCE, ASK, status):
            question = np.empty(3, np.int64)
            comm.Recv([question, question.nbytes, byte], status.Get_source(), ASK)
            offset, size, tag = question.tolist()
            self._sending.append(comm.Isend([memory[offset : offset + size], size, byte], status.Get_source(), tag))
        self._sending = [request for request in self._sending if not request.Test()]
        return bool(self._sending)

    def close(self) -> None:
        """Give the communicator back; collective."""
        self._comm.Free()


class Faster:
    """Which of two ways is faster, by the first few times that each was used.

    >>> ways = Faster()
    >>> for seconds in (2.0, 1.0) * TRIES:
    ...     ways.took(ways.best, seconds, TELLING)
    >>> ways.best
    1
    """

    def __init__(self) -> None:
        self._used = 0
        self._least = [inf, inf]

    @property
    def best(self) -> int:
        """The way to use, 0 or 1."""
        return self._used % 2 if self._used < 2 * TRIES else int(self._least[1] < self._least[0])

    def took(self, way: int, seconds: float, nbytes: int) -> None:
        """Take note of how long so many bytes have taken."""
        if nbytes >= TELLING:
            self._used += 1
            self._least[way] = min(self._least[way], seconds / nbytes)
