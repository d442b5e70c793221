"""What a server hands to whatever writes checkpoints: a cut, and the pieces of its shard.

The server knows when (all folds of a clock are published and none of the next has begun), the saver knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mpips.table import Table

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Cut:
    """One moment of the whole job: every push of worker k in its clocks below `clocks[k]` is in, nothing else is."""

    clocks: tuple[int, ...]

    @property
    def clock(self) -> int:
        """The clock that names the checkpoint: the furthest of the workers' (under BSP they are equal until one ends)."""
        return max(self.clocks, default=0)


@dataclass(frozen=True)
class Piece:
    """One block of the shard: its published values, its slots, and how often it was folded."""

    table: Table
    index: int
    start: int
    stop: int
    folds: int
    value: Array  # (stop - start,), the table's dtype; not changed while the saver runs
    slots: Mapping[str, Array]  # (stop - start,) each, the compute dtype


@dataclass(frozen=True)
class RowState:
    """What a server keeps of a table of rows beside its rows.

    Attributes:
        server: whose it is.
        counters, arrays: by name, see `mpips.server.row_table` and `population`; not changed while the saver runs.
    """

    server: int
    counters: Mapping[str, int]
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class RowPiece:
    """Some rows of a table of rows: as they lie on one server, or read from a checkpoint.

    Attributes:
        ids: (n,) int64; ascending where the table has rows=N.
        folds: (n,) int32, how often each row was folded.
        value: (n, dim), the table's dtype.
        slots: by name, (n, dim), or (n,) of a slot that has one number for each row.
    """

    table: Table
    ids: Array
    folds: Array
    value: Array
    slots: Mapping[str, Array]


@dataclass(frozen=True)
class RowShard:
    """All rows of a table of rows on one server, and what it keeps beside them.

    Attributes:
        rows: how many.
        pieces: makes them, some megabytes at a time, as the saver comes to them; each may be empty.
    """

    table: Table
    rows: int
    state: RowState
    pieces: Callable[[], Iterator[RowPiece]]


class Saver(Protocol):
    """Writes and publishes checkpoints; each generator yields between slices, so that the server can poll."""

    def write_shard(self, cut: Cut, server: int, servers: int, pieces: Sequence[Piece | RowShard]) -> Iterator[None]:
        """Write one server's file under its final name, data on disk when the generator ends."""

    def publish(self, cut: Cut, servers: int, tables: Sequence[Table]) -> Iterator[None]:
        """On server 0, after every shard is there: the master file, then the manifest that makes it complete."""


class Restored(Protocol):
    """A checkpoint to start from, as a server reads it."""

    @property
    def clocks(self) -> tuple[int, ...]:
        """Clock of each worker of the run that saved it."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that it holds."""

    def check(self, tables: Sequence[Table], *, more: bool = False, seed: int | None = None) -> None:
        """Raise CheckpointError that names the tables in which it differs from `tables`; with `more` it may hold others, too.

        `seed` is that of the run, which matters where rows are yet to be born.
        """

    def read(self, table: str, slot: str | None, start: int, stop: int) -> Array:
        """Return the flat elements `start:stop` of a table's values (`slot=None`) or of one of its slots."""

    def rows(self, table: Table, server: int, servers: int) -> Iterator[RowPiece]:
        """Yield the saved rows of a table of rows, some megabytes at a time; maybe also such as belong to other servers.

        Who restores server `server` of `servers` takes those that are its own. If the checkpoint was saved by as many servers, only
        the shard of this one is read.
        """

    def states(self, table: Table, server: int, servers: int) -> Iterator[RowState]:
        """Yield what servers kept beside these rows: only this one's own if the checkpoint was saved by as many, else all."""

    def folds(self, table: str, index: int) -> int:
        """Return how often block `index` of the table had been folded."""

    def close(self) -> None:
        """Close its files: what removes it later frees its room on the disk."""
