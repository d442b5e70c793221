"""The verbs on rows of a large table, through `mpips.run` on the same ranks, as user code calls them.

| case          | what is timed on a worker                                                                       |
|---------------|-------------------------------------------------------------------------------------------------|
| push of rows  | `ipush("w", g, rows=ids)`, clock, `wait(applied=True)`                                            |
| pull of rows  | `pull("w", rows=ids, out=u)`                                                                    |
| round of rows | push, clock, and a pull of the rows of the next step                                              |
| ... of unsorted rows | the same for ids as they come, with repeats, which are added up                            |
| ... of named rows    | ids ascending, in a table with rows=None that knows all of them                            |
| born by push  | new rows per second and server of `NARROW` numbers, uniform at random: ids that nobody has named   |
|               | before, a tenth of the table's rows in ten pushes until applied                                      |

A step touches a hundredth of the rows, `DIM` numbers each, and each step others.
"""

from __future__ import annotations

import time
from itertools import cycle, pairwise

import numpy as np

from mpips.bench.crew import DIM, LR, Array, Case, Crew, Samples, drawn, gradient, steps, touched
from mpips.init import uniform
from mpips.optim import make
from mpips.table import Rows
from mpips.worker import Worker

WARM = 2
NARROW = 16
BIRTHS = 10  # pushes of new rows


def verbs(crew: Crew, rows: int, *, optimizer: str = "sgd", staleness: int | None = 0, kind: str = "") -> Samples:
    """Time the verbs on one table; `kind` is "", "unsorted" or "named"."""
    label, what = "none" if staleness is None else str(staleness), " ".join(filter(None, ("of", kind, "rows")))
    known, size = kind != "named", touched(rows) * DIM
    table = Rows("w", rows if known else None, DIM, optimizer=make(optimizer, lr=LR), staleness=staleness,
                 capacity=None if known else 2 * rows)
    samples: Samples = {}

    def work(ps: Worker) -> None:
        grad, out = gradient(size).reshape(-1, DIM), np.empty((touched(rows), DIM), np.float32)
        for lo in range(0, rows if not known else 0, ps.workers * len(out)):  # as many steps on every worker
            some = np.arange(lo + ps.index, min(lo + ps.workers * len(out), rows), ps.workers)
            ps.push("w", grad[: len(some)], rows=some)
            ps.clock()
        ids = pairwise(cycle(drawn(rows, ps.index, unsorted=kind == "unsorted")))
        for name, verb in (("push", _push), ("pull", _pull), ("round", _round)):
            ps.barrier()
            times = [verb(ps, grad, *next(ids), out) for _ in range(WARM + steps(size))]
            samples[Case(f"{name} {what}", size, optimizer, label)] = times[WARM:]

    crew.run(work, [table])
    return samples


def births(crew: Crew, rows: int) -> Samples:
    """Time rows that are pushed for the first time."""
    count, samples = touched(rows), dict[Case, list[float]]()

    def work(ps: Worker) -> None:
        rng = np.random.default_rng(ps.index)
        grad = gradient(count * NARROW).reshape(-1, NARROW)
        ids = rng.integers(-1 << 63, 1 << 63, (WARM + BIRTHS, count))
        times = [_push(ps, grad, np.sort(one), None, None) for one in ids]
        born = count * BIRTHS * ps.workers / crew.servers
        samples[Case("born by push", count * NARROW, "sgd", "none")] = [born / sum(times[WARM:])]

    table = Rows("w", None, NARROW, optimizer=make("sgd", lr=LR), init=uniform(), staleness=None,
                 capacity=2 * (WARM + BIRTHS) * count * crew.workers)
    crew.run(work, [table])
    return samples


def _push(ps: Worker, grad: Array, ids: Array, later: Array | None, out: Array | None) -> float:
    begin = time.perf_counter()
    handle = ps.ipush("w", grad, rows=ids)
    ps.clock()
    handle.wait(applied=True)
    return time.perf_counter() - begin


def _pull(ps: Worker, grad: Array, ids: Array, later: Array, out: Array) -> float:
    begin = time.perf_counter()
    ps.pull("w", rows=ids, out=out)
    return time.perf_counter() - begin


def _round(ps: Worker, grad: Array, ids: Array, later: Array, out: Array) -> float:
    begin = time.perf_counter()
    ps.push("w", grad, rows=ids)
    ps.clock()
    ps.pull("w", rows=later, out=out)
    return time.perf_counter() - begin
