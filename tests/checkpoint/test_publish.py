"""A checkpoint is complete or not there: killed anywhere, replaced, pruned, on disks that not all servers see."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mpips.checkpoint.disk import IDLE, Life
from mpips.checkpoint.policy import Checkpoints
from mpips.checkpoint.publish import publish
from mpips.checkpoint.read import Saved
from mpips.checkpoint.saver import DirectorySaver
from mpips.checkpoint.schema import is_shard, load_manifest
from mpips.checkpoint.verify import verify
from mpips.errors import MpipsError
from mpips.server.saving import Cut
from mpips.table import Dense
from tests.checkpoint import making

HELPER = making.__file__
TABLES = [Dense("w", (9, 8), making.ADAM), Dense("b", (3,), making.SGD, dtype="bfloat16"), Dense("s", (), making.SGD)]
CUT = Cut((7, 7))

# A process that writes one checkpoint and kills itself after step number k, for k = 0, 1, ... in directories 0, 1, ...;
# the last child, which came to the end, returns 0.
KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from mpips.server.saving import Cut
from mpips.table import Dense
making = SimpleNamespace(**run_path(sys.argv[1]))
tables = [Dense("w", (9, 8), making.ADAM), Dense("b", (3,), making.SGD, dtype="bfloat16"), Dense("s", (), making.SGD)]
with making.small_blocks():
    for k in count():
        pid = os.fork()
        if pid == 0:
            folder = Path(sys.argv[2]) / str(k)
            if sys.argv[3] == "again":
                making.save(folder, tables, servers=3, clocks=(7, 7), salt=0)
            saver = making.DirectorySaver(folder, keep_last=1)
            for step, _ in enumerate(making.saving(saver, Cut((7, 7)), 2, tables, making.truth(tables, 1))):
                if step == k:
                    os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != -signal.SIGKILL:
            sys.exit(status)
"""


def kill_everywhere(folder: Path, how: str) -> Iterator[Path]:
    """Give the directories that a writer left that was killed at each of its steps in turn; the last was not killed."""
    subprocess.run([sys.executable, "-c", KILLED, str(HELPER), str(folder), how], check=True, timeout=100)
    yield from sorted(folder.iterdir(), key=lambda p: int(p.name))


def holds(saved: Saved, salt: int) -> bool:
    with saved:
        return all(making.same(saved.array(name, slot).ravel(), flat)
                   for (name, slot), flat in making.truth(TABLES, salt).items())


def test_killed_anywhere_it_is_complete_or_not_there(tmp_path: Path) -> None:
    complete = []
    for folder in kill_everywhere(tmp_path, "new"):
        saved = Checkpoints(folder, resume="auto").restore()
        complete.append(saved is not None)
        assert saved is None or holds(saved, 1)
    assert not complete[0]  # step k is not the same moment in every run: fsync takes as many polls as it takes
    assert complete.count(False) > 5
    assert complete[-1]


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_who_begins_last_keeps_the_directory(tmp_path: Path, at: int) -> None:
    """Ranks of a lost node write the same clock as the job that was started in their place: theirs is never seen again."""
    old, new = two_lives(tmp_path)
    writing = making.saving(old, CUT, 2, TABLES, making.truth(TABLES, 0))
    for _ in islice(writing, at):
        pass
    step = tmp_path / "step-00000007"
    if (step / "manifest.json").exists():
        return  # complete before
    new.clean()
    again = making.saving(new, CUT, 2, TABLES, making.truth(TABLES, 1))
    with pytest.raises(MpipsError, match=r"another job \(job 7, restart 1, on .*\) has begun to write there"):
        list(zip(writing, again, strict=False))
    list(again)
    assert verify(step).ok
    assert holds(Saved(step), 1)


def test_who_has_lost_the_directory_removes_nothing_there(tmp_path: Path) -> None:
    """A job whose checkpoint is complete tidies up, but not what the one after it has begun to write, nor old checkpoints."""
    making.save(tmp_path, TABLES, clocks=(3, 3))
    old, new = two_lives(tmp_path, keep_last=1)
    writing = making.saving(old, CUT, 2, TABLES, making.truth(TABLES, 0))
    step = tmp_path / "step-00000007"
    while not (step / "manifest.json").exists():
        next(writing)
    new.clean()
    again = making.saving(new, CUT, 2, TABLES, making.truth(TABLES, 1))
    while len([entry for entry in step.iterdir() if is_shard(entry.name)]) < 3:  # one of the new ones
        next(again)
    with pytest.raises(MpipsError, match="another job"):
        list(writing)
    assert (tmp_path / "step-00000003" / "manifest.json").exists()
    list(again)
    assert verify(step).ok
    assert holds(Saved(step), 1)


