"""Rivals: what a user would write without this package, on the same ranks. One round each: gradient away, new parameters here.

| case      | one round                                                                                         |
|-----------|---------------------------------------------------------------------------------------------------|
| two-sided | a worker sends its gradient and receives the parameters; the server receives the gradients in worker  |
|           | order, applies SGD in NumPy, in place, and sends the parameters; the array is split over the servers  |
| allreduce | `Allreduce` of the gradients among the workers, then SGD in NumPy on each                             |
| gloo      | PyTorch's `all_reduce` over gloo among the workers, then SGD in PyTorch on each                       |

The last two need two workers. All buffers exist before, and all calls are the fast ones of mpi4py.
"""

from __future__ import annotations

import socket
import time
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from mpips.bench.crew import LR, Array, Case, Crew, Samples, gradient, steps

WARM = 2


def two_sided(crew: Crew, size: int) -> Samples:
    """Time rounds with the simplest two-sided parameter server."""
    crew.meet()
    cuts = [size * s // crew.servers for s in range(crew.servers + 1)]
    rounds = WARM + steps(size)
    if crew.serving:
        mine = np.zeros(cuts[crew.comm.rank + 1] - cuts[crew.comm.rank], np.float32)
        serve(crew, mine, rounds)
        crew.meet()
        return {}
    grad, w = gradient(size), np.empty(size, np.float32)
    out = []
    for _ in range(rounds):
        begin = time.perf_counter()
        exchange(crew, grad, w, cuts)
        out.append(time.perf_counter() - begin)
    crew.meet()
    return {Case("two-sided", size): out[WARM:]}


def serve(crew: Crew, w: Array, rounds: int, lr: float = LR) -> None:
    """Be the server of a rank's part of the parameters, for so many rounds."""
    grad = np.empty_like(w)
    workers = range(crew.first, crew.comm.size)
    for _ in range(rounds):
        for worker in workers:
            crew.comm.Recv(grad, worker)
            np.multiply(grad, lr, out=grad)
            np.subtract(w, grad, out=w)
        for worker in workers:
            crew.comm.Send(w, worker)


def exchange(crew: Crew, grad: Array, w: Array, cuts: list[int]) -> None:
    """Do a worker's round: parts `cuts[s]:cuts[s + 1]` go to server s and come back."""
    for server, (lo, hi) in enumerate(pairwise(cuts)):
        crew.comm.Send(grad[lo:hi], server)
    for server, (lo, hi) in enumerate(pairwise(cuts)):
        crew.comm.Recv(w[lo:hi], server)


def allreduce(crew: Crew, size: int) -> Samples:
    """Time rounds of Allreduce and local SGD; nothing for one worker."""
    crew.meet()
    out = []
    if not crew.serving and crew.workers > 1:
        grad, total, w = gradient(size), np.empty(size, np.float32), np.zeros(size, np.float32)
        for _ in range(WARM + steps(size)):
            begin = time.perf_counter()
            crew.team.Allreduce(grad, total)
            np.multiply(total, LR, out=total)
            np.subtract(w, total, out=w)
            out.append(time.perf_counter() - begin)
    crew.meet()
    return {Case("allreduce", size): out[WARM:]} if out else {}


class Gloo:
    """PyTorch's group of the workers; `missing` says why there is none."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self.missing = ""
        here = find_spec("torch") is not None
        crew.meet()
        if crew.workers < 2:
            self.missing = "gloo needs two workers"
        elif not all(crew.comm.allgather(here)):
            self.missing = "gloo: torch is not installed"
        elif not crew.serving:
            self._torch = import_module("torch")
            self._group = import_module("torch.distributed")
            self._group.init_process_group("gloo", init_method=self._meeting(), rank=crew.worker, world_size=crew.workers)

    def rounds(self, crew: Crew, size: int) -> Samples:
        """Time rounds of all_reduce and local SGD."""
        crew.meet()
        out: list[float] = []
        if not crew.serving and not self.missing:
            torch: Any = self._torch
            grad, w = torch.zeros(size), torch.zeros(size)  # zeros: the sum in place would grow with every round
            for _ in range(WARM + steps(size)):
                begin = time.perf_counter()
                self._group.all_reduce(grad)
                w.sub_(grad, alpha=LR)
                out.append(time.perf_counter() - begin)
        crew.meet()
        return {Case("gloo", size): out[WARM:]} if out else {}

    def close(self) -> None:
        """Leave the group."""
        if not self.missing and not self._crew.serving:
            self._group.destroy_process_group()

    def _meeting(self) -> str:
        """Where the group meets: a free port of worker 0's host."""
        place = None
        if self._crew.leads:
            with socket.socket() as free:
                free.bind(("", 0))
                place = f"tcp://{socket.gethostname()}:{free.getsockname()[1]}"
        return str(self._crew.team.bcast(place))
