"""What a rank tells about a training while it runs: its log, and on worker 0 progress, metrics and evaluations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpips.train.config import bound
from mpips.train.data import Data
from mpips.train.evaluate import score
from mpips.train.metrics import Meter, Metrics, Record
from mpips.train.progress import figures, progress
from mpips.train.setup import Training

if TYPE_CHECKING:
    from mpips.worker import Worker

METRICS = "metrics.jsonl"
LOG = logging.getLogger("mpips.train")


class Watch:
    """One worker's; use `watch` to make one and to close it.

    Args:
        training: what is trained.
        ps: this worker.
        data: its samples, for the evaluations.
        total: clock of the end.
    """

    def __init__(self, training: Training, ps: Worker, data: Data, total: int) -> None:
        config, self.order = training.config, training.order(ps.workers)
        self.training, self.ps, self.data, self.total = training, ps, data, total
        self.start = ps.now
        self.first = ps.index == 0
        self.meter = Meter(ps.now, total, self.order.samples, bound(config.staleness), self.order.seen)
        directory = config.log_directory if self.first else None
        self.metrics = Metrics(directory / METRICS, ps.now) if directory else None
        self.evaluations = directory / evaluations(0) if directory and training.by_reader else None
        self.shown = progress(ps.now, total) if self.first else None
        self.score: dict[str, float] = {}
        self.last: Record = {}

    def step(self, clock: int, loss: float | None) -> None:
        """Take note that the worker has come to `clock`, with the loss of its batch if it had one."""
        if loss is not None:
            self.meter.step(loss)
        if self.shown:
            self.shown.step(clock)
        if clock == self.total:
            return  # `end` follows
        if self.first and self._due(clock, self.training.config.eval_every):
            if self.evaluations is not None:
                self.score = newest(self.evaluations)
            elif not self.training.by_reader:
                self.evaluate()
        if self._due(clock, self.training.config.log_every):
            self.record(clock)

    def _due(self, clock: int, every: int | None) -> bool:
        """Whether at this clock is due what happens every so many clocks, None for once an epoch."""
        return clock % every == 0 if every else self.order.epoch(clock) > self.order.epoch(clock - 1)

    def evaluate(self) -> None:
        """Score the parameters that this worker pulls now."""
        names = self.training.names
        params = dict(zip(names, self.ps.pull(names), strict=True))
        with self.ps.span("evaluate"):
            self.score = score(self.training.model, params, self.data.x_test, self.data.y_test)

    def record(self, clock: int) -> None:
        """Write down one interval."""
        self.last = record = self.meter.record(clock, self.ps.stats, self.score)
        LOG.info("step %d/%d  %s", clock, self.total, figures(record))
        if self.metrics:
            self.metrics.write(record)
        if self.shown:
            self.shown.show(record)

    def end(self) -> dict[str, Any]:
        """Evaluate for the last time and return what a `Report` is made of; every push must have been applied."""
        if self.first:
            self.evaluate()
        if self.start < self.total:
            self.record(self.total)
        return {**self.score, "loss": self.last.get("loss"), "steps": max(self.total - self.start, 0),
                "clock": max(self.total, self.start), "seconds": self.last.get("time", 0.0), "skipped": self.last.get("skipped", 0)}

    def close(self) -> None:
        """Leave files and screen in order."""
        if self.shown:
            self.shown.close()
        if self.metrics:
            self.metrics.close()


@contextmanager
def watch(training: Training, ps: Worker, data: Data, total: int) -> Iterator[Watch]:
    """Show progress until the block ends."""
    LOG.info("%s %d of %d begins at clock %d of %d", ps.role, ps.index, ps.workers, ps.now, total)
    out = Watch(training, ps, data, total)
    try:
        yield out
    finally:
        out.close()


def rank_name(role: str, index: int, rank: int) -> str:
    """Return what the log file of a rank is called."""
    return f"rank-{rank:04}-{role}-{index}"


def evaluations(reader: int) -> str:
    """Return the name of a reader's file; one process writes one file, for the sake of network file systems."""
    return f"evaluation-{reader}.jsonl"


def newest(path: Path) -> dict[str, float]:
    """Return the score in the last whole line of a file of evaluations, {} if there is none yet."""
    try:
        *_, last = path.read_text().rpartition("\n")[0].splitlines()
        return {key: value for key, value in json.loads(last).items() if key != "time" and value is not None}
    except (OSError, ValueError):
        return {}
