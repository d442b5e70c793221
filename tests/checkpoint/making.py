"""Makes tables, the pieces a server would hand over, and checkpoints; NumPy arrays are the truth."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from mpips import layout, optim
from mpips.checkpoint import schema
from mpips.checkpoint.disk import Life
from mpips.checkpoint.saver import DirectorySaver
from mpips.layout import place
from mpips.server.saving import Cut, Piece
from mpips.table import Dense

Truth = dict[tuple[str, str | None], np.ndarray[Any, np.dtype[Any]]]


SMALL = 64  # bytes of a block under `small_blocks`
SGD = optim.SGD(lr=0.1)
ADAM = optim.Adam(lr=0.1)


def slots_of(table: Dense) -> tuple[str, ...]:
    return (*(("master",) if table.half and table.master else ()), *table.optimizer.slots)


def truth(tables: Sequence[Dense], salt: int = 0) -> Truth:
    """Random bits for every table and slot, flat; NaNs and infinities among them."""
    out: Truth = {}
    for table in tables:
        for slot in (None, *slots_of(table)):
            dtype = table.np_dtype if slot is None else table.compute_dtype
            rng = np.random.default_rng([zlib.crc32(f"{table.name}:{slot}".encode()), salt])
            out[table.name, slot] = np.frombuffer(rng.bytes(table.size * dtype.itemsize), dtype)
    return out


def folds_of(table: str, index: int) -> int:
    return zlib.crc32(table.encode()) % 7 + index


def pieces(tables: Sequence[Dense], servers: int, server: int, data: Truth) -> list[Piece]:
    out = []
    for block in place(tables, servers).on(server):
        table = tables[block.table]
        part = slice(block.start, block.stop)
        out.append(Piece(table, block.index, block.start, block.stop, folds_of(table.name, block.index),
                         data[table.name, None][part], {s: data[table.name, s][part] for s in slots_of(table)}))
    return out


def saving(saver: DirectorySaver, cut: Cut, servers: int, tables: Sequence[Dense], data: Truth) -> Iterator[None]:
    """All steps of one checkpoint, the servers one after another."""
    for server in range(servers):
        yield from saver.write_shard(cut, server, servers, pieces(tables, servers, server, data))
    yield from saver.publish(cut, servers, tables)


def save(directory: Path, tables: Sequence[Dense], *, servers: int = 2, clocks: tuple[int, ...] = (10, 10),
         salt: int = 0, life: Life | None = None, **settings: Any) -> Path:
    """Write a checkpoint and return its directory."""
    saver = DirectorySaver(directory, life=life, **{"meta": {"model": "m"}, "seed": 3, "mpi": "none", **settings})
    for _ in saving(saver, Cut(clocks), servers, tables, truth(tables, salt)):
        pass
    return directory / f"step-{max(clocks):08d}"


@contextmanager
def small_blocks() -> Iterator[None]:
    """Let small tables have many blocks and lie on many servers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK", SMALL)
        patch.setattr(layout, "WHOLE", SMALL)
        yield


def keep_sizes(step: Path) -> None:
    """Let the manifest agree with the new sizes of the shards, as a careless tool might."""
    manifest = schema.load_manifest(step)
    shards = [schema.Shard(file=s.file, bytes=(step / s.file).stat().st_size) for s in manifest.shards]
    (step / "manifest.json").write_bytes(schema.encode(structs.replace(manifest, shards=shards)))


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal dtype and bits."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()
