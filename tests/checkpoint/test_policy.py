from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpips.checkpoint import Checkpoints
from mpips.checkpoint.verify import verify
from mpips.errors import USAGE, CheckpointError, UsageError
from mpips.server.saving import Cut
from mpips.table import Dense
from tests.checkpoint import making

TABLES = [Dense("w", (9, 8), making.ADAM)]


@pytest.mark.parametrize(("settings", "words"), [
    ({"every": 0}, "every: 0"), ({"every": 1.5}, "every: 1.5"), ({"every": True}, "every: True"),
    ({"keep_last": 0}, "keep_last: 0"), ({"keep_last": "3"}, "keep_last: '3'"), ({"at_end": 1}, "at_end: 1"),
    ({"resume": 5}, "resume: 5"), ({"resume": ""}, "resume: ''"),
    ({"directory": ""}, "directory ''"), ({"directory": None}, "directory None")])
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^checkpoint {words} "):
        Checkpoints(**{"directory": "x", **settings})


def test_the_directory_is_created_and_tried(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "a" / "b").check()
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("where", ["file", "file/under", "/proc/mpips", "/proc"])
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=f"^checkpoint directory {tmp_path / where}: cannot be written: ") as caught:
        Checkpoints(tmp_path / where).check()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == USAGE


def test_a_full_disk_is_named_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a file takes no room, so an empty one would remain of every start."""
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        Checkpoints(tmp_path).check()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_looked_at_is_named_before_anything_begins(tmp_path: Path) -> None:
    """Nobody knows whether it is the newest; at the first checkpoint it would be too late to say so."""
    (tmp_path / "step-00000010" / "manifest.json").mkdir(parents=True)
    with pytest.raises(UsageError, match=rf"^checkpoint directory {tmp_path}: \S*/step-00000010/manifest.json: Is a directory$"):
        Checkpoints(tmp_path).check()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    saver = Checkpoints("runs").bind(seed=0)
    monkeypatch.chdir("elsewhere")
    for _ in making.saving(saver, Cut((1,)), 1, TABLES, making.truth(TABLES)):
        pass
    assert verify(tmp_path / "runs" / "step-00000001").ok
    assert not list((tmp_path / "elsewhere").iterdir())


def test_latest_is_the_one_completed_last(tmp_path: Path) -> None:
    """Not the one of the highest clock: that may be an older run's."""
    for clock in (9, 100, 20, 1_000_000_000):
        making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
    (tmp_path / "step-1000000000" / "manifest.json").unlink()
    (tmp_path / "step-00000500").mkdir()
    for resume in ("latest", "auto"):
        saved = Checkpoints(tmp_path, resume=resume).restore()
        assert saved is not None
        assert saved.clock == 20
        saved.close()


def test_where_the_one_completed_last_is_not_the_furthest_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that began anew where an older one had been further: it goes on, but not in silence."""
    for clock in (9, 20):
        making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
    Checkpoints(tmp_path, resume="auto").restore().close()
    assert caplog.text == ""
    making.save(tmp_path, TABLES, clocks=(9,), keep_last=None)
    Checkpoints(tmp_path, resume="auto").restore().close()
    assert "step-00000009, completed last; " in caplog.text
    assert "step-00000020 is further" in caplog.text


def test_without_one_latest_is_an_error_and_auto_is_a_start(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert Checkpoints(folder, resume="auto").restore() is None
        assert Checkpoints(folder).restore() is None
        with pytest.raises(CheckpointError, match=f"{folder}: resume='latest', but it holds no complete checkpoint"):
            Checkpoints(folder, resume="latest").restore()


@pytest.mark.parametrize("name", ["", "manifest.json", "model.h5"])
def test_a_path_is_that_checkpoint(tmp_path: Path, name: str) -> None:
    first = making.save(tmp_path, TABLES, clocks=(1,))
    making.save(tmp_path, TABLES, clocks=(2,))
    saved = Checkpoints("elsewhere", resume=first / name).restore()
    assert saved is not None
    with saved:
        assert saved.clock == 1


@pytest.mark.parametrize("resume", ["latest", "auto", "step-00000002"])
def test_a_damaged_newest_one_is_an_error_not_a_step_back(tmp_path: Path, resume: str) -> None:
    making.save(tmp_path, TABLES, clocks=(1,))
    step = making.save(tmp_path, TABLES, clocks=(2,))
    (step / "shard-0001-of-0002.h5").unlink()
    path = resume if resume in ("latest", "auto") else tmp_path / resume
    with pytest.raises(CheckpointError, match=rf"^{step}/shard-0001-of-0002\.h5: missing$"):
        Checkpoints(tmp_path, resume=path).restore()


@pytest.mark.parametrize("path", ["", "nothing", "file"])
def test_a_path_that_is_no_checkpoint_is_said(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=str(tmp_path / path)):
        Checkpoints(tmp_path, resume=tmp_path / path).restore()


@pytest.mark.parametrize("resume", ["auto", "x" * 300])
def test_what_the_file_system_refuses_is_one_line(tmp_path: Path, resume: str) -> None:
    with pytest.raises(CheckpointError, match=r"File name too long$"):
        Checkpoints(tmp_path / ("x" * 300), resume=resume).restore()


def test_bound_it_writes_seed_and_meta(tmp_path: Path) -> None:
    saver = Checkpoints(tmp_path, keep_last=1).bind(seed=5, meta={"model": "mlp", "sizes": (1, 2), "x": 0.1}, mpi="MPI")
    for clock in (1, 2):
        for _ in making.saving(saver, Cut((clock,)), 2, TABLES, making.truth(TABLES)):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]
    saved = Checkpoints(tmp_path, resume="latest").restore()
    assert saved is not None
    with saved:
        assert (saved.seed, saved.meta) == (5, {"model": "mlp", "sizes": [1, 2], "x": 0.1})
    assert verify(tmp_path / "step-00000002").ok


@pytest.mark.parametrize("meta", [object(), {"x": float("nan")}, [{1, 2}], {"x": 1j}, {"file": "\udcff"}])
def test_meta_that_is_not_json_is_refused(tmp_path: Path, meta: Any) -> None:
    with pytest.raises(UsageError, match="checkpoint meta: not JSON"):
        Checkpoints(tmp_path).bind(seed=0, meta=meta)


def test_importing_loads_neither_h5py_nor_mpi() -> None:
    code = ("import sys, mpips.checkpoint; "
            "print([m for m in ('h5py', 'msgspec', 'mpi4py', 'cupy', 'numba') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_reading_and_writing_load_no_mpi() -> None:
    code = ("import sys, mpips.checkpoint.saver, mpips.checkpoint.verify, mpips.checkpoint.summary; "
            "print([m for m in ('mpi4py', 'cupy', 'numba') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
