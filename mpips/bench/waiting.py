"""What waiting costs: servers that have nothing to do, their first answer, and polling beside workers that compute.

| case         | what it is                                                                                       |
|--------------|--------------------------------------------------------------------------------------------------|
| idle server  | processor time of server 0 in a second in which nothing comes, in cores                              |
| first answer | seconds until applied of a push of 1000 floats after that second                                   |
| polling      | part of the workers' computing speed that is lost while a server polls beside them                   |
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from mpips.bench.crew import LR, Array, Case, Crew, Samples
from mpips.optim import SGD
from mpips.table import Dense
from mpips.worker import Worker

SMALL = 1000  # elements
IDLE = 1.0  # seconds
COMPUTE = 0.5  # seconds of computing in one sample
UNITS = 50  # of computation in a step of it, some milliseconds


def idle(crew: Crew, times: int) -> Samples:
    """Measure a server without work; nothing where its processor time cannot be read from worker 0's process."""
    crew.meet()
    server = crew.comm.allgather(os.getpid())[0]
    found: Samples = {}

    def work(ps: Worker) -> None:
        grad = np.ones(SMALL, np.float32)
        ps.ipush("w", grad).wait(applied=True)
        ps.barrier()
        for _ in range(times):
            time.sleep(0.1)
            before, begin = processor_seconds(server), time.perf_counter()
            time.sleep(IDLE)
            after, end = processor_seconds(server), time.perf_counter()
            if ps.index == 0:
                if before is not None and after is not None:
                    found.setdefault(Case("idle server"), []).append((after - before) / (end - begin))
                ps.ipush("w", grad).wait(applied=True)
                found.setdefault(Case("first answer", SMALL), []).append(time.perf_counter() - end)
            ps.clock()

    crew.run(work, [_table()])
    return found


def polling(crew: Crew) -> Samples:
    """Measure how much slower the workers compute while servers poll and a little is pushed and pulled."""
    crew.meet()
    quiet = 0.0
    if not crew.serving:
        quiet = _speed(lambda: None)
    found: Samples = {}

    def work(ps: Worker) -> None:
        grad = np.ones(SMALL, np.float32)

        def step() -> None:
            ps.push("w", grad)
            ps.clock()
            ps.pull("w")

        ps.barrier()
        found[Case("polling")] = [1 - _speed(step) / quiet]

    crew.run(work, [_table()])
    return found


def processor_seconds(pid: int) -> float | None:
    """Return the processor time that a process has used (its POSIX CPU clock), None where that cannot be read."""
    if not hasattr(time, "clock_gettime"):
        return None
    try:
        return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns on Linux
    except OSError:  # a process of another node or container
        return None


def _table() -> Dense:
    return Dense("w", (SMALL,), optimizer=SGD(lr=LR), staleness=None)


def _speed(between: Callable[[], object]) -> float:
    """Return the units of computation per second of computing, with `between()` called, not counted, after each step."""
    values: Array = np.linspace(0, 1, 1 << 14, dtype=np.float32)
    out = np.empty_like(values)
    spent, units = 0.0, 0
    while spent < COMPUTE:
        begin = time.perf_counter()
        for _ in range(UNITS):
            for _ in range(20):
                np.multiply(values, values, out=out)
                np.add(out, values, out=out)
        spent += time.perf_counter() - begin
        units += UNITS
        between()
    return units / spent
