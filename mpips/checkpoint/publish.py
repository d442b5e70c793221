"""After the shards: the master, then the manifest whose rename makes the checkpoint complete, then removal.

If the clock has a complete checkpoint already (the same clock again after a resume), new shards have other names. So
at every moment `manifest.json` and `model.h5` each name files that are whole: all of the old one, then all of the new.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

import mpips
from mpips import layout
from mpips.checkpoint.disk import Life, sync_directory
from mpips.checkpoint.master import write_master
from mpips.checkpoint.schema import (
    FOLDS,
    H5_ERRORS,
    IDS,
    INDEX,
    Blocks,
    Job,
    Manifest,
    SavedTable,
    Shard,
    ShardIndex,
    decode,
    row_slots,
    shard_name,
    slot_array,
    step_name,
    version_of,
)
from mpips.checkpoint.tidy import prune, settle, write_manifest
from mpips.errors import CheckpointError, MpipsError
from mpips.table import Rows, Table

if TYPE_CHECKING:
    from mpips.server.saving import Cut

VISIBLE = 60.0  # seconds that a network file system may take to show another node's file


def publish(directory: Path, cut: Cut, servers: int, tables: Sequence[Table], *, life: Life, revision: int = 0,
            serial: int = 1, seed: int = 0, meta: Any = None, mpi: str = "", keep_last: int | None = None,
            visible: float = VISIBLE) -> Iterator[None]:
    """Complete the checkpoint of `cut`, whose shards are all written.

    Raises:
        MpipsError: a shard does not appear within `visible` seconds, a block is in no shard, or the disk refuses.
    """
    step = directory / step_name(cut.clock)
    shards, indexes = [], []
    for server in range(servers):
        path = step / shard_name(server, servers, revision)
        indexes.append((yield from _index(path, cut, server, servers, visible)))
        shards.append(Shard(file=path.name, bytes=path.stat().st_size))
    gathered = [_rows(t, indexes) if isinstance(t, Rows) else _blocks(t, indexes) for t in tables]
    found = [table for table in gathered if table is not None]
    master = yield from write_master(step, cut.clock, shards, found, life)
    yield
    manifest = Manifest(version=version_of(found), serial=serial, clock=cut.clock, clocks=list(cut.clocks), revision=revision,
                        seed=seed, versions=versions(mpi), job=Job(id=life.job, restart=life.restart), servers=servers,
                        shards=shards, master=master, tables=found, meta=meta)
    yield from write_manifest(step, manifest, life)
    sync_directory(directory)
    yield
    yield from settle(step, manifest, life)
    if keep_last is not None:
        yield from prune(directory, cut.clock, keep_last, life)


def _index(path: Path, cut: Cut, server: int, servers: int, visible: float) -> Generator[None, None, ShardIndex]:
    """Wait until this file system shows the shard; the generator's value is its index."""
    end = time.monotonic() + visible
    while not path.parent.is_dir() or path.name not in {e.name for e in path.parent.iterdir()}:  # a listing is fresh
        if time.monotonic() > end:
            raise MpipsError(f"checkpoint {path}: server {server} has written it, but it does not appear on "
                             f"{socket.gethostname()} after {visible:g} s; is the directory shared by all nodes?")
        time.sleep(0.001)
        yield
    yield
    index = read_index(path)
    if (index.clocks, index.server, index.servers) != (list(cut.clocks), server, servers):
        raise MpipsError(f"checkpoint {path}: this is another shard, of clocks {index.clocks}, server {index.server}")
    return index