def test_who_has_lost_the_directory_removes_no_old_checkpoint_either(tmp_path: Path) -> None:
    """The job after it may be the one that resumes from that; here it has written nothing yet."""
    making.save(tmp_path, TABLES, clocks=(3, 3))
    old, new = two_lives(tmp_path, keep_last=1)
    writing = making.saving(old, CUT, 2, TABLES, making.truth(TABLES, 0))
    while not (tmp_path / "step-00000007" / "manifest.json").exists():
        next(writing)
    new.clean()
    with pytest.raises(MpipsError, match="another job"):
        list(writing)
    assert (tmp_path / "step-00000003" / "manifest.json").exists()


def two_lives(directory: Path, keep_last: int | None = None) -> Iterator[DirectorySaver]:
    """Give the savers of two starts of one job; the first has the directory."""
    for restart in (0, 1):
        saver = DirectorySaver(directory, life=Life("7", restart, f"token {restart}"), mpi="none", keep_last=keep_last)
        if restart == 0:
            saver.clean()
        yield saver


def test_killed_anywhere_while_replacing_one_of_both_is_whole(tmp_path: Path) -> None:
    new = []
    for folder in kill_everywhere(tmp_path, "again"):
        step = folder / "step-00000007"
        saved = Saved(step)
        new.append(holds(saved, 1))
        assert new[-1] or holds(saved, 0)
        leftovers = [f for f in verify(step).findings if f.what != "not named by the manifest"]
        assert all(f.file == "model.h5" for f in leftovers)  # of the other one, and whole
        for path in [*step.iterdir(), step]:
            os.utime(path, (0, 0))
        DirectorySaver(folder, life=Life("other", 1)).clean()
        assert verify(step).ok
        assert holds(Saved(step), int(new[-1]))
    assert not new[0]  # nor is this in order, for the same reason
    assert new[-1]


def test_a_real_writer_is_killed_from_outside(tmp_path: Path) -> None:
    script = """
import sys
from runpy import run_path
from types import SimpleNamespace
from pathlib import Path
from mpips.server.saving import Cut
from mpips.table import Dense
making = SimpleNamespace(**run_path(sys.argv[1]))
tables = [Dense("w", (8 << 20,), making.ADAM)]
saver = making.DirectorySaver(Path(sys.argv[2]))
steps = making.saving(saver, Cut((7, 7)), 2, tables, making.truth(tables))
for _ in range(4):
    next(steps)
print("writing", flush=True)
sys.stdin.read()  # killed here or never
"""
    writer = subprocess.Popen([sys.executable, "-c", script, str(HELPER), str(tmp_path)], stdout=subprocess.PIPE,
                              stdin=subprocess.PIPE, text=True)
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    (leftover,) = (tmp_path / "step-00000007").iterdir()
    assert leftover.name == f"shard-0000-of-0002.h5.tmp.local.0.{writer.pid}"
    assert Checkpoints(tmp_path, resume="auto").restore() is None
    os.utime(tmp_path / "step-00000007", (0, 0))
    Checkpoints(tmp_path).bind(seed=0)
    assert list(tmp_path.iterdir()) == []


def test_the_same_clock_again_replaces_the_old_one(tmp_path: Path) -> None:
    for salt, servers in ((0, 3), (1, 2), (2, 2), (3, 1)):
        with making.small_blocks():
            step = making.save(tmp_path, TABLES, servers=servers, salt=salt, clocks=(7, 7))
        assert holds(Saved(step), salt)
        assert verify(step).ok
        assert load_manifest(step).revision == salt
        assert len(list(step.iterdir())) == servers + 2


def test_one_saver_writes_a_clock_again_though_the_manifest_is_not_seen_yet(tmp_path: Path) -> None:
    saver = DirectorySaver(tmp_path)
    for salt in (0, 1):
        for _ in saver.write_shard(CUT, 1, 2, making.pieces(TABLES, 2, 1, making.truth(TABLES, salt))):
            pass
    assert [p.name for p in sorted((tmp_path / "step-00000007").iterdir())] == [
        "shard-0001-of-0002.h5", "shard-0001-of-0002.r1.h5"]


