"""`diff` against NumPy over the whole arrays."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.checkpoint import diff as module
from mpips.checkpoint.diff import Gap, TableDiff, diff
from mpips.checkpoint.read import Saved
from mpips.checkpoint.saver import DirectorySaver
from mpips.errors import CheckpointError
from mpips.server.saving import Cut
from mpips.table import Dense, Rows
from tests.checkpoint import making, making_rows

TABLES = [Dense("w", (30, 4), making.ADAM), Dense("h", (50,), making.SGD, dtype="bfloat16"), Dense("s", (), making.SGD),
          Dense("e", (0, 3), making.SGD)]


def gap(array: str, x: Any, y: Any) -> Gap:
    """The oracle."""
    with np.errstate(all="ignore"):
        a, b = (np.asarray(v).astype(np.float64).ravel() for v in (x, y))
        apart, share = [0.0], [0.0]
        for one, two in zip(a.tolist(), b.tolist(), strict=True):
            if one == two or (one != one and two != two):
                continue
            good = np.isfinite([one, two]).all()
            apart.append(abs(one - two) if good else np.inf)
            share.append(abs(one - two) / max(abs(one), abs(two)) if good else np.inf)
    return Gap(array, a.size, len(apart) - 1, max(apart), pytest.approx(max(share)))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few rows, blocks of a few elements."""
    monkeypatch.setattr(module, "HELD", 100)
    monkeypatch.setattr(module, "CHUNK", 7)


@pytest.mark.parametrize(("servers", "others"), [(1, 3), (2, 2)])
def test_the_same_values_are_the_same_on_any_number_of_servers(tmp_path: Path, servers: int, others: int) -> None:
    with making.small_blocks():
        paths = [making.save(tmp_path / str(n), TABLES, servers=n) for n in {servers, others}]
        with Saved(paths[0]) as a, Saved(paths[-1]) as b:
            found = diff(a, b)
    assert found.same
    assert [table.name for table in found.tables] == ["w", "h", "s", "e"]
    assert [gap.array for gap in found.tables[0].arrays] == ["value", "slots/m", "slots/v", "folds"]
    assert found.tables[0].arrays[0] == Gap("value", 120, 0, 0.0, 0.0)


def test_dense_tables_by_how_much(tmp_path: Path) -> None:
    with making.small_blocks():
        paths = [making.save(tmp_path / str(salt), TABLES, servers=2 + salt, salt=salt) for salt in (0, 1)]
        with Saved(paths[0]) as a, Saved(paths[1]) as b:
            found = diff(a, b)
    ours, theirs = making.truth(TABLES, 0), making.truth(TABLES, 1)
    for table, told in zip(TABLES, found.tables, strict=True):
        arrays = [gap("value" if slot is None else f"slots/{slot}", ours[table.name, slot], theirs[table.name, slot])
                  for slot in (None, *making.slots_of(table))]
        folds = [making.folds_of(table.name, k) for k in range(told.arrays[-1].elements)]
        assert told == TableDiff(table.name, {}, [*arrays, gap("folds", folds, folds)])
    assert not found.same


def test_one_element_one_fold_and_a_clock_are_differences(tmp_path: Path) -> None:
    table = Dense("w", (5,), making.SGD, dtype="float64")

    def save(name: str, values: Any, clock: int = 3) -> Path:
        for _ in making.saving(DirectorySaver(tmp_path / name), Cut((clock,)), 1, [table], {("w", None): np.array(values, float)}):
            pass
        return tmp_path / name / f"step-{clock:08d}"

    nan, inf = np.nan, np.inf
    base = save("a", [1, -2, nan, inf, -0.0])
    with Saved(base) as a:
        with Saved(save("zero", [1, -2, nan, inf, 0.0])) as b:
            assert diff(a, b).same
        with Saved(save("one", [1, -2.5, nan, inf, 0])) as b:
            assert diff(a, b).tables[0].arrays[0] == Gap("value", 5, 1, 0.5, 0.2)
        for other in ([1, -2, 0, inf, 0], [1, -2, nan, -inf, 0], [1, -2, nan, 4, 0]):
            with Saved(save("other", other)) as b:
                assert diff(a, b).tables[0].arrays[0] == Gap("value", 5, 1, inf, inf)
        with Saved(save("later", [1, -2, nan, inf, 0], 4)) as b:
            later = diff(a, b)
            assert (later.same, later.clock, later.tables[0].same) == (False, (3, 4), True)
        folds = a.manifest.tables[0].blocks.folds
        with Saved(base) as b:
            b.manifest.tables[0].blocks.folds[0] += 2
            assert diff(a, b).tables[0].arrays[1] == gap("folds", folds, [folds[0] + 2])


