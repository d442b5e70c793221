from __future__ import annotations

import json
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.checkpoint import schema
from mpips.checkpoint.schema import Job, ShardIndex, ShardTable
from mpips.errors import CheckpointError
from mpips.table import DTYPES

INDEX = ShardIndex(clocks=[3, 4], server=0, servers=1, job=Job(id="7", restart=2), tables={
    "ä": ShardTable(arrays={"value": "float32"}, index=[0], start=[0], stop=[5], folds=[9], crc32={"value": [123]})})


@given(st.integers(0, 10**12))
def test_step_names_come_back(clock: int) -> None:
    assert schema.step_of(schema.step_name(clock)) == clock


@pytest.mark.parametrize("name", ["step-1", "step-00000001.tmp", "step--0000001", "xstep-00000001", "log",
                                  "step-00000001\n"])
def test_other_names_are_no_steps(name: str) -> None:
    assert schema.step_of(name) is None


@given(st.integers(0, 20000), st.integers(1, 20000), st.integers(0, 99))
def test_shard_names_are_shards_and_differ_by_revision(server: int, servers: int, revision: int) -> None:
    name = schema.shard_name(server, servers, revision)
    assert schema.is_shard(name)
    assert not schema.is_shard(f"{name}.tmp.1.2.3")
    assert name != schema.shard_name(server, servers, revision + 1)


def test_a_record_is_json_and_comes_back() -> None:
    raw = schema.encode(INDEX)
    assert json.loads(raw)["tables"]["ä"]["folds"] == [9]
    assert schema.decode(raw, ShardIndex, "here") == INDEX
    assert schema.encode(INDEX) == raw


def test_every_flipped_bit_of_a_record_is_seen() -> None:
    raw = schema.encode(INDEX)
    for at in range(len(raw)):
        for bit in range(8):
            bad = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
            with pytest.raises(CheckpointError, match=r"^here: "):
                schema.decode(bad, ShardIndex, "here")


@pytest.mark.parametrize("cut", [0, 1, 20, 100])
def test_a_cut_record_is_seen(cut: int) -> None:
    with pytest.raises(CheckpointError, match="checksum"):
        schema.decode(schema.encode(INDEX)[:cut], ShardIndex, "here")


@pytest.mark.parametrize(("change", "words"), [
    ({"version": 3}, "format version 3, this mpips reads 1 and 2"), ({"format": "other"}, "format 'other'"),
    ({"servers": "x"}, "servers"), ({"tables": None}, "tables")])
def test_another_format_is_refused_by_name(change: dict[str, object], words: str) -> None:
    body = json.loads(schema.encode(INDEX)) | change
    del body["crc32"]
    rest = json.dumps(body)[1:].encode()
    with pytest.raises(CheckpointError, match=words):
        schema.decode(b'{"crc32": "%08x",\n' % zlib.crc32(rest) + rest, ShardIndex, "here")


def test_members_of_a_later_version_are_ignored() -> None:
    rest = schema.encode(INDEX).split(b"\n", 1)[1].replace(b'"server":0', b'"new":[1],"server":0')
    assert schema.decode(b'{"crc32": "%08x",\n' % zlib.crc32(rest) + rest, ShardIndex, "here") == INDEX


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_stored_bits_come_back(dtype: str) -> None:
    bits = np.frombuffer(np.random.default_rng(0).bytes(1 << 16), DTYPES[dtype])
    stored = schema.stored(bits)
    assert stored.dtype == np.dtype(schema.STORED[dtype])
    back = schema.logical(stored, dtype)
    assert back.dtype == bits.dtype
    assert back.tobytes() == bits.tobytes()


def test_numpy_hyperparameters_become_json() -> None:
    table = schema.SavedTable(describe={"lr": np.float32(0.5), "n": np.int64(3), "ok": np.True_}, block=1, arrays={},
                              blocks=schema.Blocks(shard=[], at=[], folds=[], crc32={}))
    manifest = schema.Manifest(clock=0, clocks=[], revision=0, seed=0, versions={}, job=Job(id="x", restart=0),
                               servers=0, shards=[], master=schema.Master(bytes=0, crc32=0), tables=[table], meta=None)
    assert json.loads(schema.encode(manifest))["tables"][0]["describe"] == {"lr": 0.5, "n": 3, "ok": True}


def test_bfloat16_is_stored_as_integers() -> None:
    assert schema.stored(np.ones(1, ml_dtypes.bfloat16)).tolist() == [0x3F80]
