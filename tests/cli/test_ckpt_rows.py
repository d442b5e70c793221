"""`mpips ckpt` on tables of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.cli import main
from mpips.errors import FAILED, OK, USAGE
from mpips.table import Rows
from tests.checkpoint import making as dense
from tests.checkpoint import making_rows as making

NUMBERED = Rows("user", rows=500, dim=4, optimizer=making.Rule())
BORN = Rows("item", rows=None, dim=3, optimizer=making.Rule(), capacity=100)
DATA = [making.truth(NUMBERED), making.truth(BORN, 17)]


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = making.save(tmp_path_factory.mktemp("runs"), [NUMBERED, BORN], DATA, servers=3, per=50)
    return path


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = OK) -> str:
    assert main(["ckpt", *map(str, words)]) == code
    return capsys.readouterr().out


def json_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = OK) -> Any:
    return json.loads(told(capsys, *words, "--json", code=code))


def test_ls_and_info(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = json_of(capsys, "ls", step.parent)
    assert (entry["state"], entry["tables"], entry["servers"]) == ("complete", 2, 3)
    facts = json_of(capsys, "info", step)
    assert (facts["format"], facts["elements"]) == ("mpips-checkpoint 2", 500 * 4 + 17 * 3)


def test_tree(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "tree", step)
    assert "  user  (500, 4)  12 blocks, rows, folded by rule of m-acc\n" in out
    assert "  item  (17, 3)  3 blocks, rows with any id, of 100 that may live, folded by rule of m-acc\n" in out
    assert "    slots/acc  float32  one for each row\n" in out
    assert "    user  4 blocks, 167 rows\n" in out
    tree = json_of(capsys, "tree", step)
    assert [(t["kind"], t["shape"], t["folds"]) for t in tree["tables"]] == [("rows", [500, 4], None), ("rows", [17, 3], None)]
    assert sum(f["elements"]["user"] for f in tree["files"]) == 2000
    assert tree["tables"][0]["bytes"] == 500 * (16 + 16 + 4 + 4)


def test_show_rows_of_numbered_ids(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "show", step, "user")
    assert out.startswith("user  (500, 4)  float32\n[[")
    assert out.endswith("(6 of 500 rows; --rows a:b shows others, --stats sums up)\n")
    shown = json_of(capsys, "show", step, "user", "--rows", "100:107")
    assert shown["rows"] == [100, 107]
    assert "ids" not in shown
    assert np.array_equal(np.array(shown["values"], float), DATA[0].value[100:107], equal_nan=True)
    shown = json_of(capsys, "show", step, "user", "--slot", "acc", "--rows=-2:")
    assert (shown["shape"], shown["rows"]) == ([500], [498, 500])
    assert np.array_equal(np.array(shown["values"], float), DATA[0].slots["acc"][-2:], equal_nan=True)


@pytest.mark.parametrize("table", ["user", "item"])
def test_show_a_row_by_its_id(step: Path, capsys: pytest.CaptureFixture[str], table: str) -> None:
    data = DATA[table == "item"]
    for k in (0, 5):
        shown = json_of(capsys, "show", step, table, f"--id={data.ids[k]}")
        assert np.array_equal(np.array(shown["values"], float), data.value[[k]], equal_nan=True)
        assert shown.get("ids", [data.ids[k]]) == [data.ids[k]]
    assert told(capsys, "show", step, table, f"--id={data.ids[0]}").count("\n") == (3 if table == "item" else 2)


def test_show_born_rows_with_their_ids(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json_of(capsys, "show", step, "item")
    assert sorted(shown["ids"]) == sorted(DATA[1].ids.tolist())
    assert told(capsys, "show", step, "item", "--rows", "2:4").splitlines()[1].startswith("ids [")


def test_show_stats(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for table, data in (("user", DATA[0]), ("item", DATA[1])):
        for slot, values in ((None, data.value), *data.slots.items()):
            found = json_of(capsys, "show", step, table, "--stats", *(["--slot", slot] if slot else []))
            assert (found["shape"], found["dtype"]) == (list(values.shape), values.dtype.name)
            assert found["nonfinite"] == np.count_nonzero(~np.isfinite(values))
            assert found["max"] == values[np.isfinite(values)].max()


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = making.save(tmp_path, [NUMBERED, BORN], DATA, servers=3, per=50)
    assert told(capsys, "verify", step).startswith(f"{step}: ok, 63 blocks ")
    (step / "shard-0002-of-0003.h5").unlink()
    assert told(capsys, "verify", step, code=FAILED).startswith("shard-0002-of-0003.h5: missing\n")


@pytest.mark.parametrize(("words", "text"), [
    (["user", "--id", "500"], "table 'user' has no row with id 500"), (["item", "--id", "1"], "table 'item' has no row with id 1"),
    (["item", "--slot", "x"], "table 'item' has no slot 'x', it has m, acc"), (["x"], "no table 'x'; it has user, item"),
    (["user", "--id", "1", "--stats"], "not allowed")])
def test_wrong_words_are_one_line(step: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    assert main(["ckpt", "show", str(step), *words]) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1


def test_ids_of_a_dense_table_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = dense.save(tmp_path, [dense.Dense("w", (3,), dense.SGD)])
    assert main(["ckpt", "show", str(step), "w", "--id", "1"]) == USAGE
    assert capsys.readouterr().err == f"mpips: error: {step}: table 'w' is dense, not of rows\n"
