"""Reading a checkpoint: structure checked when it is opened, checksums whenever a block is read.

>>> import mpips, numpy as np                                       # doctest: +SKIP
>>> saved = Saved("runs/demo/step-00000100")                        # doctest: +SKIP
>>> saved.array("w").shape, saved.array("w", slot="m").dtype        # doctest: +SKIP
((64, 10), dtype('float32'))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mpips.checkpoint.compare import differences
from mpips.checkpoint.schema import (
    FOLDS,
    H5_ERRORS,
    IDS,
    LOGICAL,
    MANIFEST,
    MASTER,
    STORED,
    VALUE,
    Manifest,
    SavedTable,
    crc32,
    dataset,
    is_shard,
    load_manifest,
    logical,
    slot_array,
    state_array,
    steps,
)
from mpips.errors import CheckpointError, UnknownTable
from mpips.table import Rows, Table

if TYPE_CHECKING:
    from mpips.server.saving import RowPiece, RowState

Array = np.ndarray[Any, np.dtype[Any]]
NAMED = 5  # differences that an error spells out
ANEW = 'To begin anew from its values: init=mpips.init.array(mpips.Saved(PATH).array("w"))'


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the directory of the checkpoint that `path` (the directory, its master or its manifest) names."""
    try:
        return _locate(Path(path))
    except OSError as error:  # permissions, a name that is too long, a file system that has gone
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def _locate(given: Path) -> Path:
    step = given.parent if given.name in (MANIFEST, MASTER) else given
    if (step / MANIFEST).exists():
        return step
    if not given.exists():
        raise CheckpointError(f"{given}: no such checkpoint")
    if not step.is_dir():
        raise CheckpointError(f"{given}: not a checkpoint; name its directory, {MANIFEST} or {MASTER}")
    inside = [entry.name for _, entry in steps(step) if (entry / MANIFEST).exists()]
    if inside:
        few = "checkpoint, name it:" if len(inside) == 1 else "checkpoints, name one, such as"
        raise CheckpointError(f"{given}: holds {len(inside)} {few} {step / inside[-1]}")
    if (step / MASTER).exists() or any(is_shard(entry.name) for entry in step.iterdir()):
        raise CheckpointError(f"{given}: no {MANIFEST}, so this is not a complete checkpoint")
    raise CheckpointError(f"{given}: not a checkpoint")


