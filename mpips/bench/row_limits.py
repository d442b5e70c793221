"""Rows of a large table: what the machine can do for the same rows, and what a user would write without this package.

| case           | what is timed                                                                                  |
|----------------|------------------------------------------------------------------------------------------------|
| copy           | `np.copyto` of one step's gradient between arrays that are resident                              |
| take           | `np.take(mode="clip")` of a step's rows, ascending, from a local table into a resident array       |
| take unsorted  | the same for ids as they come, with repeats                                                      |
| row update     | `mpips.optim.RowFold` alone on resident arrays, rows ascending                                   |
| two-sided rows | a worker sends ids and gradients, the server does `w[ids] -= lr * g`; then it sends the ids of its next step |
|                | and receives their rows                                                                         |
| two-sided unsorted rows | the same with `np.subtract.at`, for repeats                                                  |

A step touches a hundredth of the rows, `DIM` numbers each, and each step others. With several servers row r is server r % S's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice, pairwise

import numpy as np

from mpips.bench.crew import DIM, LR, Array, Case, Crew, Samples, drawn, gradient, steps, timed, touched
from mpips.optim import make
from mpips.optim.rows import RowFold

WARM = 2


def takes(crew: Crew, rows: int) -> Samples:
    """Time copies and takes on worker 0."""
    def measured() -> Samples:
        table, size = np.ones((rows, DIM), np.float32), touched(rows) * DIM
        out, other = gradient(size).reshape(-1, DIM), np.zeros((touched(rows), DIM), np.float32)
        found = {Case("copy", size): timed(lambda: np.copyto(other, out), steps(size))}
        for what, unsorted in (("take", False), ("take unsorted", True)):
            ids = cycle(drawn(rows, 0, unsorted=unsorted))

            def take(ids: Iterator[Array] = ids) -> None:
                np.take(table, next(ids), axis=0, out=out, mode="clip")

            found[Case(what, size)] = timed(take, steps(size))
        return found

    return crew.alone(crew.first, measured)


def updates(crew: Crew, rows: int, optimizers: Iterable[str]) -> Samples:
    """Time the update on rank 0, a server."""
    def measured() -> Samples:
        return {Case("row update", touched(rows) * DIM, name): _update(rows, name) for name in optimizers}

    return crew.alone(0, measured)


def _update(rows: int, name: str) -> list[float]:
    size = touched(rows) * DIM
    fold = RowFold(make(name, lr=LR), np.float32, DIM, rows=rows)
    w, slots, grad = np.ones((rows, DIM), np.float32), fold.new_slots(rows), gradient(size).reshape(-1, DIM)
    ids, first = cycle(drawn(rows, 0)), np.ones(touched(rows), np.int64)
    return timed(lambda: fold(w, slots, next(ids), first, grad, clock=0), steps(size), WARM)


def two_sided(crew: Crew, rows: int, *, unsorted: bool = False) -> Samples:
    """Time rounds with the simplest two-sided server of rows."""
    crew.meet()
    size = touched(rows) * DIM
    rounds = WARM + steps(size)
    if crew.serving:
        _serve(crew, np.zeros((-(-rows // crew.servers), DIM), np.float32), touched(rows), rounds, unsorted)
        crew.meet()
        return {}
    grad, out, times = gradient(size).reshape(-1, DIM), np.empty((touched(rows), DIM), np.float32), []
    for ids, later in islice(pairwise(cycle(drawn(rows, crew.worker, unsorted=unsorted))), rounds):
        begin = time.perf_counter()
        for server, mine, places in _parts(crew, ids):
            crew.comm.Send(mine, server)
            crew.comm.Send(grad if places is None else grad[places], server)
        for server, mine, places in _parts(crew, later):
            crew.comm.Send(mine, server)
            part = out if places is None else np.empty((len(mine), DIM), np.float32)
            crew.comm.Recv(part, server)
            if places is not None:
                out[places] = part
        times.append(time.perf_counter() - begin)
    crew.meet()
    return {Case("two-sided unsorted rows" if unsorted else "two-sided rows", size): times[WARM:]}


def _parts(crew: Crew, ids: Array) -> Iterator[tuple[int, Array, Array | None]]:
    """Each server, the rows it is asked for, and where they stand among all; None if it has all of them."""
    if crew.servers == 1:
        yield 0, ids, None
        return
    for server in range(crew.servers):
        places = np.flatnonzero(ids % crew.servers == server)
        yield server, ids[places] // crew.servers, places


def _serve(crew: Crew, w: Array, most: int, rounds: int, unsorted: bool) -> None:
    """Be the server of some rows, for so many rounds."""
    from mpi4py import MPI

    ids, grad, out = np.empty(most, np.int64), np.empty((most, DIM), np.float32), np.empty((most, DIM), np.float32)
    workers, status = range(crew.first, crew.comm.size), MPI.Status()

    def receive(worker: int) -> Array:
        crew.comm.Recv(ids, worker, status=status)
        return ids[: status.Get_count(MPI.INT64_T)]

    for _ in range(rounds):
        for worker in workers:
            mine = receive(worker)
            g = grad[: len(mine)]
            crew.comm.Recv(g, worker)
            np.multiply(g, LR, out=g)
            if unsorted:
                np.subtract.at(w, mine, g)
            else:
                w[mine] -= g
        for worker in workers:
            mine = receive(worker)
            np.take(w, mine, axis=0, out=out[: len(mine)], mode="clip")
            crew.comm.Send(out[: len(mine)], worker)
