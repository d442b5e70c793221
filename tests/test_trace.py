"""Traces: a real job's file has every rank's spans on one clock."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mpips
from mpips.cli import main
from mpips.errors import MpipsError, UsageError
from mpips.trace import Reading, Trace, check, write
from tests.mpirun import ROOT, launcher, mpirun

Event = dict[str, Any]
DIGITS = ROOT / "scripts" / "digits.toml"
needs_mpirun = pytest.mark.skipif(not launcher(), reason="there is no mpirun")


def read(path: Path) -> dict[str, list[Event]]:
    """Spans by the name of their rank, in the file's order, after looking at what every trace must keep."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names) == list(range(len(names)))
    out: dict[str, list[Event]] = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            assert event.keys() == {"ph", "name", "pid", "tid", "ts", "dur", "args"}
            assert event["dur"] >= 0
            out[names[event["pid"]]].append(event)
        else:
            assert event["ph"] == "M"
    for spans in out.values():
        for thread in (0, 1):
            assert nested([span for span in spans if span["tid"] == thread])
    return out


def nested(spans: list[Event]) -> bool:
    """Whether they are in the order of their begins, and each ends before the one around it does."""
    around: list[Event] = []
    for span in spans:
        if around and span["ts"] < around[-1]["ts"]:
            return False
        while around and end(around[-1]) <= span["ts"] + 1e-3:
            around.pop()
        if around and end(span) > end(around[-1]) + 1e-3:
            return False
        around.append(span)
    return True


def end(span: Event) -> float:
    return float(span["ts"] + span["dur"])


def some(spans: list[Event], *names: str) -> Iterator[Event]:
    return (span for span in spans if span["name"] in names)


