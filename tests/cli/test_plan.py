from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mpips
from mpips.cli import main
from mpips.cli.plan import plan
from mpips.train import config, setup
from mpips.transport.plan import make_plan
from tests.mpirun import environment

TEXT = """
model = {name = "mlp", hidden = [300]}
data = "digits"
optimizer = {name = "adam", lr = 0.01}
servers = 2
readers = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "train.toml"
    path.write_text(TEXT)
    return str(path)


def test_the_numbers_are_those_of_the_windows(file: str) -> None:
    found = plan(file, workers=3)
    tables = setup.prepare(config.load(file)).tables
    made = make_plan(tables, servers=2, workers=3, readers=1)
    assert [row["window"] for row in found["servers"]] == [window.size for window in made.maps]
    for row in found["servers"]:
        assert row["control words"] + row["copies"] + row["mailboxes"] + row["rows"] == row["window"]
        assert row["window"] + row["slots"] == row["total"]
        assert row["mailboxes"] == 3 * row["copies"]
    # Adam keeps two arrays of float32 for each parameter, and alignment adds nothing to them.
    assert sum(row["slots"] for row in found["servers"]) == 2 * 4 * found["parameters"]
    assert found["parameters"] == 64 * 300 + 300 + 300 * 10 + 10
    assert found["bytes"] == found["worker"]["gradients"] == 4 * found["parameters"]
    assert found["balance"] == pytest.approx(2 * max(made.layout.nbytes) / sum(made.layout.nbytes))


def test_rings_take_what_they_are_given(file: str) -> None:
    found = plan(file, ["mailboxes=15_000_000", "model.hidden=[60_000]"], servers=1, workers=3)
    assert found["servers"][0]["mailboxes"] <= 15_000_000
    assert found["servers"][0]["mailboxes"] > 14_900_000
    assert found["servers"][0]["slots"] == 3 * 4 * found["parameters"]  # the sum of a clock's gradients, too


def test_more_servers_and_half_precision(file: str) -> None:
    found = plan(file, ["dtype=float16"], servers=3)
    assert len(found["servers"]) == 3
    assert found["bytes"] == 2 * found["parameters"]
    assert sum(row["slots"] for row in found["servers"]) == 3 * 4 * found["parameters"]  # the float32 master too


def test_workers_that_add_up_on_their_node_need_two_halves_each(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(file, ["combine_on=node"], workers=3)
    assert 2 * found["bytes"] < found["shared"] < 2 * found["bytes"] + 20_000
    assert plan(file, workers=3)["shared"] == 0
    assert main(["plan", file, "--set", "combine_on=node"]) == 0
    assert "for each worker of a node that has several" in capsys.readouterr().out


def test_ranks_and_nodes_give_servers_and_workers(file: str) -> None:
    found = plan(file, ['servers="per-node"'], ranks=8, nodes=3)
    assert (len(found["servers"]), found["workers"], found["readers"]) == (3, 4, 1)
    found = plan(file, ['servers=[2, "first"]'], ranks=8, nodes=3)
    assert (len(found["servers"]), found["workers"], found["readers"]) == (2, 5, 1)


def test_what_is_printed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", file, "--workers", "4"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0] == "4 tables, 22510 parameters, 90 kB; 2 servers, 4 workers, 1 readers"
    assert text[1].split() == ["server", "blocks", "control", "words", "copies", "mailboxes", "rows", "slots", "total"]
    assert [line.split()[0] for line in text[2:4]] == ["0", "1"]
    assert main(["plan", file, "--workers", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plan(file, workers=4)


SCRIPT = """
import argparse
import mpips

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int, default=1000)
rows, rule = parser.parse_args().rows, mpips.optim.Adagrad(lr=0.1)
tables = [mpips.Dense("w", (10,), rule), mpips.Rows("user", rows=rows, dim=16, optimizer=rule, staleness=None),
          mpips.Rows("word", rows=None, capacity=rows or 1, dim=8, optimizer=rule, admit=3)]
print("planned")
if rows:
    mpips.run(lambda ps: exit("it ran"), tables, servers=(2, "first"), readers=1, read=print, seed=3)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "job.py"
    path.write_text(SCRIPT)
    return str(path)


