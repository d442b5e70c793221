"""One server's file: its blocks of every table, one dataset for each array, checksums taken on the way.

Written in slices of about `SLICE` bytes with a yield after each, so that the server polls in between.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mpips.checkpoint.disk import Life, commit, replacing, sync_directory
from mpips.checkpoint.hdf5 import create, new, put
from mpips.checkpoint.schema import (
    INDEX,
    VALUE,
    Job,
    ShardIndex,
    ShardTable,
    crc32,
    dataset,
    encode,
    shard_name,
    slot_array,
    step_name,
    stored,
)

if TYPE_CHECKING:
    from mpips.server.saving import Cut, Piece

Array = np.ndarray[Any, np.dtype[Any]]
SLICE = 8 << 20


def write_shard(directory: Path, cut: Cut, server: int, servers: int, pieces: Sequence[Piece], *, life: Life,
                revision: int = 0) -> Iterator[None]:
    """Write the pieces of one server under the final name of its shard; it is on disk when the generator ends.

    Raises:
        MpipsError: the disk refuses; the text names the file and the machine.
    """
    step = directory / step_name(cut.clock)
    final = step / shard_name(server, servers, revision)
    by_table: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_table.setdefault(piece.table.name, []).append(piece)
    tables: dict[str, ShardTable] = {}
    with replacing(final, life) as path:
        step.mkdir(parents=True, exist_ok=True)
        sync_directory(directory)
        final.unlink(missing_ok=True)  # of an earlier life, named by no manifest: nobody shall take it for the new one
        with create(path, cut.clock) as file:
            for name, mine in by_table.items():
                tables[name] = yield from _write_table(file, name, sorted(mine, key=lambda p: p.index))
            raw = encode(ShardIndex(clocks=list(cut.clocks), server=server, servers=servers,
                                    job=Job(id=life.job, restart=life.restart), tables=tables))
            file.create_dataset(INDEX, data=np.array(raw, h5py.string_dtype("utf-8", len(raw))))
        yield from commit(path, final)


def _write_table(file: Any, name: str, pieces: Sequence[Piece]) -> Generator[None, None, ShardTable]:
    """Write all arrays of one table; the generator's value is its entry in the index."""
    kept: list[dict[str, Array]] = [{VALUE: p.value, **{slot_array(s): a for s, a in p.slots.items()}} for p in pieces]
    arrays = {array: data.dtype.name for array, data in kept[0].items()}
    sums: dict[str, list[int]] = {array: [] for array in arrays}
    total = sum(p.stop - p.start for p in pieces)
    written = 0
    for array, dtype in arrays.items():
        out = new(file, dataset(name, array), (total,), dtype)
        at = 0
        for piece, data_of in zip(pieces, kept, strict=True):
            data = stored(data_of[array])
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
