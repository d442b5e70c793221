from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpips.checkpoint.disk import Life
from mpips.checkpoint.schema import is_shard
from mpips.checkpoint.write import SLICE, write_shard
from mpips.errors import MpipsError
from mpips.server.saving import Cut
from mpips.table import Dense
from tests.checkpoint import making

TABLES = [Dense("w", (700, 1000), making.ADAM), Dense("half", (33, 3), making.ADAM, dtype="bfloat16"),
          Dense("empty", (0, 4), making.SGD), Dense("scalar", (), making.SGD, dtype="float64")]


def files(step: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in step.iterdir()}


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    first = files(making.save(tmp_path / "a", TABLES, servers=2))
    time.sleep(1.1)  # HDF5's object times have seconds
    assert files(making.save(tmp_path / "b", TABLES, servers=2)) == first


def test_tools_of_hdf5_open_every_file(tmp_path: Path) -> None:
    step = making.save(tmp_path, TABLES, servers=2)
    for path in step.glob("*.h5"):
        for command in (["h5ls", "-r"], ["h5dump", "-H"]):
            done = subprocess.run([*command, path.name], cwd=step, capture_output=True, text=True, check=True)
            assert "error" not in done.stderr.lower()
    listed = subprocess.run(["h5ls", "-r", "model.h5"], cwd=step, capture_output=True, text=True, check=True).stdout
    assert "/tables/w/slots/m        Dataset {700, 1000}" in listed
    command = ["h5dump", "-d", "/tables/scalar/value", "-y", "model.h5"]
    dump = subprocess.run(command, cwd=step, capture_output=True, text=True, check=True).stdout
    value = float(dump.split("DATA {")[1].split("}")[0])
    assert value == pytest.approx(making.truth(TABLES)["scalar", None][0])


def test_a_large_shard_is_written_in_slices(tmp_path: Path) -> None:
    table = Dense("w", (3 * SLICE // 4,), making.ADAM)  # three arrays of three slices
    pieces = making.pieces([table], 1, 0, making.truth([table]))
    assert sum(1 for _ in write_shard(tmp_path, Cut((1,)), 0, 1, pieces, life=Life())) >= 9


def test_nothing_has_the_final_name_until_the_end(tmp_path: Path) -> None:
    pieces = making.pieces(TABLES, 1, 0, making.truth(TABLES))
    for _ in write_shard(tmp_path, Cut((1,)), 0, 1, pieces, life=Life()):
        assert not any(is_shard(p.name) for p in tmp_path.rglob("*"))
    assert [p.name for p in (tmp_path / "step-00000001").iterdir()] == ["shard-0000-of-0001.h5"]


def test_an_abandoned_writer_leaves_nothing(tmp_path: Path) -> None:
    writing = write_shard(tmp_path, Cut((1,)), 0, 1, making.pieces(TABLES, 1, 0, making.truth(TABLES)), life=Life())
    next(writing)
    assert any(tmp_path.rglob("*.tmp.*"))
    assert isinstance(writing, Generator)
    writing.close()
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


def test_a_server_without_blocks_writes_an_empty_shard(tmp_path: Path) -> None:
    for _ in write_shard(tmp_path, Cut((0, 0)), 4, 5, [], life=Life()):
        pass
    with h5py.File(tmp_path / "step-00000000" / "shard-0004-of-0005.h5", "r") as file:
        assert list(file["tables"]) == []
        assert file.attrs["format"] == "mpips-checkpoint"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """A file-size limit of the kernel stands for the full disk."""
    table = Dense("w", (1 << 20,), making.SGD)
    pieces = making.pieces([table], 1, 0, {("w", None): np.ones(1 << 20, np.float32)})
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            for _ in write_shard(tmp_path, Cut((1,)), 0, 1, pieces, life=Life()):
                pass
        except MpipsError as error:
            text = str(error)
            os._exit(0 if "shard-0000-of-0001.h5: cannot be written on" in text and "File too large" in text else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not any(p.is_file() for p in tmp_path.rglob("*"))