def test_a_script_is_planned_up_to_its_run(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, folders = list(sys.argv), list(sys.path)
    assert main(["plan", script, "--args", "--rows 500001", "--workers", "3"]) == 0
    text, loud = capsys.readouterr()
    assert loud == "planned\n"
    lines = text.splitlines()
    assert lines[0] == "3 tables, 12000034 parameters, 48 MB; 2 servers, 3 workers, 1 readers"
    assert "table 'user': 250000 to 250001 rows of 64 bytes on a server; of 10000 ids by Zipf's law the busiest server" in text
    assert "table 'word': 253001 rows of 32 bytes on a server" in text
    assert "a worker holds 40 bytes of parameters and 40 bytes of gradients" in lines
    assert (sys.argv, sys.path) == (words, folders)
    assert callable(mpips.run)
    assert mpips.run.__name__ == "run"


@pytest.mark.parametrize("servers", range(1, 9))
def test_tables_of_rows_are_even(script: str, servers: int) -> None:
    """Their memory, and the traffic of ids of which few are frequent."""
    found = plan(script, servers=servers, arguments=["--rows", "500001"])
    assert found["balance"] < 1.001
    for table, width in (("user", 64), ("word", 32)):
        rows = found["rows"][table]
        assert rows["bytes"] == width
        assert sum(rows["rows"]) >= 500_001
        assert rows["traffic"] < 1.2
    windows = [row["rows"] for row in found["servers"]]
    assert max(windows) - min(windows) <= 8192  # a page of marks, one of values


def test_uneven_traffic_would_be_seen(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpips.worker.rows.owners", lambda ids, servers: np.minimum(ids % (servers + 1), servers - 1))
    found = plan(script, servers=3)
    assert found["rows"]["word"]["traffic"] > 1.4
    assert found["rows"]["user"]["traffic"] < 1.2


@pytest.mark.parametrize(("extra", "line"), [
    (["--args", "--rows 0"], "it ended without mpips.run(...), so there is nothing to plan"),
    (["--set", "seed=3"], "--set changes keys of a FILE.toml"),
])
def test_a_script_that_cannot_be_planned(script: str, extra: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", script, *extra]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert main(["plan", "missing.py"]) == 2
    assert "missing.py: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("rest", ["except:\n    raise ValueError('swallowed')", "finally:\n    raise SystemExit(0)"])
def test_whatever_a_script_makes_of_the_end(tmp_path: Path, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.py"
    path.write_text("import mpips\n\ntry:\n    mpips.run(print, [mpips.Dense('w', (3,), mpips.optim.SGD(lr=0.1))])\n" + rest)
    assert main(["plan", str(path)]) == 0
    assert capsys.readouterr().out.startswith("1 tables, 3 parameters")


@pytest.mark.parametrize(("wrong", "line"), [
    ("readers=-1", "run: readers -1 is not a number from 0"),
    ("servers='many'", "servers='many' is neither a number"),
    ("reserve=1.5", "run: reserve 1.5 is not a number from 0"),
])
def test_what_run_would_refuse(tmp_path: Path, wrong: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.py"
    path.write_text(f"import mpips\n\nmpips.run(print, [], {wrong})")
    assert main(["plan", str(path)]) == 2
    assert line in capsys.readouterr().err


def test_a_script_that_ends_well_before_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.py"
    path.write_text("raise SystemExit(0)")
    assert main(["plan", str(path)]) == 2
    assert "it ended without mpips.run(...)" in capsys.readouterr().err
    path.write_text("raise SystemExit('no data')")
    with pytest.raises(SystemExit, match="no data"):
        main(["plan", str(path)])


@pytest.mark.parametrize(("extra", "line"), [
    (["--args", "it's"], "--args \"it's\": No closing quotation"),
    (["--servers", "0"], "--servers 0: at least one is needed"),
    (["--workers", "-1"], "--workers -1: at least one is needed"),
    (["--nodes", "0", "--servers", "1"], "--nodes 0: at least one is needed"),
    (["--ranks", "3"], "3 ranks: servers=2 and readers=1 leave no worker"),
    (["--ranks", "5", "--workers", "2"], "--ranks and --workers: give one of them"),
    (["--set", "color=3"], "color: unknown key"),
    (["--workers", "many"], "argument --workers: invalid int value: 'many'"),
])
def test_wrong_input_is_one_line(file: str, extra: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", file, *extra]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert said.err.count("\n") == 1


def test_no_mpi_is_needed(file: str) -> None:
    code = ("import sys; from mpips.cli import main; main(sys.argv[1:]); "
            "sys.exit(bool({'mpi4py.MPI', 'cupy', 'numba'} & set(sys.modules)) * 9)")
    done = subprocess.run([sys.executable, "-c", code, "plan", file], env=environment(), capture_output=True, text=True,
                          check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_words_of_a_training_can_be_planned(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The job scripts try what goes to `mpips train` by `mpips plan` first."""
    assert main(["plan", file, "--set", "servers=1", "--trace", "trace.json", "--ranks", "4"]) == 0
    assert "1 servers, 2 workers, 1 readers" in capsys.readouterr().out
