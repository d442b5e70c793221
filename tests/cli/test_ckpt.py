from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.cli import ckpt, main
from mpips.errors import FAILED, OK, USAGE
from mpips.table import Dense
from tests.checkpoint import making

TABLES = [Dense("w", (300, 4), making.ADAM), Dense("h", (5,), making.SGD, dtype="bfloat16"), Dense("s", (), making.SGD),
          Dense("e", (0, 3), making.SGD)]


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with making.small_blocks():
        path: Path = making.save(tmp_path_factory.mktemp("runs"), TABLES, servers=2, clocks=(8, 6), mpi="Some MPI")
    return path


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = OK) -> str:
    assert main(["ckpt", *map(str, words)]) == code
    return capsys.readouterr().out


def json_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = OK) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(told(capsys, *words, "--json", code=code), parse_constant=refuse)


def test_from_a_shell(step: Path) -> None:
    def shell(*words: object) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "mpips", "ckpt", *map(str, words)], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, err = shell("ls", step.parent)
    assert (code, err) == (OK, "")
    assert out.splitlines()[0].split() == ["checkpoint", "clock", "state", "workers", "servers", "tables", "size",
                                           "age", "problem"]
    assert out.splitlines()[1].split()[:6] == ["step-00000008", "8", "complete", "2", "2", "4"]
    code, out, err = shell("verify", step.parent / "nothing")
    assert (code, out) == (USAGE, "")
    assert err == f"mpips: error: {step.parent / 'nothing'}: no such checkpoint\n"


def test_importing_the_command_is_quick() -> None:
    code = ("import sys, mpips.cli.ckpt; "
            "print([m for m in ('h5py', 'msgspec', 'rich', 'mpi4py', 'json') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_ls_tells_as_json(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = json_of(capsys, "ls", step.parent)
    assert (entry["name"], entry["step"], entry["state"], entry["clocks"]) == ("step-00000008", 8, "complete", [8, 6])


def test_ls_lists_broken_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for clock in (1, 2):
        making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    (tmp_path / "step-00000002" / "model.h5").unlink()
    lines = told(capsys, "ls", tmp_path).splitlines()
    assert lines[1].endswith("no manifest.json")
    assert " incomplete " in lines[1]
    assert lines[2].endswith("model.h5: missing")
    assert " broken " in lines[2]


def test_ls_of_an_empty_directory_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "ls", tmp_path) == f"{tmp_path}: no checkpoints\n"
    assert json_of(capsys, "ls", tmp_path) == []


def test_ls_of_what_is_above_or_below_says_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "file").touch()
    step = making.save(tmp_path / "a", TABLES)
    making.save(tmp_path / "b", TABLES)
    assert told(capsys, "ls", tmp_path) == f"{tmp_path}: no checkpoints; there are some in {tmp_path / 'a'}, {tmp_path / 'b'}\n"
    assert told(capsys, "ls", step) == f"{step}: no directory of checkpoints, but one of them; see mpips ckpt tree\n"


def test_tree(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "tree", step)
    assert "  w  (300, 4)  75 blocks, folded " in out
    assert "    slots/master  float32" in out
    assert "  shard-0001-of-0002.h5  " in out
    tree = json_of(capsys, "tree", step / "model.h5")
    assert [t["name"] for t in tree["tables"]] == ["w", "h", "s", "e"]
    assert tree["tables"][0]["arrays"] == {"value": "float32", "slots/m": "float32", "slots/v": "float32"}
    assert sum(f["elements"].get("w", 0) for f in tree["files"]) == 1200


def test_info(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "info", step)
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert lines["clocks"] == "8, 6"
    assert lines["versions.mpi"] == "Some MPI"
    assert lines["meta.model"] == "m"
    facts = json_of(capsys, "info", step)
    assert (facts["clock"], facts["seed"], facts["meta"], facts["elements"]) == (8, 3, {"model": "m"}, 1206)


def test_show_prints_some_rows_of_a_large_table(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "show", step, "w")
    assert out.startswith("w  (300, 4)  float32\n[[")
    assert out.endswith("(6 of 300 rows; --rows a:b shows others, --stats sums up)\n")
    shown = json_of(capsys, "show", step, "w")
    assert (shown["rows"], len(shown["values"])) == ([0, 6], 6)


@pytest.mark.parametrize(("text", "first", "last"), [
    ("10:12", 10, 12), ("7", 7, 8), (":2", 0, 2), ("-2:", 298, 300), ("-1", 299, 300), ("298:999", 298, 300)])
@pytest.mark.parametrize("slot", [None, "v"])
def test_show_rows(step: Path, capsys: pytest.CaptureFixture[str], text: str, first: int, last: int,
                   slot: str | None) -> None:
    shown = json_of(capsys, "show", step, "w", f"--rows={text}", *(["--slot", slot] if slot else []))
    want = making.truth(TABLES)["w", slot].reshape(300, 4)[first:last]
    assert shown["rows"] == [first, last]
    values = np.array(shown["values"], float).reshape(-1, 4)  # "nan" and "inf" are strings
    assert np.array_equal(values, want, equal_nan=True)


@pytest.mark.parametrize(("table", "text", "count", "asked"), [
    ("w", "300", 300, "300:301"), ("w", "999:", 300, "999:"), ("w", "-999", 300, "-999:-998"), ("w", "9:3", 300, "9:3"),
    ("s", "1", 1, "1:2"), ("e", ":3", 0, ":3")])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_show_rows_that_are_not_there(step: Path, capsys: pytest.CaptureFixture[str], table: str, text: str, count: int,
                                      asked: str, more: tuple[str, ...]) -> None:
    assert main(["ckpt", "show", str(step), table, f"--rows={text}", *more]) == USAGE
    said = capsys.readouterr()
    assert said.out == ""
    there = f"{count} row{'' if count == 1 else 's'}"
    assert said.err == f"mpips: error: {step}: table '{table}' has {there}, none of them in --rows {asked}\n"


