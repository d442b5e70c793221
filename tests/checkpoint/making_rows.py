"""Makes tables of rows, the pieces a server would hand over, and checkpoints; NumPy arrays are the truth."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpips.checkpoint.saver import DirectorySaver
from mpips.server.saving import Array, Cut, RowPiece, RowShard, RowState
from mpips.table import Rows

WISE = "acc"  # slots with this beginning have one number for each row


@dataclass(frozen=True)
class Rule:
    """An optimizer with any slots."""

    slots: tuple[str, ...] = ("m", WISE)
    lr: float = 0.1

    @property
    def row_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot.startswith(WISE))

    def describe(self) -> dict[str, Any]:
        return {"name": f"rule of {'-'.join(self.slots)}", "lr": self.lr}


@dataclass(frozen=True)
class Truth:
    """All rows of a table, in the order of their ids where it has rows=N."""

    ids: Array
    folds: Array
    value: Array
    slots: dict[str, Array]

    def of(self, which: Array) -> Truth:
        return Truth(self.ids[which], self.folds[which], self.value[which], {s: a[which] for s, a in self.slots.items()})

    def sorted(self) -> Truth:
        return self.of(np.argsort(self.ids))

    def bits(self) -> dict[str, tuple[Any, ...]]:
        arrays = {"ids": self.ids, "folds": self.folds, "value": self.value, **self.slots}
        return {name: (a.shape, a.dtype, a.tobytes()) for name, a in arrays.items()}


def truth(table: Rows, alive: int = 0, salt: int = 0) -> Truth:
    """Random bits for every row; `alive` rows with ids from the whole range where rows are born."""
    rng = np.random.default_rng([zlib.crc32(table.name.encode()), salt])
    n = alive if table.rows is None else table.rows
    ids = np.arange(n)
    if table.rows is None:
        ids = np.unique(np.concatenate([np.array([-1 << 63, (1 << 63) - 1, 0]), rng.integers(-1 << 63, 1 << 63, n)]))
        ids = rng.permutation(ids)[:n]

    def draw(*shape: int, dtype: Any) -> Array:
        return np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)

    slots = {s: draw(*((n,) if s.startswith(WISE) else (n, table.dim)), dtype=table.compute_dtype) for s in table.optimizer.slots}
    return Truth(ids, draw(n, dtype=np.int32), draw(n, table.dim, dtype=table.np_dtype), slots)


def server_of(table: Rows, ids: Array, servers: int) -> Array:
    if table.rows is not None:
        return ids % servers
    return ((ids.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)).astype(np.int64) % servers


def pieces(table: Rows, data: Truth, server: int, servers: int, per: int = 3) -> list[RowPiece]:
    """The rows of one server, some in each piece, with an empty piece between; none where it has no rows."""
    mine = np.flatnonzero(server_of(table, data.ids, servers) == server)
    cuts = [part for at in range(0, len(mine), per) for part in (mine[at : at + per], mine[:0])]
    return [RowPiece(table, p.ids, p.folds, p.value, p.slots) for p in map(data.of, cuts)]


def shard(table: Rows, found: Sequence[RowPiece], server: int = 0, state: RowState | None = None) -> RowShard:
    """Pieces as a saver gets them."""
    return RowShard(table, sum(len(p.ids) for p in found), state or RowState(server, {}, {}), lambda: iter(found))


def save(directory: Path, tables: Sequence[Rows], data: Sequence[Truth], *, servers: int = 2, per: int = 3, clock: int = 10,
         more: Any = None) -> Path:
    """Write a checkpoint and return its directory; `more(server)` gives pieces of other tables, whose tables it has, too."""
    saver, cut = DirectorySaver(directory, mpi="none", seed=3), Cut((clock,))

    def steps() -> Iterator[None]:
        for server in range(servers):
            own = [shard(table, found, server) for table, rows in zip(tables, data, strict=True)
                   if (found := pieces(table, rows, server, servers, per))]
            yield from saver.write_shard(cut, server, servers, [*(more(server) if more else []), *own])
        yield from saver.publish(cut, servers, [*(more.tables if more else []), *tables])

    for _ in steps():
        pass
    return directory / f"step-{clock:08d}"


def gathered(found: Sequence[RowPiece], like: Truth) -> Truth:
    """Join pieces, in the order in which they came."""
    if not found:
        return like.of(np.zeros(0, np.int64))
    return Truth(*(np.concatenate([getattr(p, key) for p in found]) for key in ("ids", "folds", "value")),
                 {s: np.concatenate([p.slots[s] for p in found]) for s in like.slots})