def test_a_damaged_checkpoint_is_replaced_too(tmp_path: Path) -> None:
    step = making.save(tmp_path, TABLES, clocks=(7, 7))
    (step / "manifest.json").write_bytes(b"{}")
    making.save(tmp_path, TABLES, clocks=(7, 7), salt=1)
    assert verify(step).ok
    assert holds(Saved(step), 1)


def test_one_of_a_later_version_is_whole_until_it_is_replaced(tmp_path: Path) -> None:
    """This mpips cannot read it; the one that wrote it can."""
    step = making.save(tmp_path, TABLES, clocks=(7, 7))
    rest = (step / "manifest.json").read_bytes().split(b"\n", 1)[1].replace(b'"version":1', b'"version":99')
    (step / "manifest.json").write_bytes(b'{"crc32": "%08x",\n' % zlib.crc32(rest) + rest)
    before = {path.name: path.read_bytes() for path in step.iterdir() if path.name != "model.h5"}
    for _ in making.saving(DirectorySaver(tmp_path), CUT, 2, TABLES, making.truth(TABLES, 1)):
        if (step / "manifest.json").read_bytes() == before["manifest.json"]:
            assert {path.name: path.read_bytes() for path in step.iterdir() if path.name in before} == before
    assert verify(step).ok
    assert holds(Saved(step), 1)


