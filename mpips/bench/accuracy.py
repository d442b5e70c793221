"""Seconds of training until the digits model is accurate enough: this package, two-sided, Allreduce; all take the same steps.

Every worker takes `BATCH` samples a step, the mean gradient is applied by SGD. That is deterministic, so one process finds out
how many steps it takes, and then each way is timed for as many; the accuracy at their end is reported beside the seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from mpips import models, nn
from mpips.bench import rivals
from mpips.bench.crew import Array, Case, Crew, Samples
from mpips.optim import SGD
from mpips.train import Order, load, source
from mpips.worker import Worker

ENOUGH = 0.96  # of the held-out samples
BATCH = 32
LR = 0.2
LOOK = 10  # steps between two looks at the accuracy
LIMIT = 2000  # steps

Params = dict[str, Array]


def available() -> bool:
    """Whether the digits are there: they come with scikit-learn."""
    return find_spec("sklearn") is not None


class Task:
    """The model, its samples, and the place of each parameter in one flat array."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.model = models.make("mlp", inputs=64, outputs=10, hidden=[64])
        self.tables = self.model.tables(SGD(lr=LR), combine="mean")
        self.names = [table.name for table in self.tables]
        self.data = load(source("digits"))
        self.order = Order(len(self.data.x), batch=BATCH, workers=workers, seed=0)
        self.cuts = np.cumsum([0, *(table.size for table in self.tables)]).tolist()
        self.steps = self._steps()

    def first(self) -> Array:
        """Return the parameters that training begins with, flat: the same as the servers draw."""
        return np.concatenate([t.init.block(t.name, t.shape, t.np_dtype, seed=0, index=0, start=0, stop=t.size)
                               for t in self.tables])

    def split(self, flat: Array) -> Params:
        """Return views of the parts of a flat array."""
        return {t.name: flat[lo:hi].reshape(t.shape)
                for t, lo, hi in zip(self.tables, self.cuts[:-1], self.cuts[1:], strict=True)}

    def gradients(self, params: Params, clock: int, worker: int) -> Params:
        """Return the gradients of a worker's samples at a clock."""
        rows = self.order.rows(clock, worker)
        return dict(self.model.loss_and_grads(params, self.data.x[rows], self.data.y[rows])[1])

    def accuracy(self, params: Params) -> float:
        """Return the part of the held-out samples that is right."""
        return float(nn.accuracy(self.model.predict(params, self.data.x_test), self.data.y_test))

    def train(self, worker: int, exchange: Callable[[Array], Array]) -> tuple[float, float]:
        """Return seconds and accuracy of training with flat gradients in, flat parameters out."""
        flat, grad = self.first(), np.empty(self.cuts[-1], np.float32)
        params, parts = self.split(flat), self.split(grad)
        begin = time.perf_counter()
        for clock in range(self.steps):
            for name, value in self.gradients(params, clock, worker).items():
                parts[name][...] = value
            params = self.split(exchange(grad))
        return time.perf_counter() - begin, self.accuracy(params)

    def _steps(self) -> int:
        """Play all workers in this process until it is accurate enough."""
        flat, grad = self.first(), np.empty(self.cuts[-1], np.float32)
        params, parts = self.split(flat), self.split(grad)
        for clock in range(LIMIT):
            grad[:] = 0
            for worker in range(self.workers):
                for name, value in self.gradients(params, clock, worker).items():
                    parts[name] += value
            flat -= np.float32(LR / self.workers) * grad
            if (clock + 1) % LOOK == 0 and self.accuracy(params) >= ENOUGH:
                return clock + 1
        return LIMIT


def with_mpips(crew: Crew, task: Task) -> Samples:
    """Train through pull, push and clock."""
    def work(ps: Worker) -> list[float]:
        ps.barrier()
        params: Params = dict(zip(task.names, ps.pull(task.names), strict=True))
        outs = list(params.values())
        begin = time.perf_counter()
        for clock in range(task.steps):
            ps.push(task.gradients(params, clock, ps.index))
            ps.clock()
            ps.pull(task.names, out=outs)
        return [time.perf_counter() - begin, task.accuracy(params)]

    found = crew.run(work, task.tables)
    return _samples("train", *found[0]) if found else {}


def with_two_sided(crew: Crew, task: Task) -> Samples:
    """Train through the simplest two-sided server."""
    crew.meet()
    flat = task.first()
    cuts = [flat.size * s // crew.servers for s in range(crew.servers + 1)]
    if crew.serving:
        mine = flat[cuts[crew.comm.rank] : cuts[crew.comm.rank + 1]]
        rivals.serve(crew, mine, task.steps, LR / crew.workers)
        crew.meet()
        return {}

    def exchange(grad: Array) -> Array:
        rivals.exchange(crew, grad, flat, cuts)
        return flat

    found = task.train(crew.worker, exchange)
    crew.meet()
    return _samples("train two-sided", *found) if crew.leads else {}


def with_allreduce(crew: Crew, task: Task) -> Samples:
    """Train through Allreduce; with one worker that is training alone."""
    crew.meet()
    found: Samples = {}
    if not crew.serving:
        flat = task.first()
        total = np.empty_like(flat)

        def exchange(grad: Array) -> Array:
            nonlocal flat
            crew.team.Allreduce(grad, total)
            np.multiply(total, np.float32(LR / crew.workers), out=total)
            np.subtract(flat, total, out=flat)
            return flat

        seconds, accuracy = task.train(crew.worker, exchange)
        found = _samples("train allreduce", seconds, accuracy) if crew.leads else {}
    crew.meet()
    return found


def _samples(what: str, seconds: float, accuracy: float) -> Samples:
    return {Case(what, optimizer="sgd", staleness="0"): [seconds], Case(f"{what}: accuracy"): [accuracy]}
