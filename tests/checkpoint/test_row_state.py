"""What servers keep beside their rows in checkpoints: sightings and counters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from msgspec import structs

from mpips.checkpoint import schema
from mpips.checkpoint.read import Saved
from mpips.checkpoint.saver import DirectorySaver
from mpips.checkpoint.verify import verify
from mpips.cli import main
from mpips.errors import CheckpointError
from mpips.server.saving import Cut, RowState
from mpips.table import Rows
from tests.checkpoint import making as dense
from tests.checkpoint import making_rows as making

TABLE = Rows("item", rows=None, dim=3, optimizer=making.Rule(), capacity=100, admit=2)
DATA = making.truth(TABLE, 17)
SHARD = "shard-0001-of-0003.h5"


def counts(server: int) -> Any:
    return np.random.default_rng(server).integers(0, 65536, (4, 1024), np.uint16)


def save(directory: Path, servers: int = 3, alive: int = 17) -> Path:
    """Write a checkpoint in which each server has another sketch."""
    saver, cut, data = DirectorySaver(directory, mpi="none"), Cut((10,)), making.truth(TABLE, alive)
    for server in range(servers):
        empty = making.pieces(TABLE, DATA, server, servers, per=1000)[1]
        state = RowState(server, {"sighted": 40 + server}, {"sightings": counts(server)})
        found = making.shard(TABLE, [empty, *making.pieces(TABLE, data, server, servers)], server, state)
        list(saver.write_shard(cut, server, servers, [found]))
    list(saver.publish(cut, servers, [TABLE]))
    return directory / "step-00000010"


@pytest.fixture
def step(tmp_path: Path) -> Path:
    return save(tmp_path)


def same(state: RowState, server: int) -> None:
    assert (state.server, state.counters) == (server, {"sighted": 40 + server})
    np.testing.assert_array_equal(state.arrays["sightings"], counts(server))


def test_as_many_servers_get_their_own_and_others_all(step: Path) -> None:
    assert verify(step).findings == ()
    with Saved(step) as saved:
        for server in range(3):
            (state,) = saved.states(TABLE, server, 3)
            same(state, server)
        for servers in (1, 2, 5):
            for number, state in enumerate(saved.states(TABLE, servers - 1, servers)):
                same(state, number)
            assert number == 2


def test_servers_without_rows_have_seen_ids(tmp_path: Path) -> None:
    step = save(tmp_path, alive=0)
    assert verify(step).findings == ()
    with Saved(step) as saved:
        assert list(saved.rows(TABLE, 0, 3)) == []
        (state,) = saved.states(TABLE, 2, 3)
        same(state, 2)


def test_any_tool_shows_them(step: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(step / SHARD, "r") as file:
        assert (file["tables/item/state/sightings"][()] == counts(1)).all()
        assert file["tables/item/state/sightings"].chunks is None
    assert main(["ckpt", "tree", str(step)]) == 0
    assert "state/sightings  uint16 (4, 1024)\n" in capsys.readouterr().out
    assert main(["ckpt", "tree", str(step), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["tables"][0]
    assert [state["counters"] for state in table["states"]] == [{"sighted": 40}, {"sighted": 41}, {"sighted": 42}]


def test_a_checkpoint_without_them_is_read(tmp_path: Path) -> None:
    step = making.save(tmp_path, [TABLE], [DATA], servers=3)
    raw = json.loads((step / "manifest.json").read_bytes())
    assert "states" not in raw["tables"][0]  # as older ones are
    with Saved(step) as saved:
        assert [s.arrays for servers in (1, 3) for s in saved.states(TABLE, 0, servers)] == [{}] * 4
        assert len(list(saved.rows(TABLE, 0, 3))) > 0


def test_a_reader_that_does_not_know_them_reads_the_rest(step: Path) -> None:
    """The version is the same as without."""
    manifest = schema.load_manifest(step)
    assert manifest.version == 2
    plain = structs.replace(manifest.tables[0], states=[])
    (step / "manifest.json").write_bytes(schema.encode(structs.replace(manifest, tables=[plain])))
    with Saved(step) as saved:
        found = making.gathered([p for s in range(3) for p in saved.rows(TABLE, s, 3)], DATA)
        assert found.sorted().bits() == DATA.sorted().bits()


def test_damaged_bytes_are_found_and_named(step: Path) -> None:
    with h5py.File(step / SHARD, "r") as file:
        at = file["tables/item/state/sightings"].id.get_offset() + 5000
    dense.flip(step / SHARD, at)
    (finding,) = verify(step).findings
    assert str(finding) == f"{SHARD}: table 'item': state/sightings: does not match its checksum"
    with Saved(step) as saved:
        list(saved.states(TABLE, 0, 3))
        for servers in (2, 3):
            with pytest.raises(CheckpointError, match=f"{SHARD}: state/sightings of table 'item': does not match its checksum"):
                list(saved.states(TABLE, 1, servers))


def changed(step: Path, change: Callable[[Any], None]) -> str:
    """Change a shard as a whole and say what is wrong then."""
    with h5py.File(step / SHARD, "r+") as file:
        change(file)
    dense.keep_sizes(step)
    with pytest.raises(CheckpointError) as caught:
        Saved(step)
    assert str(caught.value).split(": ", 1)[1] in {finding.what for finding in verify(step).findings}
    return str(caught.value)


def test_other_structure_is_found(step: Path) -> None:
    def narrow(file: Any) -> None:
        del file["tables/item/state/sightings"]
        file["tables/item/state/sightings"] = counts(1)[:, :512]

    assert changed(step, narrow).endswith("/tables/item/state/sightings is not 4 x 1024 elements of uint16")

    def remove(file: Any) -> None:
        del file["tables/item/state"]

    assert changed(step, remove).endswith("/tables/item/state/sightings is missing")


def test_a_manifest_that_says_something_else_is_found(step: Path) -> None:
    manifest = schema.load_manifest(step)
    table = manifest.tables[0]

    def write(states: Any) -> None:
        changed = structs.replace(table, states=states)
        (step / "manifest.json").write_bytes(schema.encode(structs.replace(manifest, tables=[changed])))

    write([schema.State({"sighted": 1}, state.arrays) if state else None for state in table.states])
    assert {finding.what for finding in verify(step).findings} == {"its index differs from the manifest"}
    write(table.states[:2])
    with pytest.raises(CheckpointError, match="table 'item': its rows are not the rows of its blocks"):
        Saved(step)
