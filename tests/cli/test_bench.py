"""The command on tiny tables: that it measures, keeps, draws and compares; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpips.bench.report import KEYS
from mpips.bench.running import GROUPS
from mpips.bench.text import COLUMNS
from mpips.cli import main
from tests.mpirun import Done, mpirun

COMMAND = ["-m", "mpips", "bench", "--quiet"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "report.json"
    run = mpirun(3, [*COMMAND, "--sizes", "100,300", "--rows", "500", "--repeat", "1", "--json", str(file),
                     "--what", "limits,rivals,verbs,optimizers,threads,staleness,tables,rows,start,idle"], timeout=100)
    assert run.code == 0, run
    return run, json.loads(file.read_text())


@pytest.fixture
def file(done: tuple[Done, dict[str, Any]], tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(done[1]))
    return path


def test_the_report_has_all_that_was_asked_for(done: tuple[Done, dict[str, Any]]) -> None:
    report = done[1]
    assert set(report) == {"bench", "machine", "options", "results", "notes"}
    assert report["options"] == {"sizes": [100, 300], "repeat": 1, "servers": 1, "workers": 2, "rows": 500, "groups": [
        "limits", "rivals", "verbs", "optimizers", "threads", "staleness", "tables", "rows", "start", "idle"]}
    assert {"processor", "cores", "MPI", "versions", "date", "system"} <= set(report["machine"])
    for row in report["results"]:
        assert set(row) == set(KEYS)
        assert row["low"] <= row["median"] <= row["high"]
        assert (row["workers"], row["servers"]) == (2, 1)
        assert row["samples"] >= 1
    cases = {(row["what"], row["size"], row["optimizer"], row["staleness"]) for row in report["results"]}
    for size in (100, 300):
        assert {(what, size, "", "") for what in ("copy", "bytes", "put", "get", "two-sided", "allreduce")} <= cases
        assert {("update", size, "sgd", ""), ("update of W", size, "adam", "")} <= cases
        verbs = ("push", "pull", "pull fresh", "view", "push in place", "round", "round prepared", "round in place")
        assert {(what, size, "sgd", "0") for what in verbs} <= cases
        assert {(f"round{variant}", size, "sgd", "0") for variant in (" unchecked", " threads", " in place threads")} <= cases
        assert {("round", size, "adam", "0"), ("push", size, "sgd", "3"), ("round", size, "sgd", "none")} <= cases
    assert {("round of tables", 300, "sgd", "0"), ("start", 300, "sgd", "0"), ("first answer", 1000, "", "")} <= cases
    assert {(what, 320, "", "") for what in ("take", "take unsorted", "two-sided rows", "two-sided unsorted rows")} <= cases
    for kind in ("", "unsorted ", "named "):
        assert {(f"{verb} of {kind}rows", 320, "sgd", s) for verb in ("push", "pull", "round") for s in ("0", "none")} <= cases
    assert {("row update", 320, "adam", ""), ("round of rows", 320, "adagrad", "0"), ("born by push", 80, "sgd", "none")} <= cases
    limited = [row for row in report["results"] if row["what"] == "round"]
    assert all(row["limit"] == "copy | update + copy" and row["ratio"] > 0 for row in limited)


def test_the_table_is_printed_once(done: tuple[Done, dict[str, Any]]) -> None:
    text = done[0].out.splitlines()
    heads = [line for line in text if line.split() == " ".join(COLUMNS).split()]
    assert len(heads) == 1
    rows = text[text.index(heads[0]) + 1 :]
    assert any(row.split()[:4] == ["2", "1", "100", "round"] for row in rows)


def test_reports_are_shown_drawn_and_compared(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--from", str(file), str(file), "--markdown"]) == 0
    text = capsys.readouterr().out.splitlines()
    head = next(k for k, line in enumerate(text) if line.startswith("|"))
    assert [cell.strip() for cell in text[head].strip("|").split("|")] == list(COLUMNS)
    assert set(text[head + 1]) <= set("|-:")
    assert main(["bench", "--from", str(file), "--summary"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[2] == "| | 100, 2 workers | 300, 2 workers |"
    ours, = (line for line in text if line.startswith("| **mpips**: push, clock, pull |"))
    assert ours.count(" us |") + ours.count(" ms |") == 2
    assert main(["bench", "--from", str(file), "--check"]) in (0, 1)
    verdicts = capsys.readouterr().out.splitlines()
    assert any(line.startswith("not measured  two-sided over round, 100 M") for line in verdicts)


def test_a_picture(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "bench.png"
    assert main(["bench", "--from", str(file), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_groups_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--what", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(GROUPS)


@pytest.mark.parametrize(("args", "line"), [
    (["--what", "limits,pulls"], "--what pulls: is none of limits, rivals,"),
    (["--sizes", "1k,big"], "--sizes 'big': a size is a number from 1"),
    (["--sizes", "0"], "--sizes '0': a size is a number from 1"),
    (["--rows", "many"], "--rows 'many': a size is a number from 1"),
    (["--repeat", "0"], "--repeat 0: at least one is needed"),
    (["--servers", "0"], "--servers 0: at least one is needed"),
    (["--servers", "two"], "argument --servers: invalid int value: 'two'"),
    (["--json", "nowhere/report.json"], "--json nowhere/report.json: there is no such directory"),
    (["--from", "nothing.json"], "nothing.json: cannot be read: No such file or directory"),
    (["--from", "a.json", "--json", "b.json"], "--json and --from: give one of them"),
    ([], "leave no worker: mpirun -n N mpips bench"),
])
def test_wrong_input_is_one_line(args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *args]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("text", ["[1", "[]", '{"bench": 0}', '{"bench": 1, "machine": {}}',
                                  '{"bench": 1, "machine": {}, "options": {}, "notes": [], "results": [{"what": "copy"}]}'])
def test_a_file_that_is_no_report(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    assert main(["bench", "--from", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_wrong_input_under_mpirun_is_told_once() -> None:
    for args, line in ((["--sizes", "x"], "--sizes 'x'"), (["--servers", "2"], "2 ranks, of which 2 serve, leave no worker")):
        run = mpirun(2, [*COMMAND, *args])
        assert run.code == 2, run
        assert run.err.count("mpips: error:") == 1, run
        assert line in run.err
