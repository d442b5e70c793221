"""One server's file: its blocks (or rows) of every table, one dataset for each array, checksums taken on the way.

Written in slices of about `SLICE` bytes with a yield after each, so that the server polls in between.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mpips.checkpoint.disk import Life, commit, replacing, sync_directory
from mpips.checkpoint.hdf5 import create, new, put
from mpips.checkpoint.schema import (
    FOLDS,
    IDS,
    INDEX,
    VALUE,
    Job,
    Kept,
    ShardIndex,
    ShardTable,
    State,
    crc32,
    dataset,
    encode,
    shard_name,
    slot_array,
    state_array,
    step_name,
    stored,
    version_of,
)
from mpips.errors import MpipsError
from mpips.table import Rows

if TYPE_CHECKING:
    from mpips.server.saving import Cut, Piece, RowShard, RowState

Array = np.ndarray[Any, np.dtype[Any]]
SLICE = 8 << 20


def write_shard(directory: Path, cut: Cut, server: int, servers: int, pieces: Sequence[Piece | RowShard], *,
                life: Life, revision: int = 0) -> Iterator[None]:
    """Write the pieces of one server under the final name of its shard; it is on disk when the generator ends.

    Raises:
        MpipsError: the disk refuses; the text names the file and the machine. Or rows are not in their order.
    """
    step = directory / step_name(cut.clock)
    final = step / shard_name(server, servers, revision)
    by_table: dict[str, list[Any]] = {}
    for piece in pieces:
        by_table.setdefault(piece.table.name, []).append(piece)
    tables: dict[str, ShardTable] = {}
    with replacing(final, life) as path:
        life.check(directory)
        step.mkdir(parents=True, exist_ok=True)
        sync_directory(directory)
        final.unlink(missing_ok=True)  # of an earlier life, named by no manifest: nobody shall take it for the new one
        rows = any(isinstance(mine[0].table, Rows) for mine in by_table.values())
        with create(path, cut.clock, 2 if rows else 1) as file:
            for name, mine in by_table.items():
                if isinstance(mine[0].table, Rows):
                    tables[name] = yield from _write_rows(file, mine[0].table, mine[0], range(server, 1 << 62, servers))
                else:
                    tables[name] = yield from _write_blocks(file, name, sorted(mine, key=lambda p: p.index))
            raw = encode(ShardIndex(version=version_of(tables.values()), clocks=list(cut.clocks), server=server, servers=servers,
                                    job=Job(id=life.job, restart=life.restart), tables=tables))
            file.create_dataset(INDEX, data=np.array(raw, h5py.string_dtype("utf-8", len(raw))))
        yield from commit(path, final, life)


def _write_blocks(file: Any, name: str, pieces: Sequence[Piece]) -> Generator[None, None, ShardTable]:
    """Write all arrays of a dense table; the generator's value is its entry in the index."""
    parts = [{VALUE: p.value, **{slot_array(s): a for s, a in p.slots.items()}} for p in pieces]
    arrays = _dtypes(parts[0])
    sums: dict[str, list[int]] = {array: [] for array in arrays}
    total, written = sum(p.stop - p.start for p in pieces), 0
    for array, dtype in arrays.items():
        out, at = new(file, dataset(name, array), (total,), dtype), 0
        for piece, part in zip(pieces, parts, strict=True):
            data = stored(part[array])
            assert data.shape == (piece.stop - piece.start,)
            put(out, at, data)
            sums[array].append(crc32(data))
            at += data.size
            written += data.nbytes
            if written >= SLICE:
                written = 0
                yield
    yield
    return ShardTable(arrays=arrays, index=[p.index for p in pieces], start=[p.start for p in pieces],
                      stop=[p.stop for p in pieces], folds=[p.folds for p in pieces], crc32=sums)


def _write_rows(file: Any, table: Rows, shard: RowShard, own: range) -> Generator[None, None, ShardTable]:
    """Write all arrays of a table of rows; `own` are the ids that this server has in their order, where ids are numbered."""
    arrays: dict[str, str] = {}
    single: list[str] = []
    outs: dict[str, Any] = {}
    sums: dict[str, list[int]] = {}
    stops, written = [0], 0
    for p in shard.pieces():
        n, at = len(p.ids), stops[-1]
        if table.rows is not None and not np.array_equal(p.ids, np.arange(n) * own.step + own[at]):
            raise MpipsError(f"checkpoint: server {own.start} has not its rows of table '{table.name}' in the order of their ids")
        part = {VALUE: p.value, **{slot_array(s): a for s, a in p.slots.items()}, FOLDS: p.folds,
                **({IDS: p.ids} if table.rows is None else {})}
        assert p.value.shape == (n, table.dim)
        assert {a.shape for a in p.slots.values()} <= {(n,), (n, table.dim)}
        assert (p.folds.dtype.name, p.ids.dtype.name) == ("int32", "int64")
        if not arrays:
            arrays, single = _dtypes(part), [array for array, data in part.items() if data.ndim == 1]
            sums = {array: [] for array in arrays}
        if not n:  # a block has a row
            continue
        for array, data in part.items():
            raw = stored(data)
            if array not in outs:
                outs[array] = new(file, dataset(table.name, array), (shard.rows, *data.shape[1:]), arrays[array])
            put(outs[array], at, raw)
            sums[array].append(crc32(raw))
            written += raw.nbytes
        stops.append(at + n)
        if written >= SLICE:
            written = 0
            yield
    assert stops[-1] == shard.rows
    yield
    blocks = len(stops) - 1
    state = yield from _write_state(file, table.name, shard.state)
    return ShardTable(arrays=arrays, index=list(range(blocks)), start=stops[:-1], stop=stops[1:], folds=[], crc32=sums,
                      single=single, state=state if state.counters or state.arrays else None)


def _write_state(file: Any, name: str, state: RowState) -> Generator[None, None, State]:
    """Write what a server keeps beside the rows of a table; the generator's value is its entry in the index."""
    arrays: dict[str, Kept] = {}
    for array, data in state.arrays.items():
        out, crc = new(file, dataset(name, state_array(array)), data.shape, data.dtype.name), 0
        for row in range(len(data)):
            part = stored(data[row : row + 1])
            put(out, row, part)
            crc = crc32(part, crc)
            yield
        arrays[array] = Kept(data.dtype.name, list(data.shape), crc)
    return State(dict(state.counters), arrays)


def _dtypes(part: Mapping[str, Array]) -> dict[str, str]:
    return {array: data.dtype.name for array, data in part.items()}