@pytest.mark.parametrize(("table", "facts", "arrays"), [
    (Dense("w", (4, 6), making.ADAM), {"shape": ([6, 4], [4, 6])}, []),
    (Rows("w", 6, 4, making.ADAM), {"kind": ("dense", "rows"), "shape": ([6, 4], None), "rows": (None, 6), "dim": (None, 4),
                                    "dtype of folds": (None, "int32")}, []),
    (Dense("w", (6, 4), making.ADAM, dtype="float64"), {f"dtype of {array}": ("float32", "float64") for array in
                                                        ("value", "slots/m", "slots/v")}, ["value", "slots/m", "slots/v", "folds"]),
    (Dense("w", (6, 4), making.SGD), {"optimizer": ("adam", "sgd"), "dtype of slots/m": ("float32", None),
                                      "dtype of slots/v": ("float32", None)}, ["value", "folds"]),
    (Dense("w", (6, 4), optim.Adam(lr=0.2)), {"optimizer's lr": (0.1, 0.2)}, ["value", "slots/m", "slots/v", "folds"]),
    (Dense("w", (6, 4), making.ADAM, staleness=3), {}, ["value", "slots/m", "slots/v", "folds"]),
])
def test_what_was_declared_otherwise(tmp_path: Path, table: Any, facts: dict[str, Any], arrays: list[str]) -> None:
    a = making.save(tmp_path / "a", [Dense("w", (6, 4), making.ADAM)])
    if isinstance(table, Rows):
        b = making_rows.save(tmp_path / "b", [table], [making_rows.truth(table)])
    else:
        b = making.save(tmp_path / "b", [table])
    with Saved(a) as one, Saved(b) as two:
        (found,) = diff(one, two).tables
    assert found.facts == facts
    assert [gap.array for gap in found.arrays] == arrays
    assert found.same == (not facts)


def test_tables_that_only_one_has(tmp_path: Path) -> None:
    v, w, x = (Dense(name, (2,), making.SGD) for name in "vwx")
    with Saved(making.save(tmp_path / "a", [v, w])) as a, Saved(making.save(tmp_path / "b", [x, w])) as b:
        found = diff(a, b)
    assert [(table.name, table.only, table.same) for table in found.tables] == [
        ("v", "a", False), ("w", None, True), ("x", "b", False)]


@pytest.mark.parametrize(("servers", "others", "per"), [(1, 1, 3), (1, 3, 3), (3, 2, 50)])
@pytest.mark.parametrize("table", [Rows("user", 41, 4, making_rows.Rule()),
                                   Rows("item", None, 3, making_rows.Rule(), capacity=100)], ids=["numbered", "born"])
def test_rows(tmp_path: Path, table: Rows, servers: int, others: int, per: int) -> None:
    full = making_rows.truth(table, 41)
    ours = theirs = full
    if table.rows is None:
        ours, theirs = full.of(np.arange(35)), full.of(np.random.default_rng(0).permutation(np.arange(10, 41)))
    theirs = replace(theirs, value=theirs.value.copy(), slots={**theirs.slots, "acc": theirs.slots["acc"].copy()})
    theirs.value[[1, 5], 2] += 0.5
    theirs.slots["acc"][3] = 1.0
    a = making_rows.save(tmp_path / "a", [table], [ours], servers=servers, per=per)
    b = making_rows.save(tmp_path / "b", [table], [theirs], servers=others, per=per)
    with Saved(a) as one, Saved(b) as two:
        (found,) = diff(one, two).tables
    x, y = ours.of(np.isin(ours.ids, theirs.ids)).sorted(), theirs.of(np.isin(theirs.ids, ours.ids)).sorted()
    want = {"value": gap("value", x.value, y.value), "folds": gap("folds", x.folds, y.folds)}
    want |= {f"slots/{slot}": gap(f"slots/{slot}", x.slots[slot], y.slots[slot]) for slot in x.slots}
    assert {one.array: one for one in found.arrays} == want
    assert found.facts == ({} if table.rows is not None else {"ids of its own": (10, 6)})


def test_a_table_without_rows(tmp_path: Path) -> None:
    table = Rows("item", None, 3, making_rows.Rule(), capacity=100)
    some, none = making_rows.truth(table, 5), making_rows.truth(table, 0)
    paths = [making_rows.save(tmp_path / str(k), [table], [data]) for k, data in enumerate((some, none))]
    for one, two, facts in ((0, 1, (5, 0)), (1, 0, (0, 5))):
        with Saved(paths[one]) as a, Saved(paths[two]) as b:
            found = diff(a, b)
            assert found.tables[0].facts == {"ids of its own": facts}
    with Saved(paths[1]) as a:
        assert diff(a, a).same


def test_a_damaged_block_is_an_error(tmp_path: Path) -> None:
    tables = [Dense("w", (100,), making.SGD)]
    a, b = (making.save(tmp_path / name, tables, servers=1) for name in "ab")
    with Saved(b) as saved:
        raw = (b / saved.manifest.shards[0].file).read_bytes()
    at = raw.index(making.truth(tables)["w", None].tobytes())
    (b / saved.manifest.shards[0].file).write_bytes(raw[:at] + b"xxxx" + raw[at + 4 :])
    with Saved(a) as one, Saved(b) as two, pytest.raises(CheckpointError, match="does not match its checksum"):
        diff(one, two)


def test_tables_are_not_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(module, "HELD", 1 << 20)
    monkeypatch.setattr(module, "CHUNK", 1 << 16)
    tables = [Dense("w", (1 << 23,), making.SGD)]
    path = making.save(tmp_path, tables)
    with Saved(path) as a, Saved(path) as b:
        tracemalloc.start()
        assert diff(a, b).same
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 << 20, "of 32 MB"
