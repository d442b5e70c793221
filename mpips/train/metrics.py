"""What a training leaves behind: `metrics.jsonl`, one JSON object for each interval, and a log file for each rank.

| key                              | meaning                                                                       |
|----------------------------------|-------------------------------------------------------------------------------|
| time                             | seconds since this run's first step                                           |
| clock, epoch                     | steps done by worker 0, and the epochs they make                              |
| loss                             | mean over worker 0's steps of the interval, null if none was finite           |
| accuracy and cross_entropy, or   | on the held-out samples, the newest evaluation; not there before the first    |
| mse                              |                                                                               |
| samples_per_s                    | of all workers together, if they keep pace with worker 0                      |
| staleness                        | the bound in force, null for none                                             |
| pull_gb_per_s, push_gb_per_s     | bytes (1e9) that worker 0 moved in the interval by the seconds it took        |
| wait_s                           | seconds that worker 0 waited for others in the interval                       |
| skipped                          | gradients of worker 0 with NaN or Inf that were skipped since the start       |
| left_s                           | seconds to the end at this run's pace                                         |
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpips.errors import MpipsError, UsageError

Record = dict[str, Any]


class Meter:
    """Adds up one interval after the other.

    Args:
        start: clock of the first step; `total` is the last.
        samples: of an epoch.
        staleness: what to write down as such.
        seen: how many samples all workers have taken before a clock.
        now: seconds from anywhere.
    """

    def __init__(self, start: int, total: int, samples: int, staleness: int | None, seen: Callable[[int], int],
                 now: Callable[[], float] = time.perf_counter) -> None:
        self.start, self.total, self.samples, self.staleness = start, total, samples, staleness
        self.seen, self.now = seen, now
        self.began = self.last = now()
        self.clock = start
        self.losses: list[float] = []
        self.before: Mapping[str, float] = {}

    def step(self, loss: float) -> None:
        """Take the loss of one step."""
        if math.isfinite(loss):
            self.losses.append(loss)

    def record(self, clock: int, stats: Mapping[str, float], score: Mapping[str, float]) -> Record:
        """Close the interval at `clock`: its line of `metrics.jsonl`; `stats` are the counters of `Worker.stats`."""
        now = self.now()
        delta = {key: value - self.before.get(key, 0) for key, value in stats.items()}
        seconds, elapsed, done = now - self.last, now - self.began, clock - self.start
        out: Record = {
            "time": round(elapsed, 6),
            "clock": clock,
            "epoch": round(self.seen(clock) / self.samples, 4),
            "loss": sum(self.losses) / len(self.losses) if self.losses else None,
            **known(score),
            "samples_per_s": _per(self.seen(clock) - self.seen(self.clock), seconds),
            "staleness": self.staleness,
            "pull_gb_per_s": _per(delta.get("pull_bytes", 0) / 1e9, delta.get("pull_seconds", 0)),
            "push_gb_per_s": _per(delta.get("push_bytes", 0) / 1e9, delta.get("push_seconds", 0)),
            "wait_s": round(delta.get("wait_seconds", 0), 6),
            "skipped": int(stats.get("skipped", 0)),
            "left_s": round((self.total - clock) * elapsed / done, 3) if done else None,
        }
        self.before, self.last, self.clock, self.losses = dict(stats), now, clock, []
        return out


def known(score: Mapping[str, float]) -> dict[str, float | None]:
    """Return what a file of JSON can hold of a score: None for NaN and infinity."""
    return {key: value if math.isfinite(value) else None for key, value in score.items()}


class Metrics:
    """A file of JSON lines; a resumed run goes on behind the lines up to its clock, a new one starts it anew."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        with self._told():
            kept = []
            if start and path.exists():
                kept = [line for line in path.read_text().splitlines() if _clock(line) <= start]
            fresh = path.with_name(path.name + ".tmp")
            fresh.write_text("".join(line + "\n" for line in kept))
            fresh.replace(path)
            self.file = path.open("ab", buffering=0)  # nothing is kept that could not be written, to fail again when it is closed

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object; it is in the file when this returns."""
        with self._told():
            line = json.dumps(record, allow_nan=False).encode() + b"\n"
            while line:  # the last room of a disk takes a part
                line = line[self.file.write(line) :]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name the file in an error of the disk, which does not."""
        try:
            yield
        except OSError as error:
            raise MpipsError(f"log: {self.path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@contextmanager
def rank_log(directory: Path | None, name: str) -> Iterator[logging.Logger]:
    """Send what the package logs to `<directory>/<name>.log` until the block ends; without a directory, do nothing."""
    logger = logging.getLogger("mpips")
    if directory is None:
        yield logger
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(directory / f"{name}.log", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"log: {directory} cannot be written: {error.strerror or error}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def check_directory(directory: Path | None, key: str) -> None:
    """Raise UsageError if files could not be made in `directory`; nothing is made."""
    if directory is None:
        return
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{key}: {directory} cannot be written")


def _per(amount: float, seconds: float) -> float | None:
    return round(amount / seconds, 6) if seconds > 0 else None


def _clock(line: str) -> float:
    """Clock of a line, 0 of one that has none; one that a crash cut off counts as later than any."""
    try:
        return float(json.loads(line).get("clock", 0))
    except (ValueError, TypeError, AttributeError):
        return math.inf
