from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import init, optim
from mpips.checkpoint.read import Saved
from mpips.checkpoint.verify import verify
from mpips.errors import CheckpointError, UnknownTable
from mpips.layout import place
from mpips.nn import initial
from mpips.table import DTYPES, Dense
from tests.checkpoint import making

LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAMES = st.text(LETTERS, min_size=1, max_size=8).filter(lambda n: n[0] != "." and n.isprintable())
HUNDRED = Dense("w", (100,), making.ADAM)
RULES = st.sampled_from([making.SGD, making.ADAM, optim.Adagrad(lr=0.1)])


@st.composite
def table_sets(draw: st.DrawFn) -> list[Dense]:
    return [Dense(name, tuple(draw(st.lists(st.integers(0, 9), max_size=3))), draw(RULES),
                  dtype=draw(st.sampled_from(list(DTYPES))), staleness=draw(st.sampled_from([0, 2, None])),
                  master=draw(st.booleans()))
            for name in draw(st.lists(NAMES, unique=True, max_size=5))]


@settings(max_examples=40)
@given(table_sets(), st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_any_tables_come_back_on_any_number_of_servers(tables: list[Dense], wrote: int, read: int,
                                                       clocks: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, making.small_blocks():
        step = making.save(Path(folder), tables, servers=wrote, clocks=tuple(clocks))
        assert verify(step).findings == ()
        data = making.truth(tables)
        with Saved(step) as saved:
            saved.check(tables)
            assert (saved.clocks, saved.clock) == (tuple(clocks), max(clocks))
            assert (saved.seed, saved.meta) == (3, {"model": "m"})
            assert saved.tables == tuple(t.name for t in tables)
            for block in place(tables, read).blocks:
                table = tables[block.table]
                for slot in (None, *making.slots_of(table)):
                    part = saved.read(table.name, slot, block.start, block.stop)
                    assert making.same(part, data[table.name, slot][block.start : block.stop])
                    assert part.flags.writeable
                assert saved.folds(table.name, block.index) == making.folds_of(table.name, block.index)
            for table in tables:
                assert saved.array(table.name).shape == table.shape
                assert saved.array(table.name).dtype == table.np_dtype


def test_real_blocks_come_back(tmp_path: Path) -> None:
    tables = [Dense("w", (1500, 1001), making.ADAM), Dense("h", (1100, 1000), making.SGD, dtype="bfloat16")]
    data = making.truth(tables)
    with Saved(making.save(tmp_path, tables, servers=3)) as saved:
        for (name, slot), flat in data.items():
            assert making.same(saved.array(name, slot).ravel(), flat)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    with making.small_blocks():
        step = making.save(tmp_path_factory.mktemp("hundred"), [HUNDRED], servers=3)
    with Saved(step) as saved:
        yield saved


@given(st.data())
def test_any_slice_of_elements_is_read(hundred: Saved, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 100))
    stop = data.draw(st.integers(start, 100))
    assert making.same(hundred.read("w", "m", start, stop), making.truth([HUNDRED])["w", "m"][start:stop])


def test_only_the_shards_that_hold_a_slice_are_opened(tmp_path: Path) -> None:
    with making.small_blocks():
        step = making.save(tmp_path, [Dense("w", (160,), making.SGD)], servers=2)
    (step / "shard-0001-of-0002.h5").unlink()
    with Saved(step, structure=False) as saved:
        assert saved.read("w", None, 0, 80).size == 80
        with pytest.raises(CheckpointError, match=r"shard-0001-of-0002\.h5"):
            saved.read("w", None, 79, 81)


def test_a_block_is_checked_whenever_it_is_read(tmp_path: Path) -> None:
    with making.small_blocks():
        step = making.save(tmp_path, [Dense("w", (160,), making.ADAM)], servers=1)
    shard = step / "shard-0000-of-0001.h5"
    bits = making.truth([Dense("w", (160,), making.ADAM)])["w", "m"].tobytes()
    making.flip(shard, shard.read_bytes().index(bits) + 4 * 20)  # element 20 of the slot: block 1
    with Saved(step) as saved:
        saved.read("w", None, 0, 160)
        saved.read("w", "m", 0, 16)
        saved.read("w", "m", 32, 160)
        with pytest.raises(CheckpointError, match=rf"{shard}: block 1 of table 'w' \(slots/m\) does not match"):
            saved.read("w", "m", 31, 33)


TABLE = Dense("w", (6, 4), making.ADAM)


@pytest.mark.parametrize(("table", "words"), [
    (replace(TABLE, shape=(4, 6)), r"table 'w': shape \[6, 4\] in the checkpoint, \[4, 6\] here"),
    (replace(TABLE, dtype="float64"), "table 'w': dtype 'float32' in the checkpoint, 'float64' here"),
    (replace(TABLE, optimizer=making.SGD), "table 'w': optimizer 'adam' in the checkpoint, 'sgd' here"),
    (replace(TABLE, name="v"), "table 'v' is not in the checkpoint; table 'w' is in the checkpoint only")])
def test_another_model_is_refused_by_name(tmp_path: Path, table: Dense, words: str) -> None:
    step = making.save(tmp_path, [TABLE])
    with Saved(step) as saved, pytest.raises(CheckpointError, match=f"{step} is of other tables: {words}"):
        saved.check([table])


def test_what_is_told_to_do_with_another_model_works(tmp_path: Path) -> None:
    step = making.save(tmp_path, [TABLE])
    with Saved(step) as saved:
        with pytest.raises(CheckpointError, match=re.escape('init=mpips.init.array(mpips.Saved(PATH).array("w"))')):
            saved.check([replace(TABLE, optimizer=making.SGD)])
        table = replace(TABLE, optimizer=making.SGD, init=init.array(saved.array("w")))
        np.testing.assert_array_equal(initial([table])["w"], saved.array("w"))


def test_what_may_differ_may_differ(tmp_path: Path) -> None:
    with Saved(making.save(tmp_path, [TABLE])) as saved:
        saved.check([replace(TABLE, optimizer=optim.Adam(lr=0.7, beta1=0.5), staleness=None, nonfinite="skip")])


def test_a_half_table_with_and_without_master_differ(tmp_path: Path) -> None:
    table = Dense("h", (5,), making.SGD, dtype="float16")
    words = "master True in the checkpoint, False here"
    with Saved(making.save(tmp_path, [table])) as saved, pytest.raises(CheckpointError, match=words):
        saved.check([replace(table, master=False)])


def test_more_tables_are_allowed_when_said(tmp_path: Path) -> None:
    with Saved(making.save(tmp_path, [TABLE, replace(TABLE, name="later")])) as saved:
        with pytest.raises(CheckpointError, match="'later' is in the checkpoint only"):
            saved.check([TABLE])
        saved.check([TABLE], more=True)


def test_many_differences_are_counted(tmp_path: Path) -> None:
    with (Saved(making.save(tmp_path, [replace(TABLE, name=f"t{i}") for i in range(9)])) as saved,
          pytest.raises(CheckpointError, match=r"^[^\n]*; and 4 more\. [^\n]*$")):
        saved.check([])


def test_another_grid_is_refused(tmp_path: Path) -> None:
    with making.small_blocks():
        step = making.save(tmp_path, [TABLE])
    with Saved(step) as saved, pytest.raises(CheckpointError, match="blocks of 16 elements"):
        saved.check([TABLE])


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda s: s.read("v", None, 0, 1), UnknownTable, "no table 'v'; it has w"),
    (lambda s: s.read("w", "x", 0, 1), CheckpointError, "table 'w' has no slot 'x', it has m, v"),
    (lambda s: s.read("w", None, 0, 25), CheckpointError, "24 elements, not 0:25"),
    (lambda s: s.read("w", None, -1, 3), CheckpointError, "24 elements, not -1:3")])
def test_what_is_not_there_is_named(tmp_path: Path, call: Any, error: type[Exception], words: str) -> None:
    with Saved(making.save(tmp_path, [TABLE])) as saved, pytest.raises(error, match=words):
        call(saved)


def test_a_checkpoint_can_be_moved(tmp_path: Path) -> None:
    step = making.save(tmp_path, [TABLE]).rename(tmp_path / "kept")
    assert verify(step).ok
    with Saved(step) as saved:
        assert np.array_equal(saved.array("w").ravel(), making.truth([TABLE])["w", None], equal_nan=True)


@pytest.mark.parametrize("name", ["", "manifest.json", "model.h5"])
def test_a_checkpoint_is_named_by_its_directory_or_its_files(tmp_path: Path, name: str) -> None:
    step = making.save(tmp_path, [TABLE])
    with Saved(step / name) as saved:
        assert saved.path == step


def test_closing_is_no_end(tmp_path: Path) -> None:
    saved = Saved(making.save(tmp_path, [TABLE]))
    saved.close()
    assert saved.array("w").shape == (6, 4)
    saved.close()
