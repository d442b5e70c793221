from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest

from mpips.checkpoint import Checkpoints
from mpips.checkpoint.schema import encode, load_manifest
from mpips.errors import CheckpointError
from mpips.table import Dense

making = SimpleNamespace(**run_path(str(Path(__file__).with_name("making.py"))))
TABLES = [Dense("w", (9, 8), making.ADAM)]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_the_latest_is_the_same_after_a_copy(tmp_path: Path, order: tuple[int, ...]) -> None:
    """`cp -r` and a restored backup give times in an order of their own."""
    for clock in (30, 10, 20):
        making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
    for time, clock in zip(order, (10, 20, 30), strict=True):
        os.utime(tmp_path / f"step-000000{clock}" / "manifest.json", (time, time))
    with Checkpoints(tmp_path, resume="auto").restore() as saved:
        assert saved.clock == 20
    making.save(tmp_path, TABLES, clocks=(5,), keep_last=None)  # by another process, which counts on
    os.utime(tmp_path / "step-00000005" / "manifest.json", (0, 0))
    with Checkpoints(tmp_path, resume="auto").restore() as saved:
        assert saved.clock == 5


def test_those_of_an_older_mpips_go_by_their_times(tmp_path: Path) -> None:
    for clock in (10, 30, 20):
        step = making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
        rest = re.sub(rb'"serial":\d+,', b"", encode(load_manifest(step)).split(b"\n", 1)[1])
        (step / "manifest.json").write_bytes(b'{"crc32": "%08x",\n' % zlib.crc32(rest) + rest)
    with Checkpoints(tmp_path, resume="auto").restore() as saved:
        assert saved.clock == 20
    making.save(tmp_path, TABLES, clocks=(4,), keep_last=None)
    os.utime(tmp_path / "step-00000004" / "manifest.json", (0, 0))
    with Checkpoints(tmp_path, resume="auto").restore() as saved:
        assert saved.clock == 4


@pytest.mark.parametrize(("broken", "latest"), [(20, 20), (10, 30)])
def test_a_manifest_without_a_beginning_stands_where_its_time_puts_it(tmp_path: Path, broken: int, latest: int) -> None:
    """Nobody knows its number: if it may be the latest that is an error, an older one is in nobody's way."""
    for clock in (10, 30, 20) if broken == 20 else (10, 20, 30):
        making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
    path = tmp_path / f"step-000000{broken}" / "manifest.json"
    time = path.stat().st_mtime_ns
    path.write_bytes(b"")
    os.utime(path, ns=(time, time))
    if latest == broken:
        with pytest.raises(CheckpointError, match=r"step-00000020/manifest\.json: damaged"):
            Checkpoints(tmp_path, resume="auto").restore()
    else:
        with Checkpoints(tmp_path, resume="auto").restore() as saved:
            assert saved.clock == latest
