from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.checkpoint.disk import IDLE, Life, commit, is_temporary, replacing
from mpips.errors import MpipsError

DEAD = subprocess.Popen([sys.executable, "-c", ""])
DEAD.wait()


def leftover(folder: Path, job: str, restart: int, pid: int, age: float = 0) -> Path:
    path = folder / f"shard-0000-of-0001.h5.tmp.{job}.{restart}.{pid}"
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.mark.parametrize(("environment", "life"), [
    ({}, Life("local", 0)), ({"SLURM_JOB_ID": "12"}, Life("12", 0)), ({"SLURM_JOB_ID": ""}, Life("local", 0)),
    ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}, Life("12", 3)), ({"SLURM_JOB_ID": "1.2/x"}, Life("1_2_x", 0))])
def test_a_life_is_read_from_the_environment(environment: dict[str, str], life: Life) -> None:
    assert Life.of(environment) == life
    assert is_temporary(life.temporary(Path("x/model.h5")).name)


def test_a_directory_is_of_who_began_last_and_a_life_without_a_token_is_kept_out_by_nobody(tmp_path: Path) -> None:
    first, second, third = Life("1", token="a"), Life("2", token="b"), Life("3")
    first.claim(tmp_path)
    first.check(tmp_path)
    second.claim(tmp_path)
    third.claim(tmp_path)
    third.check(tmp_path)
    second.check(tmp_path)
    with pytest.raises(MpipsError, match=r"another job \(job 2, restart 0, on .*\) has begun to write there since"):
        first.check(tmp_path)


def test_whose_leftovers_are_known(tmp_path: Path) -> None:
    life = Life("7", 2)
    mine, dead = os.getpid(), DEAD.pid
    assert not life.outlived(leftover(tmp_path, "7", 2, mine))
    assert life.outlived(leftover(tmp_path, "7", 2, dead))
    assert life.outlived(leftover(tmp_path, "7", 1, mine))
    assert not life.outlived(leftover(tmp_path, "8", 0, dead))
    assert life.outlived(leftover(tmp_path, "8", 1, dead, age=IDLE + 60))
    assert not life.outlived(tmp_path / "gone")


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "model.h5"
    with replacing(final, Life()) as path:
        path.write_bytes(b"new")
        steps = commit(path, final, Life())
        assert not final.exists()
        for _ in steps:
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]
    assert final.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    final = tmp_path / "model.h5"
    final.write_bytes(b"old")

    def write() -> None:
        with replacing(final, Life()) as path:
            path.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]
    assert final.read_bytes() == b"old"


def test_a_disk_error_names_the_file(tmp_path: Path) -> None:
    final = tmp_path / "missing" / "model.h5"
    words = f"checkpoint {final}: cannot be written on .*No such file"
    with pytest.raises(MpipsError, match=words), replacing(final, Life()) as path:
        path.write_bytes(b"x")


def test_a_disk_that_does_not_even_remove_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that has become read-only."""
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(MpipsError, match=f"checkpoint {tmp_path}/s/m.json: cannot be written on .*: Read-only file system"), \
            replacing(tmp_path / "s" / "m.json", Life()) as path:
        raise OSError(errno.EROFS, "Read-only file system", str(path))
