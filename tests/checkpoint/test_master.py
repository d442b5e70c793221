from __future__ import annotations

from math import prod
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.checkpoint.disk import Life
from mpips.checkpoint.master import boxes, write_master
from mpips.checkpoint.schema import MASTER, load_manifest
from mpips.checkpoint.verify import verify
from mpips.table import Dense
from tests.checkpoint import making


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), st.data())
def test_boxes_cover_exactly_the_run_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    flat = np.arange(size).reshape(shape)
    seen: list[int] = []
    for box, a, b in boxes(shape, start, stop):
        assert flat[box].ravel().tolist() == list(range(a, b))
        seen += range(a, b)
    assert seen == list(range(start, stop))
    assert len(list(boxes(shape, start, stop))) <= 2 * len(shape) - 1


@pytest.mark.parametrize("name", ["w", "100%", "%b", "a%%b %0b", "ä/".rstrip("/") + " ü", "a.b.c"])
def test_any_name_of_a_table_is_shown(tmp_path: Path, name: str) -> None:
    with making.small_blocks():
        tables = [Dense(name, (7, 5), making.ADAM)]
        step = making.save(tmp_path, tables, servers=3)
    with h5py.File(step / MASTER, "r") as file:
        for slot in (None, "m"):
            array = "value" if slot is None else f"slots/{slot}"
            assert making.same(file[f"tables/{name}/{array}"][()].ravel(), making.truth(tables)[name, slot])
    assert verify(step).ok


def test_a_missing_shard_reads_as_nan_in_the_master_which_is_why_nobody_trusts_it(tmp_path: Path) -> None:
    with making.small_blocks():
        tables = [Dense("w", (40,), making.SGD), Dense("h", (80,), making.SGD, dtype="bfloat16")]
        step = making.save(tmp_path, tables, servers=2)
    (step / "shard-0001-of-0002.h5").unlink()
    with h5py.File(step / MASTER, "r") as file:
        assert np.isnan(file["tables/w/value"][()]).any()
        assert (file["tables/h/value"][()] == 0x7FC0).any()
    assert not verify(step).ok


def test_the_master_can_be_written_again_from_the_manifest(tmp_path: Path) -> None:
    step = making.save(tmp_path, [Dense("w", (40,), making.SGD), Dense("s", (), making.ADAM)])
    before = (step / MASTER).read_bytes()
    (step / MASTER).unlink()
    assert not verify(step).ok
    manifest = load_manifest(step)
    for _ in write_master(step, manifest.clock, manifest.shards, manifest.tables, Life()):
        pass
    assert (step / MASTER).read_bytes() == before
    assert verify(step).ok
