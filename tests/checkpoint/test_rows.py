"""Tables of rows in checkpoints: saved by any number of servers, restored by any other, shown by any tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from mpips.checkpoint import schema
from mpips.checkpoint.disk import Life
from mpips.checkpoint.hdf5 import box_ranges, select, selected
from mpips.checkpoint.master import write_master
from mpips.checkpoint.read import Saved
from mpips.checkpoint.saver import DirectorySaver
from mpips.checkpoint.verify import verify
from mpips.checkpoint.write import SLICE, write_shard
from mpips.errors import CheckpointError, MpipsError, UnknownTable
from mpips.server.saving import Cut, RowPiece
from mpips.table import Dense, Rows
from tests.checkpoint import making as dense
from tests.checkpoint import making_rows as making

NUMBERED = Rows("user", rows=20, dim=4, optimizer=making.Rule())
BORN = Rows("item", rows=None, dim=3, optimizer=making.Rule(), capacity=100, dtype="float64")
BOTH = [NUMBERED, BORN]
DATA = [making.truth(NUMBERED), making.truth(BORN, 17)]
SHARD = "shard-0001-of-0003.h5"
TOOLS = pytest.mark.skipif(shutil.which("h5dump") is None, reason="no h5dump")


@pytest.fixture
def step(tmp_path: Path) -> Path:
    path: Path = making.save(tmp_path, BOTH, DATA, servers=3)
    return path


@st.composite
def row_tables(draw: st.DrawFn) -> tuple[Rows, Any]:
    slots = tuple(draw(st.lists(st.sampled_from(["m", "v", "acc", "acc2"]), unique=True, max_size=3)))
    n, born = draw(st.integers(0, 40)), draw(st.booleans())
    table = Rows(draw(st.sampled_from(["u", "100%", "ä b", "a.b"])), rows=None if born else n, dim=draw(st.integers(1, 5)),
                 optimizer=making.Rule(slots), dtype=draw(st.sampled_from(["float32", "float64"])),
                 capacity=max(n, 1) if born else None)
    return table, making.truth(table, n)


@settings(max_examples=60)
@given(row_tables(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.data())
def test_saved_by_some_servers_it_is_restored_by_others(made: tuple[Rows, Any], wrote: int, read: int, per: int,
                                                        data: st.DataObject) -> None:
    table, rows = made
    with tempfile.TemporaryDirectory() as folder:
        step = making.save(Path(folder), [table], [rows], servers=wrote, per=per)
        assert verify(step).findings == ()
        with Saved(step) as saved, h5py.File(step / "model.h5", "r", locking=False) as master:
            saved.check([table])
            whole = []
            for server in range(read):
                pieces = list(saved.rows(table, server, read))
                assert all(p.table is table and p.value.flags.writeable and len(p.ids) for p in pieces)
                got = making.gathered(pieces, rows)
                mine = making.server_of(table, got.ids, read) == server
                assert wrote != read or mine.all()
                assert table.rows is None or (np.diff(got.of(mine).ids.reshape(-1)) > 0).all() or wrote != read
                whole.append(got.of(mine))
            pieces = [RowPiece(table, w.ids, w.folds, w.value, w.slots) for w in whole]
            assert making.gathered(pieces, rows).sorted().bits() == rows.sorted().bits()  # all rows, once
            ids = saved.ids(table.name)
            slots = {s: saved.array(table.name, s) for s in rows.slots}
            shown = making.Truth(ids, saved.part(table.name, "folds", 0, len(ids)), saved.array(table.name), slots)
            assert shown.sorted().bits() == rows.sorted().bits()
            assert table.rows is None or dense.same(ids, rows.ids)
            for array, dtype in saved.table(table.name).arrays.items():
                found = master[f"tables/{table.name}/{array}"]
                want = saved.part(table.name, array, 0, len(ids))
                assert (found.shape, found.dtype) == (want.shape, np.dtype(dtype))
                assert found[()].tobytes() == want.tobytes()
                assert found.is_virtual == bool(len(ids))
                a = data.draw(st.integers(0, len(ids)))
                b = data.draw(st.integers(a, len(ids)))
                assert saved.part(table.name, array, a, b).tobytes() == want[a:b].tobytes()


def test_dense_tables_and_rows_live_together(tmp_path: Path) -> None:
    tables = [Dense("w", (9, 8), dense.ADAM), Dense("e", (0,), dense.SGD)]
    flat = dense.truth(tables)

    def more(server: int) -> Any:
        return dense.pieces(tables, 2, server, flat)

    more.tables = tables  # type: ignore[attr-defined]
    with dense.small_blocks():
        step = making.save(tmp_path, BOTH, DATA, more=more)
        assert verify(step).findings == ()
        with Saved(step) as saved:
            saved.check([*tables, *BOTH])
            assert saved.tables == ("w", "e", "user", "item")
            assert dense.same(saved.array("w", "v").ravel(), flat["w", "v"])
            assert dense.same(saved.array("user"), DATA[0].value)
            with pytest.raises(CheckpointError, match="table 'user' is of rows, not dense"):
                saved.read("user", None, 0, 1)
            with pytest.raises(CheckpointError, match="table 'user' is of rows, not dense"):
                saved.folds("user", 0)
            for call in (saved.ids, lambda name: next(saved.rows(replace(NUMBERED, name=name), 0, 1))):
                with pytest.raises(CheckpointError, match="table 'w' is dense, not of rows"):
                    call("w")
            with pytest.raises(UnknownTable, match="no table 'x'"):
                saved.ids("x")
            with pytest.raises(CheckpointError, match="table 'user' has 20 rows, not 3:21"):
                saved.part("user", "value", 3, 21)
            with pytest.raises(CheckpointError, match="table 'user' has no array 'slots/nope'; there are: "):
                saved.part("user", "slots/nope", 3, 4)


def test_files_say_the_least_version_that_they_need(tmp_path: Path) -> None:
    one = dense.save(tmp_path / "dense", [Dense("w", (3,), dense.SGD), Dense("e", (0,), dense.SGD)])
    raw = json.loads((one / "manifest.json").read_bytes())
    assert raw["version"] == 1
    assert [list(table) for table in raw["tables"]] == [["describe", "block", "arrays", "blocks"]] * 2
    assert [list(table["blocks"]) for table in raw["tables"]] == [["shard", "at", "folds", "crc32"]] * 2
    few = replace(NUMBERED, rows=1)  # the second server has none
    two = making.save(tmp_path / "rows", [few], [making.truth(few)])
    assert json.loads((two / "manifest.json").read_bytes())["version"] == 2
    for path, version in ((one / "model.h5", 1), (one / "shard-0000-of-0002.h5", 1), (two / "model.h5", 2),
                          (two / "shard-0000-of-0002.h5", 2), (two / "shard-0001-of-0002.h5", 1)):
        with h5py.File(path, "r", locking=False) as file:
            assert file.attrs["version"] == version
            assert path.name == "model.h5" or json.loads(file["index"][()])["version"] == version


def test_only_its_own_shard_is_read_where_that_is_enough(step: Path) -> None:
    (step / SHARD).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{step / SHARD}: missing")):
        Saved(step)
    with Saved(step, structure=False) as saved:
        for table in BOTH:
            list(saved.rows(table, 0, 3))
            list(saved.rows(table, 2, 3))
            with pytest.raises(CheckpointError, match=SHARD):
                list(saved.rows(table, 1, 3))
        list(saved.rows(NUMBERED, 2, 6))  # ids 2, 8, ... lie in shard 2
        with pytest.raises(CheckpointError, match=SHARD):
            list(saved.rows(NUMBERED, 4, 6))
        with pytest.raises(CheckpointError, match=SHARD):
            list(saved.rows(BORN, 2, 6))


@pytest.mark.parametrize(("table", "array"), [("user", "value"), ("user", "slots/acc"), ("user", "folds"), ("item", "ids"),
                                              ("item", "slots/m")])
def test_damaged_bytes_are_found_and_named(step: Path, table: str, array: str) -> None:
    with h5py.File(step / SHARD, "r") as file:
        found = file[f"tables/{table}/{array}"]
        at = found.id.get_offset() + 4 * found.dtype.itemsize * (found.size // len(found))  # row 4 of the shard
    dense.flip(step / SHARD, at)
    (finding,) = verify(step).findings
    assert re.fullmatch(f"{SHARD}: table '{table}': {array}: block \\d+: does not match its checksum", str(finding))
    described = {t.name: t for t in BOTH}[table]
    with Saved(step) as saved:
        words = rf"{re.escape(str(step / SHARD))}: block \d+ of table '{table}' \({array}\) does not match"
        with pytest.raises(CheckpointError, match=words):
            list(saved.rows(described, 1, 3))
        list(saved.rows(described, 0, 3))
        with pytest.raises(CheckpointError, match=words):
            saved.part(table, array, 0, saved.table(table).units)


def test_other_structure_is_found(step: Path) -> None:
    with h5py.File(step / SHARD, "r+") as file:
        short = file["tables/user/value"][:, :-1]
        del file["tables/user/value"], file["tables/item/ids"]
        file["tables/user/value"] = short
    dense.keep_sizes(step)
    found = {str(f) for f in verify(step).findings}
    assert f"{SHARD}: table 'user': /tables/user/value is not 7 x 4 elements of float32" in found
    assert f"{SHARD}: table 'item': /tables/item/ids is missing" in found


@pytest.mark.parametrize("change", [
    {"step": 2}, {"step": 0}, {"single": ["folds"]}, {"arrays": {}},
    {"describe": {**BORN.describe(), "rows": 18}}, {"describe": {**BORN.describe(), "dim": None}}])
def test_a_manifest_that_makes_no_sense_is_refused(step: Path, change: dict[str, Any]) -> None:
    manifest = schema.load_manifest(step)
    tables = [manifest.tables[0], structs.replace(manifest.tables[1], **change)]
    (step / "manifest.json").write_bytes(schema.encode(structs.replace(manifest, tables=tables)))
    with pytest.raises(CheckpointError, match="table 'item': its rows are not the rows of its blocks"):
        Saved(step)


@pytest.mark.parametrize(("tables", "words"), [
    ([replace(NUMBERED, rows=21), BORN], "table 'user': rows 20 in the checkpoint, 21 here"),
    ([replace(NUMBERED, dim=5), BORN], "table 'user': dim 4 in the checkpoint, 5 here"),
    ([replace(NUMBERED, rows=None, capacity=20), BORN], "table 'user': rows 20 in the checkpoint, None here"),
    ([replace(NUMBERED, dtype="float64"), BORN], "table 'user': dtype 'float32' in the checkpoint, 'float64' here"),
    ([replace(NUMBERED, optimizer=making.Rule(())), BORN], "table 'user': optimizer 'rule of m-acc' in the checkpoint"),
    ([Dense("user", (20, 4), making.Rule(("m",))), BORN], "table 'user': kind 'rows' in the checkpoint, 'dense' here"),
    ([NUMBERED, replace(BORN, capacity=1)], "table 'item': 17 rows in the checkpoint, capacity 1 here"),
    ([NUMBERED], "table 'item' is in the checkpoint only")])
def test_other_tables_are_refused_by_name(step: Path, tables: list[Any], words: str) -> None:
    with Saved(step) as saved, pytest.raises(CheckpointError, match=words):
        saved.check(tables)


def test_a_slot_that_is_not_there_is_named(step: Path) -> None:
    class Other(making.Rule):  # type: ignore[misc, name-defined]
        def describe(self) -> dict[str, Any]:
            return making.Rule().describe()  # type: ignore[no-any-return]

    with Saved(step) as saved:
        with pytest.raises(CheckpointError, match="table 'user': the checkpoint has no slot 'x'"):
            saved.check([replace(NUMBERED, optimizer=Other(("m", "x"))), BORN])
        with pytest.raises(CheckpointError, match="table 'user' has no slot 'x', it has m, acc"):
            saved.array("user", "x")


def test_a_slot_of_rows_and_one_of_elements_differ(step: Path) -> None:
    class Full(making.Rule):  # type: ignore[misc, name-defined]
        row_slots = ()

    with Saved(step) as saved, pytest.raises(CheckpointError, match="slot 'acc' has one number for each row in the"):
        saved.check([replace(NUMBERED, optimizer=Full()), BORN])


def test_what_may_differ_may_differ(step: Path) -> None:
    with Saved(step) as saved:
        rule = making.Rule(lr=9.0)
        saved.check([replace(NUMBERED, optimizer=rule, staleness=None), replace(BORN, optimizer=rule, capacity=17, staleness=3)])


def test_rows_of_another_server_or_too_few_are_refused(tmp_path: Path) -> None:
    wrong = making.pieces(NUMBERED, DATA[0], 1, 2)
    with pytest.raises(MpipsError, match="server 0 has not its rows of table 'user' in the order of their ids"):
        list(write_shard(tmp_path, Cut((1,)), 0, 2, [making.shard(NUMBERED, wrong)], life=Life()))
    saver = DirectorySaver(tmp_path)
    for server in range(2):
        few = making.pieces(NUMBERED, DATA[0], server, 2)[: 2 - server]
        list(saver.write_shard(Cut((1,)), server, 2, [making.shard(NUMBERED, few, server)]))
    with pytest.raises(MpipsError, match="server 0 has written 3 rows of table 'user' and not its 10"):
        list(saver.publish(Cut((1,)), 2, [NUMBERED]))


def test_servers_that_keep_different_arrays_are_refused(tmp_path: Path) -> None:
    saver = DirectorySaver(tmp_path)
    for server in range(2):
        mine = making.pieces(BORN, DATA[1], server, 2)
        flat = [replace(p, slots={s: a[..., 0] if s == "m" and server else a for s, a in p.slots.items()}) for p in mine]
        list(saver.write_shard(Cut((1,)), server, 2, [making.shard(BORN, flat, server)]))
    with pytest.raises(MpipsError, match="the servers keep different arrays for table 'item'"):
        list(saver.publish(Cut((1,)), 2, [BORN]))


def test_a_table_created_after_the_cut_is_left_out(tmp_path: Path) -> None:
    saver = DirectorySaver(tmp_path)
    list(saver.write_shard(Cut((1,)), 0, 1, []))
    list(saver.publish(Cut((1,)), 1, BOTH))
    with Saved(tmp_path / "step-00000001") as saved:
        assert saved.tables == ("item",)  # which starts without rows in any case
        assert list(saved.rows(BORN, 0, 1)) == []
        assert saved.ids("item").shape == (0,)


def test_large_tables_are_written_in_slices(tmp_path: Path) -> None:
    table = Rows("big", rows=SLICE // 16, dim=8, optimizer=making.Rule(("m",)))
    data = making.truth(table)
    pieces = making.pieces(table, data, 0, 1, per=SLICE // 128)
    assert sum(1 for _ in write_shard(tmp_path, Cut((1,)), 0, 1, [making.shard(table, pieces)], life=Life())) >= 4


def test_the_master_can_be_written_again_from_the_manifest(step: Path) -> None:
    before = (step / "model.h5").read_bytes()
    manifest = schema.load_manifest(step)
    list(write_master(step, manifest.clock, manifest.shards, manifest.tables, Life()))
    assert (step / "model.h5").read_bytes() == before


def test_a_missing_shard_reads_as_fill_values_in_the_master(step: Path) -> None:
    (step / SHARD).unlink()
    with h5py.File(step / "model.h5", "r") as file:
        assert (file["tables/user/folds"][1::3] == -1 << 31).all()
        assert np.isnan(file["tables/user/value"][1::3]).all()
        assert (file["tables/item/ids"][()] == -1 << 63).any()
    assert not verify(step).ok


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=3))
def test_what_is_selected_is_told(axes: list[tuple[int, int, int]]) -> None:
    box = tuple(slice(a, a + n, s) for a, n, s in axes)
    assert selected(select((30,) * len(box), box)) == box_ranges(box)


@TOOLS
def test_tools_of_hdf5_show_rows_in_the_order_of_their_ids(step: Path) -> None:
    def tool(*command: str) -> str:
        return subprocess.run(command, cwd=step, capture_output=True, text=True, check=True).stdout

    listed = re.sub(" +", " ", tool("h5ls", "-r", "model.h5"))
    for line in ("/tables/user/value Dataset {20, 4}", "/tables/user/slots/acc Dataset {20}", "/tables/item/ids Dataset {17}",
                 "/tables/item/value Dataset {17, 3}"):
        assert line in listed
    assert "/tables/item/ids" in tool("h5ls", "-r", SHARD)
    assert "/tables/user/ids" not in listed
    dumped = tool("h5dump", "-d", "/tables/user/folds", "-y", "-w", "0", "model.h5").split("DATA {")[1].split("}")[0]
    assert [int(x) for x in dumped.replace(",", " ").split()] == DATA[0].folds.tolist()
    dumped = tool("h5dump", "-d", "/tables/item/ids", "-y", "-w", "0", "model.h5").split("DATA {")[1].split("}")[0]
    with Saved(step) as saved:
        assert [int(x) for x in dumped.replace(",", " ").split()] == saved.ids("item").tolist()


def test_the_reader_of_the_format_reads_rows(step: Path) -> None:
    from importlib.resources import files

    (code,) = re.findall(r"```python\n(.*?)```", files("mpips.checkpoint").joinpath("FORMAT.md").read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "FORMAT.md", "exec"), namespace)
    out = namespace["load"](step)
    assert out.keys() == {("user", a) for a in ("value", "slots/m", "slots/acc", "folds")} | {
        ("item", a) for a in ("value", "slots/m", "slots/acc", "folds", "ids")}
    with Saved(step) as saved:
        for (table, array), found in out.items():
            want = saved.part(table, array, 0, saved.table(table).units)
            assert found.shape == want.shape
            assert found.tobytes() == want.tobytes()


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_found_or_harmless(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = making.save(Path(folder), BOTH, DATA)
        path = data.draw(st.sampled_from(sorted(step.iterdir())))
        dense.flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7)))
        if not verify(step).ok:
            return
        with Saved(step) as saved:
            for table, rows in zip(BOTH, DATA, strict=True):
                assert making.gathered(list(saved.rows(table, 0, 1)), rows).sorted().bits() == rows.sorted().bits()
