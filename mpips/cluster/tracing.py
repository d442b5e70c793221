"""One trace of all ranks: how each rank's clock stands to rank 0's, and the spans of all in rank 0's file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from mpips.trace import Reading, Trace, write

if TYPE_CHECKING:
    from mpi4py import MPI

PINGS = 30  # the quickest one counts
TICK, PART = 2, 3  # tags


def compare(comm: MPI.Comm, apart: list[bool]) -> Reading | None:
    """Compare this rank's clock with rank 0's. Collective.

    The reply to the quickest of some pings was written half its round trip ago, at most that much more or less (Cristian 1989).

    Args:
        apart: of each rank, whether its clock may be another than rank 0's. One host has one: `time.perf_counter` is
            CLOCK_MONOTONIC.
    """
    rank, word = comm.Get_rank(), np.zeros(1)
    if rank == 0:
        for other in (r for r, far in enumerate(apart) if far):
            for _ in range(PINGS):
                comm.Recv(word, other, TICK)
                word[0] = time.perf_counter()
                comm.Send(word, other, TICK)
    elif apart[rank]:
        found = []
        for _ in range(PINGS):
            begin = time.perf_counter()
            comm.Send(word, 0, TICK)
            comm.Recv(word, 0, TICK)
            end = time.perf_counter()
            middle = (begin + end) / 2
            found.append(Reading(middle, float(word[0]) - middle, (end - begin) / 2))
        return min(found, key=lambda reading: reading.error)
    return None


def join(comm: MPI.Comm, trace: Trace, path: str | os.PathLike[str], first: Reading | None, apart: list[bool],
         patience: Callable[[Callable[[], bool], str], object]) -> None:
    """Write the spans of all ranks to `path` on rank 0; whoever returns finds the file complete. Collective.

    Args:
        patience: waits until what it is given says so, within the job's limit; told what for.
    """
    last, rank = compare(comm, apart), comm.Get_rank()
    zero = comm.bcast(trace.begin)
    mine = trace.part(rank, zero, first, last)

    def parts() -> Iterator[str]:
        yield mine
        for other in range(1, comm.Get_size()):  # one at a time: together they may be more than rank 0's memory
            patience(lambda other=other: comm.Iprobe(other, PART), f"the trace of rank {other}")  # type: ignore[misc]
            yield comm.recv(source=other, tag=PART)

    if rank == 0:
        write(path, parts())
    else:
        request = comm.isend(mine, 0, PART)
        patience(lambda: bool(request.test()[0]), "rank 0 to take the trace")
    patience(comm.Ibarrier().Test, "the trace to be written")