@needs_mpirun
def test_digits_by_mpirun(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "trace.json"
    settings = ["--set", "epochs=2", "--set", "device=cpu", "--set", "checkpoint.every=20"]
    done = mpirun(3, ["-m", "mpips", "train", str(DIGITS), *settings, "--trace", str(path)], cwd=tmp_path)
    assert done.code == 0, done
    spans = read(path)
    assert set(spans) == {"server 0", "worker 0", "worker 1"}
    steps = 2 * 23
    folds = list(some(spans["server 0"], "fold"))
    assert [(f["args"]["clock"], f["args"]["what"]) for f in folds] == [(c, "hidden0.w to out.b") for c in range(steps)]
    saved = {(s["args"]["clock"], s["args"]["what"]) for s in some(spans["server 0"], "checkpoint")}
    assert saved == {(clock, what) for clock in (20, 40, 46) for what in ("shard", "publish")}
    for worker in ("worker 0", "worker 1"):
        mine = spans[worker]
        pushes = {s["args"]["clock"]: s for s in some(mine, "push")}
        pulls = {s["args"]["clock"]: s for s in reversed(mine) if s["name"] == "pull"}  # the first one of each clock
        assert sorted(pushes) == list(range(steps))
        assert sorted(pulls) == list(range(steps + 1))
        computes = list(some(mine, "compute"))
        assert len(computes) == steps
        for clock, compute in enumerate(computes):
            assert end(pulls[clock]) <= compute["ts"] <= end(compute) <= pushes[clock]["ts"]
        for fold in folds:
            clock = fold["args"]["clock"]
            assert pushes[clock]["ts"] < fold["ts"], "a fold takes what every worker has begun to push"
            assert end(fold) < end(pulls[clock + 1]), "what is pulled has been folded"
        assert {s["name"] for s in mine} <= {"pull", "push", "compute", "wait", "evaluate"}
        waits = {s["args"]["what"] for s in some(mine, "wait")}
        assert "a pull of table 'hidden0.w', 'hidden0.b', 'out.w', ..." in waits
    assert [s["name"] for s in some(spans["worker 0"], "evaluate")] == ["evaluate"] * 2


LARGE = """
import sys
import numpy as np
import mpips

def work(ps):
    for _ in range(4):
        w = ps.pull("w")
        with ps.span("mine"):
            w += 1
        ps.push("w", w)
        ps.clock()

def read(ps):
    while not ps.done:
        ps.pull("w")

tables = [mpips.Dense("w", shape=(3_000_000,), optimizer=mpips.optim.SGD(lr=0.1))]
mpips.run(work, tables, servers=2, readers=1, read=read, trace=sys.argv[1], nodes=sys.argv[2])
"""


@needs_mpirun
@pytest.mark.parametrize("nodes", ["real", "single"])
def test_blocks_of_a_large_table_on_one_clock(tmp_path: Path, nodes: str) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    done = mpirun(5, [str(tmp_path / "large.py"), str(tmp_path / "trace.json"), nodes])
    assert done.code == 0, done
    spans = read(tmp_path / "trace.json")
    assert set(spans) == {"server 0", "server 1", "worker 0", "worker 1", "reader 0"}
    labels = [e for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if e["name"] == "process_labels"]
    assert len(labels) == (0 if nodes == "real" else 4), "only clocks that were compared are not known exactly"
    early = 2 * max((float(e["args"]["labels"].split()[2]) + 1 for e in labels), default=0.0)  # two clocks may be so far apart
    published: Counter[tuple[int, int]] = Counter()
    for server in ("server 0", "server 1"):
        ahead: set[tuple[int, int]] = set()
        for fold in some(spans[server], "fold", "publish", "fold ahead"):
            clock, first = fold["args"]["clock"], fold["args"]["block"]
            for key in ((clock, first + i) for i in range(fold["args"].get("blocks", 1))):
                if fold["name"] == "fold ahead":
                    ahead.add(key)
                else:
                    assert fold["name"] == "fold" or key in ahead
                    published[key] += 1
            for worker in ("worker 0", "worker 1"):
                push = next(s for s in some(spans[worker], "push") if s["args"]["clock"] == clock)
                assert push["ts"] < fold["ts"] + early
    blocks = {block for _, block in published}
    assert len(blocks) > 2
    assert published == Counter((clock, block) for clock in range(4) for block in blocks)
    assert [s["name"] for s in some(spans["worker 1"], "mine")] == ["mine"] * 4
    assert any(some(spans["reader 0"], "pull"))


@needs_mpirun
def test_a_path_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "none" / "trace.json"
    done = mpirun(3, ["-m", "mpips", "train", str(DIGITS), "--trace", str(path)], cwd=tmp_path)
    assert done.code == 2, done
    assert done.err.count("mpips: error: ") == 1, done
    assert f"trace: {path} cannot be written: No such file or directory" in done.err
    assert not list(tmp_path.iterdir())


def test_one_process(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    tables = [mpips.Dense("w", shape=(3,), optimizer=mpips.optim.SGD(lr=0.1))]

    def work(ps: mpips.Worker) -> None:
        for _ in range(3):
            ps.push("w", ps.pull("w"))
            ps.clock()
        ps.pull("w")

    mpips.run(work, tables, servers=2, trace=path, device="cpu")
    spans = read(path)
    assert Counter(s["name"] for s in spans["worker 0"] if s["name"] != "wait") == {"pull": 4, "push": 3}
    assert len(spans["server 0"] + spans["server 1"]) == 3
    mpips.run(lambda ps: None, tables, trace=path, device="cpu")  # no step at all
    assert read(path) == {"server 0": [], "worker 0": []}
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]


@pytest.mark.parametrize(("rows", "capacity"), [(100, None), (None, 100)])
def test_pulls_of_rows_are_spans_and_seconds_too(tmp_path: Path, rows: int | None, capacity: int | None) -> None:
    tables = [mpips.Rows("user", rows, 4, mpips.optim.SGD(lr=0.1), capacity=capacity)]

    def work(ps: mpips.Worker) -> dict[str, float]:
        for _ in range(3):
            ps.push("user", ps.pull("user", rows=[7, 3, 99]), rows=[7, 3, 99])
            ps.clock()
        return ps.stats

    results = mpips.run(work, tables, servers=2, trace=tmp_path / "trace.json", device="cpu")
    assert results is not None
    assert results[0]["pull_seconds"] > 0
    spans = [s for s in read(tmp_path / "trace.json")["worker 0"] if s["name"] != "wait"]
    assert Counter(s["name"] for s in spans) == {"pull": 3, "push": 3}
    assert {s["args"]["what"] for s in spans} == {"user"}


def test_wrong_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(DIGITS), "--trace", str(tmp_path)]) == 2
    assert f"trace: {tmp_path} cannot be written: is not a file" in capsys.readouterr().err
    for wrong in ("", 3):
        with pytest.raises(UsageError, match="is not a path of a file"):
            mpips.run(lambda ps: None, [], trace=wrong)  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "pipe")  # as /dev/null, of which root would make a file
    with pytest.raises(UsageError, match="pipe cannot be written: is not a file"):
        check(tmp_path / "pipe")
    check(tmp_path / "trace.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_disk_that_takes_no_more_at_the_end_is_named_with_the_file_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "t.json.tmp").symlink_to("/dev/full")
    with pytest.raises(MpipsError, match=f"^trace: {tmp_path}/t.json cannot be written: No space left on device$"):
        write(tmp_path / "t.json", ["some"])
    assert list(tmp_path.iterdir()) == []


def test_more_spans_than_are_kept(tmp_path: Path) -> None:
    trace = Trace("worker 0", limit=2)
    for _ in range(5):
        trace.add("push", time.perf_counter())
    write(tmp_path / "trace.json", [trace.part(0)])
    assert len(read(tmp_path / "trace.json")["worker 0"]) == 2
    labels = [e["args"]["labels"] for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
              if e["name"] == "process_labels"]
    assert labels == ["3 later spans left out"]


def test_clocks_that_run_apart() -> None:
    trace = Trace("worker 0")
    trace.spans = [("push", 100.0, 150.0, 0, "w", -1, 1, 0)]
    text = trace.part(1, 1000.0, Reading(100.0, 900.0, 5e-6), Reading(200.0, 901.0, 7e-6))
    *metas, span = json.loads(f"[{text}]")
    assert (span["ts"], span["dur"]) == (0.0, 50.5e6)
    assert metas[-1]["args"] == {"labels": "clock to 7 us"}