def test_show_all_rows_of_a_table_that_has_none(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json_of(capsys, "show", step, "e", "--rows=:")["values"] == []


@pytest.mark.parametrize(("table", "start"), [
    ("h", "h  (5,)  bfloat16\n["), ("s", "s  ()  float32\n"), ("e", "e  (0, 3)  float32\n[]")])
def test_show_small_tables_whole(step: Path, capsys: pytest.CaptureFixture[str], table: str, start: str) -> None:
    out = told(capsys, "show", step, table)
    assert out.startswith(start)
    assert "rows" not in out


def test_show_stats(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "show", step, "w", "--slot", "m", "--stats")
    values = making.truth(TABLES)["w", "m"]
    assert found["nonfinite"] == np.count_nonzero(~np.isfinite(values))
    assert found["max"] == values[np.isfinite(values)].max()
    assert "nonfinite  " in told(capsys, "show", step, "e", "--stats")


def test_diff_of_equal_ones_on_other_servers(step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = making.save(tmp_path, TABLES, servers=1, clocks=(8, 6))
    assert told(capsys, "diff", step, other) == f"a: {step}\nb: {other}\n0 of 4 tables differ\n"
    assert json_of(capsys, "diff", step, other)["same"] is True


def test_diff_tells_in_what(step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [TABLES[0], Dense("h", (6,), making.SGD, dtype="bfloat16"), TABLES[2], Dense("new", (2,), making.SGD)]
    other = making.save(tmp_path, tables, clocks=(9, 9), salt=1)
    lines = told(capsys, "diff", step, other, code=FAILED).splitlines()
    assert lines[2:6] == ["clock 8 in a, 9 in b", "table 'h': shape [5] in a, [6] in b", "table 'e': only in a",
                          "table 'new': only in b"]
    assert lines[6].split() == ["table", "array", "differ", "of", "max", "abs", "max", "rel"]
    assert [line.split()[:2] for line in lines[7:-1]] == [["w", "value"], ["w", "slots/m"], ["w", "slots/v"], ["s", "value"]]
    assert lines[7].split()[3:] == ["1200", "inf", "inf"]
    assert lines[-1] == "5 of 5 tables differ"
    found = json_of(capsys, "diff", step, other, code=FAILED)
    assert (found["same"], found["clock"], found["tables"][1]["facts"]) == (False, [8, 9], {"shape": [[5], [6]]})
    assert found["tables"][0]["arrays"][0]["absolute"] == "inf"


def test_diff_of_what_is_no_checkpoint(step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ckpt", "diff", str(step), str(tmp_path / "nothing")]) == USAGE
    assert capsys.readouterr().err == f"mpips: error: {tmp_path / 'nothing'}: no such checkpoint\n"


def test_verify_tells_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = making.save(tmp_path, TABLES)
    assert told(capsys, "verify", step).startswith(f"{step}: ok, ")
    assert json_of(capsys, "verify", step)["ok"] is True
    (step / "shard-0001-of-0002.h5").unlink()
    out = told(capsys, "verify", step, code=FAILED)
    assert out.startswith("shard-0001-of-0002.h5: missing\n")
    assert ": 1 finding, " in out
    report = json_of(capsys, "verify", step, code=FAILED)
    assert report["findings"] == [
        {"file": "shard-0001-of-0002.h5", "what": "missing", "table": None, "array": None, "block": None}]


@pytest.mark.parametrize(("words", "told"), [
    (["ls", "{}/nothing"], "{}/nothing: not a directory"), (["info", "{}"], "{}: holds 1 checkpoint, name it"),
    (["tree", "{}/nothing"], "{}/nothing: no such checkpoint"),
    (["show", "{}/step-00000008", "x"], "no table 'x'; it has w, h, s, e"),
    (["show", "{}/step-00000008", "w", "--slot", "x"], "has no slot 'x', it has m, v"),
    (["show", "{}/step-00000008", "s", "--slot", "m"], "has no slot 'm', it has none"),
    (["show", "{}/step-00000008", "w", "--rows", "a"], "'a' is not rows"),
    (["show", "{}", "w", "--rows", "1", "--stats"], "not allowed"), (["frob"], "invalid choice"), ([], "required")])
def test_wrong_words_are_one_line(step: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["ckpt", *(w.format(step.parent) for w in words)]) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert told.format(step.parent) in err
    assert err.count("\n") == 1


def test_tables_on_a_terminal_are_drawn_by_rich(step: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = told(capsys, "ls", step.parent)
    assert "━" in out
    assert "step-00000008" in out


def test_nothing_is_cut_off_on_a_narrow_terminal(step: Path, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    (step / "manifest.json").write_bytes(b"{}")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = told(capsys, "ls", step.parent)
    assert "…" not in out
    assert "step-00000008" in out, "the name is in one piece"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (86400 * 3, "3d")])
def test_ages(seconds: float, text: str) -> None:
    assert ckpt._age(seconds) == text


@pytest.mark.parametrize("action", ["ls", "verify", "info"])
def test_what_the_file_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str], action: str) -> None:
    assert main(["ckpt", action, "x" * 300]) == USAGE
    assert capsys.readouterr().err == f"mpips: error: {'x' * 300}: File name too long\n"


def test_without_stdout_nothing_is_said(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mpips ckpt ls DIR >&-`: Python has no stdout then."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["ckpt", "ls", str(step.parent)]) == OK
