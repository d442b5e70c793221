"""One JSON object for each interval, one log file for each rank, and nothing left behind in the process."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from mpips.errors import MpipsError, UsageError
from mpips.train.metrics import Meter, Metrics, check_directory, rank_log


def test_records() -> None:
    times = iter([10.0, 12.0, 16.0])
    meter = Meter(4, 20, 80, 3, lambda clock: 10 * clock, now=lambda: next(times))
    meter.step(1.0)
    meter.step(3.0)
    meter.step(math.nan)
    first = meter.record(6, {"pull_bytes": 4e9, "pull_seconds": 2.0, "wait_seconds": 0.5}, {"accuracy": 0.5})
    assert first == {
        "time": 2.0, "clock": 6, "epoch": 0.75, "loss": 2.0, "accuracy": 0.5, "samples_per_s": 10.0, "staleness": 3,
        "pull_gb_per_s": 2.0, "push_gb_per_s": None, "wait_s": 0.5, "skipped": 0, "left_s": 14.0,
    }
    stats = {"pull_bytes": 5e9, "pull_seconds": 2.5, "push_bytes": 1e9, "push_seconds": 4.0, "wait_seconds": 0.75,
             "skipped": 2}
    second = meter.record(8, stats, {"accuracy": math.nan})
    assert second == {
        "time": 6.0, "clock": 8, "epoch": 1.0, "loss": None, "accuracy": None, "samples_per_s": 5.0, "staleness": 3,
        "pull_gb_per_s": 2.0, "push_gb_per_s": 0.25, "wait_s": 0.25, "skipped": 2, "left_s": 18.0,
    }


def lines(path: Path) -> list[int]:
    return [json.loads(line)["clock"] for line in path.read_text().splitlines()]


def write(path: Path, start: int, *clocks: int) -> None:
    metrics = Metrics(path, start)
    for clock in clocks:
        metrics.write({"clock": clock})
    metrics.close()


def test_a_new_run_starts_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 1, 2)
    write(path, 0, 3)
    assert lines(path) == [3]
    assert list(tmp_path.iterdir()) == [path]


def test_a_resumed_run_goes_on_behind_its_clock(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 10, 20, 30)
    with path.open("a") as file:
        file.write('{"clock": 4')  # cut off by a crash
    write(path, 20, 30, 40)
    assert lines(path) == [10, 20, 30, 40]
    write(tmp_path / "other.jsonl", 20, 30)
    assert lines(tmp_path / "other.jsonl") == [30]


def test_a_line_is_there_at_once_and_is_json(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m", 0)
    metrics.write({"clock": 1})
    assert lines(tmp_path / "m") == [1]
    with pytest.raises(ValueError, match="JSON"):
        metrics.write({"clock": math.nan})
    metrics.close()


def test_rank_log(tmp_path: Path) -> None:
    logger = logging.getLogger("mpips")
    before = logger.level, list(logger.handlers)

    def work() -> None:
        with rank_log(tmp_path / "deep" / "log", "rank-0003-worker-2") as log:
            log.info("step %d", 4)
            logging.getLogger("mpips.cluster").warning("from below")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    logger.warning("afterwards")
    assert (logger.level, logger.handlers) == before
    text = (tmp_path / "deep" / "log" / "rank-0003-worker-2.log").read_text()
    assert [line.split(" ", 2)[2] for line in text.splitlines()] == [
        "INFO mpips: step 4", "WARNING mpips.cluster: from below"]


def test_no_directory_no_log(tmp_path: Path) -> None:
    level = logging.getLogger("mpips").level
    with rank_log(None, "rank-0000-worker-0"):
        assert logging.getLogger("mpips").level == level


def test_check_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_directory(None, "log")
    check_directory(tmp_path / "a" / "b", "log")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match=r"log: .*file/a cannot be written"):
        check_directory(tmp_path / "file" / "a", "log")
    with pytest.raises(UsageError, match=r"log: .*file cannot be written"):
        check_directory(tmp_path / "file", "log")


def test_a_full_disk_names_the_file_once(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m", 0)
    metrics.file.close()
    metrics.file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    with pytest.raises(MpipsError, match=f"^log: {tmp_path / 'm'} cannot be written: No space left on device$"):
        metrics.write({"clock": 1})
    metrics.close()  # and not a second time: this stands in a `finally`