def read_index(path: Path) -> ShardIndex:
    """Return what a shard says about itself, or raise CheckpointError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            raw = bytes(file[INDEX][()])
    except H5_ERRORS as error:
        raise CheckpointError(f"{path}: {error}") from error
    return decode(raw, ShardIndex, f"{path}:/{INDEX}")


def _blocks(table: Table, indexes: Sequence[ShardIndex]) -> SavedTable | None:
    """Gather a table's blocks from the shards; None if no shard has any of them: it was created after the cut."""
    cells = layout.grid(table.size, table.np_dtype.itemsize)
    parts = [(number, index.tables[table.name]) for number, index in enumerate(indexes) if table.name in index.tables]
    if cells and not parts:
        return None
    arrays = parts[0][1].arrays if parts else _arrays(table)
    shard, at, folds = [-1] * len(cells), [0] * len(cells), [0] * len(cells)
    sums = {array: [0] * len(cells) for array in arrays}
    for number, part in parts:
        if part.arrays != arrays:
            raise MpipsError(f"checkpoint: the servers keep different arrays for table '{table.name}'")
        first = 0
        for k, index in enumerate(part.index):
            if (part.start[k], part.stop[k]) != cells[index] or shard[index] >= 0:
                raise MpipsError(f"checkpoint: block {index} of table '{table.name}' is off its grid or there twice")
            shard[index], at[index], folds[index] = number, first, part.folds[k]
            first += part.stop[k] - part.start[k]
            for array in arrays:
                sums[array][index] = part.crc32[array][k]
    if -1 in shard:
        raise MpipsError(f"checkpoint: block {shard.index(-1)} of table '{table.name}' is in no shard")
    return SavedTable(describe=table.describe(), block=layout.BLOCK // table.np_dtype.itemsize, arrays=arrays,
                      blocks=Blocks(shard=shard, at=at, folds=folds, crc32=sums))


def _rows(table: Rows, indexes: Sequence[ShardIndex]) -> SavedTable | None:
    """Gather the blocks of a table of rows; None if no shard has rows that must be there: it was created after the cut."""
    parts = {server: index.tables[table.name] for server, index in enumerate(indexes) if table.name in index.tables}
    if table.rows and not parts:
        return None
    some = next(iter(parts.values()), None)
    arrays = some.arrays if some else {**_arrays(table), FOLDS: "int32", **({IDS: "int64"} if table.rows is None else {})}
    single = some.single if some else [array for array in arrays if array in (FOLDS, IDS, *row_slots(table))]
    blocks = Blocks(shard=[], at=[], folds=[], crc32={array: [] for array in arrays}, first=[], rows=[])
    step, first = (len(indexes), 0) if table.rows is not None else (1, 0)
    for server in range(len(indexes)):
        part = parts.get(server)
        if part and (part.arrays, part.single) != (arrays, single):
            raise MpipsError(f"checkpoint: the servers keep different arrays for table '{table.name}'")
        have = part.stop[-1] if part and part.stop else 0
        if table.rows is not None:
            own = len(range(server, table.rows, step))
            if have != own:
                raise MpipsError(f"checkpoint: server {server} has written {have} rows of table '{table.name}' and not its {own}")
            first = server
        if part:
            blocks.shard.extend([server] * len(part.index))
            blocks.at.extend(part.start)
            blocks.first.extend(first + step * start for start in part.start)
            blocks.rows.extend(stop - start for start, stop in zip(part.start, part.stop, strict=True))
            for array, sums in part.crc32.items():
                blocks.crc32[array].extend(sums)
        first += have  # where rows are born, they stand in the order of the servers
    states = [parts[server].state if server in parts else None for server in range(len(indexes))]
    return SavedTable(describe=table.describe(), arrays=arrays, blocks=blocks, step=step, single=single,
                      states=states if any(states) else [])


def _arrays(table: Table) -> dict[str, str]:
    """Arrays of an empty table, of which no server has a block."""
    slots = (*(("master",) if table.half and table.master else ()), *table.optimizer.slots)
    return {slot_array(None): table.dtype, **{slot_array(slot): table.compute_dtype.name for slot in slots}}


def versions(mpi: str = "") -> dict[str, str]:
    """Versions of everything that had a part in the file; `mpi` is the text of the MPI library."""
    return {"mpips": mpips.__version__, "numpy": np.__version__, "h5py": h5py.__version__,
            "hdf5": h5py.version.hdf5_version, "mpi": mpi}