@pytest.mark.parametrize("name", ["step-00000007", "step-00000005"])
def test_a_manifest_that_the_disk_does_not_give_is_named_and_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                                name: str) -> None:
    for clock in (5, 7):
        making.save(tmp_path, TABLES, clocks=(clock, clock), salt=clock)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    real = io.open

    def broken(path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(path) == tmp_path / name / "manifest.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", broken)
        with pytest.raises(MpipsError, match=f"^checkpoint {tmp_path / name / 'manifest.json'}: .*: Input/output error$"):
            making.save(tmp_path, TABLES, clocks=(7, 7))
    assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_be_removed_stays_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has made it read-only, to keep it."""
    for clock in (10, 20):
        making.save(tmp_path, TABLES, clocks=(clock, 1), keep_last=None)
    real = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == "step-00000010":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    step = making.save(tmp_path, TABLES, clocks=(30, 1), keep_last=1)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000030"]
    assert verify(step).ok
    assert "step-00000010: not removed, though only the last 1 are to be kept: Permission denied" in caplog.text
    (tmp_path / "step-00000010" / "manifest.json.tmp.9.0.1").touch()
    DirectorySaver(tmp_path, life=Life("9", 1)).clean()
    assert "step-00000010: leftovers are not removed: Permission denied" in caplog.text


def test_keep_last_removes_only_older_complete_ones(tmp_path: Path) -> None:
    for clock in (10, 20, 30, 90):
        making.save(tmp_path, TABLES, clocks=(clock, 1), keep_last=None)
    (tmp_path / "step-00000020" / "manifest.json").unlink()  # incomplete: not counted, not touched
    (tmp_path / "step-00000010" / "notes.txt").write_text("mine")
    (tmp_path / "log").mkdir()
    making.save(tmp_path, TABLES, clocks=(40,), keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "log", "step-00000010", "step-00000020", "step-00000030", "step-00000040", "step-00000090"]
    assert [p.name for p in (tmp_path / "step-00000010").iterdir()] == ["notes.txt"]
    making.save(tmp_path, TABLES, clocks=(5,), keep_last=1)
    assert verify(tmp_path / "step-00000005").ok
    assert (tmp_path / "step-00000030").exists()


def test_keep_last_keeps_what_this_run_has_completed_rather_than_what_one_before_it_has(tmp_path: Path) -> None:
    """A run that began anew, with another `every`, in the directory of an older one."""
    for clock in (100, 200, 300):
        making.save(tmp_path, TABLES, clocks=(clock,), keep_last=None)
    for clock in (150, 300):
        making.save(tmp_path, TABLES, clocks=(clock,), salt=1, keep_last=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000150", "step-00000300"]


def test_a_directory_that_is_not_shared_is_said(tmp_path: Path) -> None:
    for _ in DirectorySaver(tmp_path).write_shard(CUT, 0, 2, making.pieces(TABLES, 2, 0, making.truth(TABLES))):
        pass
    with pytest.raises(MpipsError, match=r"server 1 has written it, but .* shared by all nodes\?"):
        for _ in publish(tmp_path, CUT, 2, TABLES, life=Life(), visible=0.01):
            pass


def test_a_shard_of_another_cut_is_refused(tmp_path: Path) -> None:
    for clocks in ((7, 6), (7, 7)):
        pieces = making.pieces(TABLES, 1, 0, making.truth(TABLES))
        for _ in DirectorySaver(tmp_path).write_shard(Cut(clocks), 0, 1, pieces):
            pass
        if clocks == (7, 6):
            with pytest.raises(MpipsError, match=r"another shard, of clocks \[7, 6\]"):
                for _ in publish(tmp_path, CUT, 1, TABLES, life=Life()):
                    pass
    for _ in publish(tmp_path, CUT, 1, TABLES, life=Life()):
        pass


def test_a_block_that_nobody_wrote_is_named(tmp_path: Path) -> None:
    with making.small_blocks():
        pieces = making.pieces(TABLES, 1, 0, making.truth(TABLES))
        for _ in DirectorySaver(tmp_path).write_shard(CUT, 0, 1, [p for p in pieces if p.index != 2]):
            pass
        with pytest.raises(MpipsError, match="block 2 of table 'w' is in no shard"):
            for _ in publish(tmp_path, CUT, 1, TABLES, life=Life()):
                pass


def test_a_table_created_after_the_cut_is_not_in_it(tmp_path: Path) -> None:
    saver = DirectorySaver(tmp_path)
    for _ in saver.write_shard(CUT, 0, 1, making.pieces(TABLES, 1, 0, making.truth(TABLES))):
        pass
    for _ in saver.publish(CUT, 1, [*TABLES, Dense("later", (5,), making.SGD)]):
        pass
    assert Saved(tmp_path / "step-00000007").tables == ("w", "b", "s")


def test_the_manifest_says_where_it_is_from(tmp_path: Path) -> None:
    step = making.save(tmp_path, TABLES, clocks=(3, 8), life=Life("77", 4), mpi="Some MPI 1.2")
    manifest = load_manifest(step)
    assert (manifest.job.id, manifest.job.restart) == ("77", 4)
    assert manifest.versions["mpi"] == "Some MPI 1.2"
    assert set(manifest.versions) == {"mpips", "numpy", "h5py", "hdf5", "mpi"}
    assert [t.describe for t in manifest.tables] == [t.describe() for t in TABLES]


def old(path: Path) -> Path:
    os.utime(path, (path.stat().st_mtime - IDLE - 60,) * 2)
    return path


def test_leftovers_of_older_lives_go_at_start(tmp_path: Path) -> None:
    done = making.save(tmp_path, TABLES, clocks=(7, 7))
    half = tmp_path / "step-00000008"
    for _ in DirectorySaver(tmp_path).write_shard(Cut((8, 8)), 0, 2, making.pieces(TABLES, 2, 0, making.truth(TABLES))):
        pass
    (half / "shard-0001-of-0002.h5.tmp.9.0.1").write_bytes(b"x")
    (done / "model.h5.tmp.9.0.1").write_bytes(b"x")
    DirectorySaver(tmp_path, life=Life("9", 1)).clean()  # job 9, started again: its temporary files are certainly dead
    assert not (done / "model.h5.tmp.9.0.1").exists()
    assert [p.name for p in half.iterdir()] == ["shard-0000-of-0002.h5"]  # may be another job's work of this minute
    for path in (*half.iterdir(), half):
        old(path)
    DirectorySaver(tmp_path, life=Life("9", 2)).clean()
    assert not half.exists()
    assert verify(done).ok


def test_what_lacks_only_its_manifest_is_left_for_a_person(tmp_path: Path) -> None:
    step = making.save(tmp_path, TABLES, clocks=(7, 7))
    (step / "manifest.json").unlink()
    for path in (*step.iterdir(), step):
        old(path)
    before = sorted(step.iterdir())
    DirectorySaver(tmp_path, life=Life("9", 1)).clean()
    assert sorted(step.iterdir()) == before


def test_cleaning_leaves_everything_else_alone(tmp_path: Path) -> None:
    for name in ("log", "step-7", "step-00000001x"):
        (tmp_path / name).mkdir()
        old(tmp_path / name)
    (tmp_path / "step-00000009").write_text("a file")
    step = making.save(tmp_path, TABLES, clocks=(7, 7))
    (step / "manifest.json").write_bytes(b"damaged")
    before = sorted(tmp_path.rglob("*"))
    DirectorySaver(tmp_path, life=Life("9", 1)).clean()
    DirectorySaver(tmp_path / "missing", life=Life("9", 1)).clean()
    assert sorted(tmp_path.rglob("*")) == before
