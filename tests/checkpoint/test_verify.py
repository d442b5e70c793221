"""Every row of the table of damages, and any flipped bit anywhere."""

from __future__ import annotations

import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from mpips.checkpoint import schema
from mpips.checkpoint.read import Saved
from mpips.checkpoint.verify import verify
from mpips.errors import CheckpointError
from mpips.table import Dense
from tests.checkpoint import making

TABLES = [Dense("w", (9, 8), making.ADAM), Dense("s", (), making.SGD), Dense("h", (40,), making.SGD, dtype="bfloat16"),
          Dense("e", (0,), making.SGD)]
SHARD = "shard-0001-of-0002.h5"


def make(folder: Path, salt: int = 0) -> Path:
    with making.small_blocks():
        step: Path = making.save(folder, TABLES, servers=2, salt=salt)
    return step


def flip_data(step: Path) -> None:
    with h5py.File(step / SHARD, "r") as file:
        at = file["tables/w/slots/v"].id.get_offset()
    making.flip(step / SHARD, at + 5)


def cut(step: Path) -> None:
    raw = (step / SHARD).read_bytes()
    (step / SHARD).write_bytes(raw[: len(raw) // 2])


def rename(step: Path) -> None:
    with h5py.File(step / SHARD, "r+") as file:
        file.move("tables/w/slots/v", "tables/w/slots/x")
    making.keep_sizes(step)


def shorten(step: Path) -> None:
    with h5py.File(step / SHARD, "r+") as file:
        short = file["tables/w/value"][:-1]
        del file["tables/w/value"]
        file["tables/w/value"] = short
    making.keep_sizes(step)


def retype(step: Path) -> None:
    with h5py.File(step / SHARD, "r+") as file:
        data = file["tables/w/value"][()].view("<i4")
        del file["tables/w/value"]
        file["tables/w/value"] = data
    making.keep_sizes(step)


def swap(step: Path) -> None:
    other = make(step.parent / "other", salt=1)
    shutil.copy(other / SHARD, step / SHARD)


def empty(step: Path) -> None:
    (step / SHARD).write_bytes(b"\0" * (step / SHARD).stat().st_size)


def flip_manifest(step: Path) -> None:
    raw = (step / "manifest.json").read_bytes()
    making.flip(step / "manifest.json", raw.index(b'"seed":3') + 7)


@pytest.mark.parametrize(("damage", "found", "opens"), [
    (flip_data, f"{SHARD}: table 'w': slots/v: block 3: does not match its checksum", True),
    (cut, rf"{SHARD}: \d+ bytes, \d+ were written", False),
    (lambda step: (step / SHARD).unlink(), f"{SHARD}: missing", False),
    (rename, f"{SHARD}: table 'w': /tables/w/slots/v is missing", False),
    (shorten, f"{SHARD}: table 'w': /tables/w/value is not 24 elements of float32", False),
    (retype, f"{SHARD}: table 'w': /tables/w/value is not 24 elements of float32", False),
    (swap, f"{SHARD}: table 'w': value: block .: does not match", True),
    (empty, f"{SHARD}: .*", False),
    (flip_manifest, "manifest.json: damaged, its checksum does not match", False),
    (lambda step: (step / "model.h5").unlink(), r"model\.h5: missing", True),
    (lambda step: (step / "model.h5").write_bytes(b"x"), r"model\.h5: 1 bytes, \d+ were written", True),
])
def test_every_damage_is_found_and_named(tmp_path: Path, damage: Callable[[Path], None], found: str,
                                         opens: bool) -> None:
    step = make(tmp_path)
    damage(step)
    report = verify(step)
    assert not report.ok
    assert any(re.match(found, str(finding)) for finding in report.findings), [str(f) for f in report.findings]
    if opens:
        Saved(step).close()
    else:
        with pytest.raises(CheckpointError, match=re.escape(str(step))):
            Saved(step)


def test_a_missing_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    step = make(tmp_path)
    (step / "manifest.json").unlink()
    for look in (verify, Saved):
        with pytest.raises(CheckpointError, match=r"no manifest\.json, so this is not a complete checkpoint"):
            look(step)


@pytest.mark.parametrize(("path", "words"), [("nothing", "no such checkpoint"), ("", "holds 1 checkpoint, name it"),
                                             ("file", "not a checkpoint"), ("empty", "not a checkpoint")])
def test_what_is_no_checkpoint_is_said(tmp_path: Path, path: str, words: str) -> None:
    make(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=words):
        verify(tmp_path / path)


def test_a_master_of_other_shards_is_found(tmp_path: Path) -> None:
    step = make(tmp_path)
    with making.small_blocks():
        other = making.save(tmp_path / "other", TABLES, servers=3)
    shutil.copy(other / "model.h5", step / "model.h5")
    assert [finding.file for finding in verify(step).findings] == ["model.h5"]
    raw = (step / "model.h5").read_bytes()
    manifest = structs.replace(schema.load_manifest(step), master=schema.Master(bytes=len(raw), crc32=zlib.crc32(raw)))
    (step / "manifest.json").write_bytes(schema.encode(manifest))
    assert "model.h5: table 'w': value: does not show the shards of the manifest" in map(str, verify(step).findings)


def test_leftovers_are_reported(tmp_path: Path) -> None:
    step = make(tmp_path)
    (step / "shard-0002-of-0003.h5").write_bytes(b"x")
    (step / "notes.txt").write_text("mine")
    assert [str(f) for f in verify(step).findings] == ["shard-0002-of-0003.h5: not named by the manifest"]


def test_several_damages_are_all_found(tmp_path: Path) -> None:
    step = make(tmp_path)
    flip_data(step)
    (step / "shard-0000-of-0002.h5").unlink()
    (step / "model.h5").unlink()
    files = {finding.file for finding in verify(step).findings}
    assert files == {SHARD, "shard-0000-of-0002.h5", "model.h5"}


@settings(max_examples=100)
@given(st.data())
def test_any_flipped_bit_is_found_or_harmless(data: st.DataObject) -> None:
    """Harmless: verify finds nothing, and every element is what was written, in the shards and through the master."""
    with tempfile.TemporaryDirectory() as folder:
        step = make(Path(folder))
        path = data.draw(st.sampled_from(sorted(step.iterdir())))
        making.flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7)))
        if not verify(step).ok:
            return
        with Saved(step) as saved, h5py.File(step / "model.h5", "r", locking=False) as master:
            for (name, slot), flat in making.truth(TABLES).items():
                assert making.same(saved.array(name, slot).ravel(), flat)
                shown = master[f"tables/{name}/{'value' if slot is None else f'slots/{slot}'}"][()]
                assert shown.tobytes() == flat.tobytes()
