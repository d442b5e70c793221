"""Seconds of training until the digits model has its accuracy: this package, two-sided, Allreduce. Same steps in all of them.

Every worker takes 32 samples a step, the gradients are averaged, the update is SGD; every `LOOK` steps worker 0 looks at the held-out
samples, and the time of that is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from mpips import models, nn
from mpips.bench import rivals
from mpips.bench.crew import Array, Case, Crew, Samples
from mpips.cluster.run import run
from mpips.optim import SGD
from mpips.train import Order, load, source
from mpips.worker import Worker

ENOUGH = 0.96
BATCH = 32
LOOK = 10  # steps
LIMIT = 60  # epochs: a model that does not learn is not measured for ever
LR = 0.5

Params = dict[str, Array]
Exchange = Callable[[Params], Params]


def available() -> bool:
    """Whether the digits are there: they come with scikit-learn."""
    return find_spec("sklearn") is not None


class Task:
    """Model, samples and the place of each parameter in a flat array."""

    def __init__(self, crew: Crew) -> None:
        self.model = models.make("mlp", inputs=64, outputs=10, hidden=[64])
        self.tables = self.model.tables(SGD(lr=LR), combine="mean")
        self.data = load(source("digits"))
        self.order = Order(len(self.data.x), batch=BATCH, workers=crew.workers, seed=0)
        ends = np.cumsum([0, *(table.size for table in self.tables)]).tolist()
        self.cuts = list(zip(ends[:-1], ends[1:], strict=True))
        self.size = ends[-1]

    def first(self) -> Array:
        """Return the parameters that training begins with, flat."""
        parts = [t.init.block(t.name, t.shape, t.np_dtype, seed=0, index=0, start=0, stop=t.size) for t in self.tables]
        return np.concatenate([part.reshape(-1) for part in parts]) if parts else np.empty(0, np.float32)

    def split(self, flat: Array) -> Params:
        """Return views of a flat array by name."""
        return {t.name: flat[lo:hi].reshape(t.shape) for t, (lo, hi) in zip(self.tables, self.cuts, strict=True)}

    def train(self, crew: Crew, params: Params, exchange: Exchange, steps: int) -> float:
        """Train for so many steps, or with 0 until it is good enough; return the seconds, or the steps, that it took.

        Called with 0 on one worker finds out the steps; the ranks then measure the same number of them.
        """
        spent = 0.0
        for clock in range(steps):
            begin = time.perf_counter()
            rows = self.order.rows(clock, crew.worker)
            _, grads = self.model.loss_and_grads(params, self.data.x[rows], self.data.y[rows])
            params = exchange(grads)
            spent += time.perf_counter() - begin
        return spent

    def steps_needed(self, workers: int) -> int:
        """Return after how many steps one process that plays all workers has the accuracy: BSP is deterministic."""
        flat = self.first()
        params = self.split(flat)
        total = np.empty_like(flat)
        for clock in range(LIMIT * self.order.steps):
            total[:] = 0
            sums = self.split(total)
            for worker in range(workers):
                rows = self.order.rows(clock, worker)
                for name, grad in self.model.loss_and_grads(params, self.data.x[rows], self.data.y[rows])[1].items():
                    sums[name] += grad
            flat -= np.float32(LR / workers) * total
            if (clock + 1) % LOOK == 0 and nn.accuracy(self.model.predict(params, self.data.x_test), self.data.y_test) >= ENOUGH:
                return clock + 1
        return LIMIT * self.order.steps
