"""The start of a job, and the memory of its servers.

| case          | what it is                                                                                      |
|---------------|-------------------------------------------------------------------------------------------------|
| start         | seconds from the call of `run` to the first line of `work`, the first in this process, tables of zeros |
| server memory | growth of server 0's resident memory, pushes of all workers folded, over (2 + slots + halves) x shard |
| planned memory| what `mpips plan` says, over the same                                                           |
| numba on workers | workers that have imported numba by the end                                                    |
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from mpips.bench.crew import LR, Case, Crew, Samples, gradient
from mpips.cluster.memory import slot_bytes
from mpips.cluster.run import run
from mpips.optim import SGD
from mpips.table import Dense
from mpips.transport.plan import make_plan
from mpips.worker import Worker


def start(crew: Crew, size: int) -> Samples:
    """Measure the first `run` of these processes, so call it before all others."""
    crew.meet()
    began = time.perf_counter()

    def work(ps: Worker) -> float:
        return time.perf_counter() - began

    took = run(work, [_table(size)], servers=(crew.servers, "first"), device="cpu")
    crew.meet()
    return {Case("start", size, "sgd", "0"): [max(took)]} if took else {}


def memory(crew: Crew, size: int) -> Samples:
    """Measure what server 0 takes after some pushes of every worker; nothing where /proc does not tell."""
    crew.meet()
    server = crew.comm.allgather(os.getpid())[0]
    before = resident(server)

    def work(ps: Worker) -> int:
        grad, w = gradient(size), np.empty(size, np.float32)
        for _ in range(4):
            ps.push("w", grad)
            ps.clock()
            ps.pull("w", out=w)
        ps.barrier()
        return resident(server) - before

    table = _table(size)
    grown = crew.run(work, [table])
    if not grown:
        return {}
    plan = make_plan([table], servers=crew.servers, workers=crew.workers)
    held = (2 + len(table.optimizer.slots) + 2 * crew.workers) * plan.layout.nbytes[0]
    planned = plan.maps[0].size + slot_bytes(plan, 0)
    found: Samples = {Case("planned memory", size, "sgd", "0"): [planned / held]}
    if grown[0] > 0:
        found[Case("server memory", size, "sgd", "0")] = [grown[0] / held]
    return found


def compilers(crew: Crew) -> Samples:
    """Count the workers that have numba in memory."""
    crew.meet()
    there = crew.comm.gather(not crew.serving and "numba" in sys.modules, root=crew.first)
    return {Case("numba on workers"): [float(sum(there))]} if there is not None else {}


def resident(pid: int) -> int:
    """Return the bytes that a process has in memory, private and shared, without files; 0 where /proc does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # a process of another node
        return 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in fields)


def _table(size: int) -> Dense:
    return Dense("w", (size,), optimizer=SGD(lr=LR))
