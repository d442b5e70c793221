"""The ranks of a bench: who serves and who works, how those wait that have no part in a measurement, and samples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mpips.cluster.run import run
from mpips.table import Table
from mpips.worker import Worker

if TYPE_CHECKING:
    from mpi4py import MPI

Array = np.ndarray[Any, np.dtype[Any]]

NAP = 1e-3  # seconds between two looks of a rank that has no part in a measurement
LR = 1e-3  # learning rate of everything measured
TILE = 1 << 16  # elements after which gradients repeat: drawing 100 million numbers takes seconds
DIM = 64  # numbers in a row of a table of rows
DRAWN = 16  # steps after which their rows repeat


class Case(NamedTuple):
    """What samples are of; `size` is in elements of float32, "" is for what makes no difference."""

    what: str
    size: int = 0
    optimizer: str = ""
    staleness: str = ""


Samples = dict[Case, list[float]]


class Crew:
    """All ranks; ranks 0 to `servers` - 1 serve, in mpips and in the rivals, the others work.

    Attributes:
        worker: number among the workers, negative on a server.
        first: rank of worker 0, which gathers the samples.
        team: the workers' communicator (on a server: the servers').
    """

    def __init__(self, comm: MPI.Intracomm, servers: int) -> None:
        self.comm = comm
        self.servers = servers
        self.workers = comm.size - servers
        self.worker = comm.rank - servers
        self.first = servers
        self.team = comm.Split(self.worker >= 0, comm.rank)
        self.serving = self.worker < 0
        self.leads = self.worker == 0

    def meet(self) -> None:
        """Wait for all ranks, asleep most of the time: somebody is being measured."""
        request = self.comm.Ibarrier()
        while not request.Test():
            time.sleep(NAP)

    def alone(self, rank: int, measured: Callable[[], Samples]) -> Samples:
        """Measure on one rank while the others sleep."""
        self.meet()
        found = measured() if self.comm.rank == rank else {}
        self.meet()
        return found

    def run(self, work: Callable[[Worker], Any], tables: Sequence[Table], **options: Any) -> list[Any] | None:
        """Do `mpips.run` on this crew's servers and workers, all at the same time; return what it returns."""
        self.meet()
        found = run(work, tables, servers=(self.servers, "first"), device="cpu", **options)
        self.meet()
        return found

    def gather(self, mine: Samples) -> Samples:
        """Put the samples of all ranks together, on worker 0; {} elsewhere."""
        self.meet()
        together: Samples = {}
        for one in self.comm.gather(mine, root=self.first) or []:
            for case, values in one.items():
                together.setdefault(case, []).extend(values)
        return together

    def close(self) -> None:
        """Free the communicators."""
        self.team.Free()


def steps(size: int) -> int:
    """Repetitions in one burst: enough for a median, few enough that bursts of different things follow each other soon."""
    return int(min(300, max(3, 50_000_000 // max(size, 1))))


def cores() -> int:
    """Threads of a fold that has several: one for each core, at least 2."""
    return max(2, os.cpu_count() or 1)


def gradient(size: int) -> Array:
    """Return a gradient: small numbers that are not special to any processor."""
    tile = np.random.default_rng(0).standard_normal(min(size, TILE)).astype(np.float32)
    return np.resize(tile, size)


def touched(rows: int) -> int:
    """Rows that a step touches, of a table of so many."""
    return max(rows // 100, 1)


def drawn(rows: int, worker: int, *, unsorted: bool = False) -> list[Array]:
    """Return the ids of each step: ascending and all different, or as they come, with repeats."""
    rng, count = np.random.default_rng(worker), touched(rows)
    if unsorted:
        return [rng.integers(0, rows, count) for _ in range(DRAWN)]
    return [np.sort(rng.choice(rows, count, replace=False, shuffle=False)) for _ in range(DRAWN)]


def timed(call: Callable[[], object], count: int, warm: int = 1) -> list[float]:
    """Return the seconds of each of `count` calls, after `warm` that do not count."""
    for _ in range(warm):
        call()
    out = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        out.append(time.perf_counter() - begin)
    return out
