"""Workers that are slow: always the same one, or each in its turn. Steps sleep, so that cores are not what is short.

| case             | what it is                                                                                   |
|------------------|----------------------------------------------------------------------------------------------|
| beside straggler | speed of the other workers while one sleeps 5 x as long, relative to nobody being slow         |
| random steps     | steps per second of all workers together, when steps sleep Exp(1) times a mean                 |
"""

from __future__ import annotations

import time

import numpy as np

from mpips.bench.crew import LR, Case, Crew, Samples
from mpips.optim import SGD
from mpips.table import Dense
from mpips.worker import Worker

SIZE = 1000
STEP = 4e-3  # seconds
SLOW = 5  # times as long
STEPS = 150


def straggler(crew: Crew) -> Samples:
    """Compare the speed of the workers that are not slow, with and without one that is; staleness None."""
    alike = _speeds(crew, None, [STEP] * crew.workers, spread=False)
    other = _speeds(crew, None, [STEP] * (crew.workers - 1) + [SLOW * STEP], spread=False)
    if not crew.leads or crew.workers < 2:
        return {}
    return {Case("beside straggler", SIZE, "sgd", "none"): [sum(other[:-1]) / sum(alike[:-1])]}


def random_steps(crew: Crew, staleness: int | None) -> Samples:
    """Measure the speed when each step sleeps an exponentially distributed time."""
    speeds = _speeds(crew, staleness, [STEP] * crew.workers, spread=True)
    label = "none" if staleness is None else str(staleness)
    return {Case("random steps", SIZE, "sgd", label): [sum(speeds)]} if crew.leads else {}


def _speeds(crew: Crew, staleness: int | None, sleeps: list[float], spread: bool) -> list[float]:
    """Return each worker's steps per second, on worker 0."""
    def work(ps: Worker) -> float:
        grad, w = np.zeros(SIZE, np.float32), np.empty(SIZE, np.float32)
        mine = sleeps[ps.index]
        # The quantiles of Exp(1) in an order of its own: every worker sleeps as long in all, only not at the same time.
        turns = np.random.default_rng(ps.index).permutation(-np.log1p(-(np.arange(STEPS) + 0.5) / STEPS))
        count = STEPS if spread else int(STEPS * min(sleeps) / mine)
        ps.barrier()
        begin = time.perf_counter()
        for step in range(count):
            ps.pull("w", out=w)
            time.sleep(mine * float(turns[step]) if spread else mine)
            ps.push("w", grad)
            ps.clock()
        return count / (time.perf_counter() - begin)

    table = Dense("w", (SIZE,), optimizer=SGD(lr=LR), staleness=staleness)
    return crew.run(work, [table]) or []
