"""Limits: what the machine can do for the same bytes, with nothing of a parameter server around it.

| case   | what is timed                                                                                       |
|--------|-----------------------------------------------------------------------------------------------------|
| copy   | `np.copyto` between two arrays that are resident                                                      |
| bytes  | `np.add(a, b, out=c)`: reads two arrays, writes one that it does not read first; what SGD moves (4 units of  |
|        | memory traffic with the write-allocate; Adam moves 8: w, m, v, g read, w allocated, w, m, v written)  |
| put    | raw `Put` and `Flush` into another rank's memory of a shared window                                   |
| get    | raw `Get` and `Flush`                                                                                 |
| update | the fused update of `mpips.optim.Fold` on resident arrays, span by span as a server does it            |
| update of W | the same with the gradients of all W workers                                                     |
| update threads | the same with a thread for each core (at least 2)                                              |
| copy beside, update beside | both at the same time, on a worker and on the server, each on arrays of its own: they share |
|        | the machine's memory, so this is what overlapping a push's copy with its fold can reach               |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np

from mpips.bench.crew import LR, Case, Crew, Samples, cores, gradient, steps, timed
from mpips.layout import BLOCK
from mpips.optim import Fold, make
from mpips.optim.lines import LINE
from mpips.optim.team import Team
from mpips.server.store import JOIN
from mpips.table import Dense

BESIDE = 0.3  # seconds


def copies(crew: Crew, size: int) -> Samples:
    """Time a copy, and the traffic of an update, on worker 0."""
    def measured() -> Samples:
        one, two, three = gradient(size), np.zeros(size, np.float32), np.zeros(size, np.float32)
        return {Case("copy", size): timed(lambda: np.copyto(two, one), steps(size)),
                Case("bytes", size): timed(lambda: np.add(one, two, out=three), steps(size))}

    return crew.alone(crew.first, measured)


def raw(crew: Crew, size: int) -> Samples:
    """Time Put and Get of worker 0 on memory of rank 0; a shared window where all ranks are on one node, else an allocated one."""
    from mpi4py import MPI

    crew.meet()
    node = crew.comm.Split_type(MPI.COMM_TYPE_SHARED)
    near = node.size == crew.comm.size
    node.Free()
    mine = 4 * size if crew.comm.rank == 0 else 0
    window = (MPI.Win.Allocate_shared if near else MPI.Win.Allocate)(mine, 1, comm=crew.comm)
    window.Lock_all(MPI.MODE_NOCHECK)

    def measured() -> Samples:
        data = gradient(size)

        def put() -> None:
            window.Put([data, MPI.FLOAT], 0)
            window.Flush(0)

        def get() -> None:
            window.Get([data, MPI.FLOAT], 0)
            window.Flush(0)

        return {Case("put", size): timed(put, steps(size)), Case("get", size): timed(get, steps(size))}

    found = crew.alone(crew.first, measured)
    window.Unlock_all()
    window.Free()
    return found


def updates(crew: Crew, size: int, optimizers: Iterable[str]) -> Samples:
    """Time the update on rank 0, a server: numba is never imported on a worker."""
    def measured() -> Samples:
        found: Samples = {}
        for name in optimizers:
            found[Case("update", size, name)] = _update(size, name, 1)
            if crew.workers > 1:
                found[Case("update of W", size, name)] = _update(size, name, crew.workers)
            found[Case("update threads", size, name)] = _update(size, name, 1, Team(cores()))
        return found

    return crew.alone(0, measured)


def beside(crew: Crew, size: int) -> Samples:
    """Time copies on worker 0 and updates on rank 0 while both go on."""
    def again(measure: Callable[[], list[float]]) -> list[float]:
        end, times = time.perf_counter() + BESIDE, measure()
        while time.perf_counter() < end:
            times += measure()
        return times

    found: Samples = {}
    crew.meet()
    if crew.leads:
        one, two = gradient(size), np.zeros(size, np.float32)
        found[Case("copy beside", size)] = again(lambda: timed(lambda: np.copyto(two, one), steps(size)))
    elif crew.comm.rank == 0:
        found[Case("update beside", size, "sgd")] = again(lambda: _update(size, "sgd", 1))
    crew.meet()
    return found


def _update(size: int, name: str, count: int, team: Team | None = None) -> list[float]:
    optimizer = make(name, lr=LR)
    fold = Fold(optimizer, Dense("w", (size,), optimizer=optimizer), team=team)
    room = np.zeros(size + LINE, np.float32)
    new = room[-room.ctypes.data % LINE // 4 :][:size]  # where a line begins, as a server's copies do: that makes a large fold fast
    old = np.zeros(size, np.float32)
    slots = [np.zeros(size, np.float32) for _ in fold.names]
    gradients = [gradient(size) for _ in range(count)]
    step = JOIN * BLOCK // 4 * (team.size if team else 1)
    parts = [slice(lo, min(lo + step, size)) for lo in range(0, size, step)]

    def update() -> None:
        for at in parts:
            fold(old[at], new[at], [s[at] for s in slots], [g[at] for g in gradients], step=1, clock=0)

    return timed(update, steps(size))