class Saved:
    """One checkpoint, read from its shards and its manifest; the master is not needed.

    Args:
        path: the checkpoint's directory, or its `manifest.json` or `model.h5`.
        structure: look now whether every shard is there, whole, and has the arrays of the manifest.

    Raises:
        CheckpointError: not there, not complete, or a shard is missing, too short, or lacks arrays of the manifest.

    >>> with mpips.Saved("runs/digits/step-00000460") as saved:                       # doctest: +SKIP
    ...     saved.clock, saved.array("out.w").shape
    (460, (64, 10))
    """

    def __init__(self, path: str | os.PathLike[str], *, structure: bool = True) -> None:
        self.path = locate(path)
        self.manifest: Manifest = load_manifest(self.path)
        self._tables = {table.name: table for table in self.manifest.tables}
        self._files: dict[int, Any] = {}
        try:
            for number in range(len(self.manifest.shards) if structure else 0):
                problems = self.problems(number)
                if problems:
                    raise CheckpointError(f"{self.path / self.manifest.shards[number].file}: {problems[0][1]}")
        except CheckpointError:
            self.close()
            raise

    @property
    def clock(self) -> int:
        """The clock that names the checkpoint."""
        return self.manifest.clock

    @property
    def clocks(self) -> tuple[int, ...]:
        """Clock of each worker of the run that saved it."""
        return tuple(self.manifest.clocks)

    @property
    def seed(self) -> int:
        """Seed of the run that saved it."""
        return self.manifest.seed

    @property
    def meta(self) -> Any:
        """What the run gave to be kept beside the tables, as JSON values."""
        return self.manifest.meta

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, in their order."""
        return tuple(self._tables)

    def table(self, name: str) -> SavedTable:
        """Return the description of a table, or raise UnknownTable."""
        try:
            return self._tables[name]
        except KeyError:
            raise UnknownTable(f"{self.path}: no table '{name}'; it has {', '.join(self._tables) or 'none'}") from None

    def folds(self, table: str, index: int) -> int:
        """Return how often block `index` of a dense table had been folded."""
        return self._of(table, rows=False).blocks.folds[index]

    def check(self, tables: Sequence[Table], *, more: bool = False, seed: int | None = None) -> None:
        """Raise CheckpointError that names the tables in which the checkpoint differs from `tables`, and how.

        What must be equal stands at `compare.differences`. With `more`, the checkpoint may hold other tables too. `seed` is that of
        the run that goes on, which matters where rows are yet to be born.
        """
        wrong = [text for table in tables for text in differences(self._tables.get(table.name), table)]
        if seed not in (None, self.seed):
            wrong += [f"table '{table.name}': seed {self.seed} in the checkpoint, {seed} here; rows to be born follow from it"
                      for table in tables if isinstance(table, Rows) and table.seeded]
        if not more:
            names = {table.name for table in tables}
            wrong += [f"table '{name}' is in the checkpoint only" for name in self._tables if name not in names]
        if wrong:
            rest = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise CheckpointError(f"{self.path} is of other tables: {'; '.join(wrong[:NAMED])}{rest}. {ANEW}")

    def read(self, table: str, slot: str | None, start: int, stop: int) -> Array:
        """Return the flat elements `start:stop` of a dense table's values (`slot=None`) or of a slot, in a new array.

        Opens only the shards that hold them. A block is read whole, because its checksum is over the whole of it.

        Raises:
            UnknownTable: no such table.
            CheckpointError: no such slot or elements, or a block does not match its checksum.
        """
        saved = self._of(table, rows=False)
        array = self.array_name(table, slot)
        if not 0 <= start <= stop <= saved.size:
            raise CheckpointError(f"{self.path}: table '{table}' has {saved.size} elements, not {start}:{stop}")
        out = np.empty(stop - start, LOGICAL[saved.arrays[array]])
        for index in range(start // saved.block, -(-stop // saved.block) if start < stop else 0):
            first = index * saved.block
            block = self.block(table, array, index)
            a, b = max(start, first), min(stop, first + block.size)
            out[a - start : b - start] = block[a - first : b - first]
        return out

    def array(self, table: str, slot: str | None = None) -> Array:
        """Return a table's values or one of its slots whole.

        A dense table has its shape. The rows of a table with rows=N are in the order of their ids; where rows are born, all that
        there were stand in the order of `ids`.
        """
        saved = self.table(table)
        if saved.of_rows:
            return self.part(table, self.array_name(table, slot), 0, saved.units)
        return self.read(table, slot, 0, saved.size).reshape(saved.shape)

    def ids(self, table: str) -> Array:
        """Return the id of each row of `array(table)`, int64."""
        saved = self._of(table, rows=True)
        return self.part(table, IDS, 0, saved.units) if saved.has_ids else np.arange(saved.units, dtype=np.int64)

    def part(self, table: str, array: str, start: int, stop: int) -> Array:
        """Return rows `start:stop` of an array ("value", "slots/<slot>", "folds" or "ids") of a table of rows.

        They are counted as in `array`. Opens only the shards that hold them; blocks are read whole.
        """
        saved = self._of(table, rows=True)
        if array not in saved.arrays:
            raise CheckpointError(f"{self.path}: table '{table}' has no array '{array}'; there are: {', '.join(saved.arrays)}")
        if not 0 <= start <= stop <= saved.units:
            raise CheckpointError(f"{self.path}: table '{table}' has {saved.units} rows, not {start}:{stop}")
        out = np.empty((stop - start, *saved.trail(array)), LOGICAL[saved.arrays[array]])
        for index, place in enumerate(saved.places):
            low = max(0, -((place.start - start) // place.step))  # the first row of the block that is not before `start`
            high = min(len(place), -((place.start - stop) // place.step))
            if low < high:
                out[place[low] - start : stop - start : place.step][: high - low] = self.block(table, array, index)[low:high]
        return out

    def rows(self, table: Table, server: int, servers: int) -> Iterator[RowPiece]:
        """Yield the saved rows of a table of rows, block by block; all that are of server `server` of `servers` are among them.

        If the checkpoint was saved by as many servers, that is only its own shard; otherwise other servers' rows come too.

        Raises:
            UnknownTable: no such table.
            CheckpointError: it is not of rows, or a block does not match its checksum.
        """
        from mpips.server.saving import RowPiece  # only a server needs it, and it takes a tenth of a second

        saved = self._of(table.name, rows=True)
        wrote = self.manifest.servers
        # ids of shard s are s, s + wrote, ..., and this server's are server, server + servers, ...
        common = servers if wrote == servers else 1 if saved.has_ids else gcd(wrote, servers)
        for index, shard in enumerate(saved.blocks.shard):
            if (shard - server) % common:
                continue
            place = saved.place(index)
            found = {array: self.block(table.name, array, index) for array in saved.arrays}
            ids = found.pop(IDS) if saved.has_ids else np.arange(place.start, place.stop, place.step, dtype=np.int64)
            value, folds = found.pop(VALUE), found.pop(FOLDS)
            yield RowPiece(table, ids, folds, value, {array.removeprefix(slot_array("")): a for array, a in found.items()})

    def states(self, table: Table, server: int, servers: int) -> Iterator[RowState]:
        """Yield what servers kept beside these rows: only this one's own if the checkpoint was saved by as many, else all."""
        from mpips.server.saving import RowState

        saved = self._of(table.name, rows=True)
        for shard in [server] if self.manifest.servers == servers else range(self.manifest.servers):
            state = saved.state(shard)
            yield RowState(shard, state.counters, {name: self.kept(table.name, shard, name) for name in state.arrays})

    def kept(self, table: str, shard: int, name: str) -> Array:
        """Return an array that the server of a shard kept beside the rows of a table, its checksum compared."""
        want = self.table(table).state(shard).arrays[name]
        array = state_array(name)
        where = f"{self.path / self.manifest.shards[shard].file}: {array} of table '{table}'"
        try:
            raw: Array = self._file(shard)[dataset(table, array)][()]
        except H5_ERRORS as error:
            raise CheckpointError(f"{where}: {error}") from error
        if list(raw.shape) != want.shape or crc32(raw) != want.crc32:
            raise CheckpointError(f"{where}: does not match its checksum")
        return logical(raw, want.dtype)

    def block(self, table: str, array: str, index: int) -> Array:
        """Return one block of an array ("value" or "slots/<slot>"), its checksum compared."""
        saved = self.table(table)
        raw = self.raw_block(table, array, index)
        if crc32(raw) != saved.blocks.crc32[array][index]:
            file = self.path / self.manifest.shards[saved.blocks.shard[index]].file
            raise CheckpointError(f"{file}: block {index} of table '{table}' ({array}) does not match its checksum")
        return logical(raw, saved.arrays[array])

    def raw_block(self, table: str, array: str, index: int) -> Array:
        """Return one block of an array as it is stored, its checksum not compared."""
        saved = self.table(table)
        shard, at, units = saved.blocks.shard[index], saved.blocks.at[index], len(saved.place(index))
        file = self.path / self.manifest.shards[shard].file
        try:
            raw: Array = self._file(shard)[dataset(table, array)][at : at + units]
        except H5_ERRORS as error:
            raise CheckpointError(f"{file}: {array} of table '{table}': {error}") from error
        if raw.shape != (units, *saved.trail(array)):
            raise CheckpointError(f"{file}: {array} of table '{table}': block {index} is not there")
        return raw

    def problems(self, number: int) -> list[tuple[str | None, str]]:
        """Return (table, what is wrong) about one shard: its size, and every array that it should have."""
        shard = self.manifest.shards[number]
        path = self.path / shard.file
        if not path.is_file():
            return [(None, "missing")]
        size = path.stat().st_size
        if size != shard.bytes:
            return [(None, f"{size} bytes, {shard.bytes} were written")]
        try:
            file = self._file(number)
        except H5_ERRORS as error:
            return [(None, str(error))]
        out: list[tuple[str | None, str]] = []
        for table in self.manifest.tables:
            length = table.lengths().get(number)
            want = {} if length is None else {a: (dtype, (length, *table.trail(a))) for a, dtype in table.arrays.items()}
            want |= {state_array(name): (kept.dtype, tuple(kept.shape)) for name, kept in table.state(number).arrays.items()}
            for array, (dtype, shape) in want.items():
                try:
                    found = h5py.h5d.open(file.id, dataset(table.name, array).encode())
                    good = (found.shape, found.dtype) == (shape, np.dtype(STORED[dtype]))
                    what = "" if good else f"is not {' x '.join(map(str, shape))} elements of {dtype}"
                except KeyError:
                    what = "is missing"
                except H5_ERRORS as error:
                    what = f"cannot be opened: {error}"
                if what:
                    out.append((table.name, f"/{dataset(table.name, array)} {what}"))
        return out

    def array_name(self, table: str, slot: str | None) -> str:
        """Return the name of the array of a slot (None: of the values), or raise CheckpointError."""
        saved, array = self.table(table), slot_array(slot)
        if array not in saved.arrays:
            slots = ", ".join(a.removeprefix("slots/") for a in saved.arrays if a.startswith("slots/"))
            raise CheckpointError(f"{self.path}: table '{saved.name}' has no slot '{slot}', it has {slots or 'none'}")
        return array

    def _of(self, name: str, *, rows: bool) -> SavedTable:
        """Return a table that is of rows, or dense; CheckpointError if it is the other."""
        saved = self.table(name)
        if saved.of_rows != rows:
            raise CheckpointError(f"{self.path}: table '{name}' is {'dense, not of rows' if rows else 'of rows, not dense'}")
        return saved

    def _file(self, number: int) -> Any:
        """Open a shard, once."""
        if number not in self._files:
            self._files[number] = h5py.File(self.path / self.manifest.shards[number].file, "r", locking=False)
        return self._files[number]

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Saved:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Saved {self.path}: clock {self.clock}, {len(self._tables)} tables, {self.manifest.servers} servers>"
