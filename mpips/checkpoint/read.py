"""Reading a checkpoint: structure checked when it is opened, checksums whenever a block is read.

>>> import mpips, numpy as np                                       # doctest: +SKIP
>>> saved = Saved("runs/demo/step-00000100")                        # doctest: +SKIP
>>> saved.array("w").shape, saved.array("w", slot="m").dtype        # doctest: +SKIP
((64, 10), dtype('float32'))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from mpips.checkpoint.schema import (
    H5_ERRORS,
    MANIFEST,
    MASTER,
    STORED,
    Manifest,
    SavedTable,
    crc32,
    dataset,
    is_shard,
    load_manifest,
    logical,
    slot_array,
    steps,
)
from mpips.errors import CheckpointError, UnknownTable
from mpips.layout import grid
from mpips.table import DTYPES, Dense

Array = np.ndarray[Any, np.dtype[Any]]
NAMED = 5  # differences that an error spells out


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the directory of the checkpoint that `path` (the directory, its master or its manifest) names."""
    given = Path(path)
    step = given.parent if given.name in (MANIFEST, MASTER) else given
    if (step / MANIFEST).exists():
        return step
    if not given.exists():
        raise CheckpointError(f"{given}: no such checkpoint")
    if not step.is_dir():
        raise CheckpointError(f"{given}: not a checkpoint; name its directory, {MANIFEST} or {MASTER}")
    inside = [entry.name for _, entry in steps(step) if (entry / MANIFEST).exists()]
    if inside:
        raise CheckpointError(f"{given}: holds {len(inside)} checkpoints, name one, such as {step / inside[-1]}")
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
        """Return how often block `index` of the table had been folded."""
        return self.table(table).blocks.folds[index]

    def check(self, tables: Sequence[Dense], *, more: bool = False) -> None:
        """Raise CheckpointError that names the tables in which the checkpoint differs from `tables`, and how.

        Name, shape, dtype, grid, master and the optimizer's rule and slots must be equal; hyperparameters, staleness
        and the rest may differ. With `more`, the checkpoint may hold other tables too.
        """
        wrong = [text for table in tables for text in self._differences(table)]
        if not more:
            names = {table.name for table in tables}
            wrong += [f"table '{name}' is in the checkpoint only" for name in self._tables if name not in names]
        if wrong:
            rest = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise CheckpointError(f"{self.path} is of other tables: {'; '.join(wrong[:NAMED])}{rest}")

    def _differences(self, table: Dense) -> list[str]:
        where = f"table '{table.name}'"
        saved = self._tables.get(table.name)
        if saved is None:
            return [f"{where} is not in the checkpoint"]
        theirs, ours = saved.describe, table.describe()
        keys = ("kind", "shape", "dtype", *(("master",) if table.half else ()))
        pairs: list[tuple[str, Any, Any]] = [(key, theirs.get(key), ours[key]) for key in keys]
        pairs.append(("optimizer", theirs["optimizer"]["name"], ours["optimizer"]["name"]))
        out = [f"{where}: {key} {a!r} in the checkpoint, {b!r} here" for key, a, b in pairs if a != b]
        if out:
            return out
        missing = [slot for slot in table.optimizer.slots if slot_array(slot) not in saved.arrays]
        if missing:
            return [f"{where}: the checkpoint has no slot {missing[0]!r}"]
        if saved.cells != grid(table.size, table.np_dtype.itemsize):
            return [f"{where}: blocks of {saved.block} elements in the checkpoint, this mpips cuts otherwise"]
        return []

    def read(self, table: str, slot: str | None, start: int, stop: int) -> Array:
        """Return the flat elements `start:stop` of a table's values (`slot=None`) or of a slot, in a new array.

        Opens only the shards that hold them. A block is read whole, because its checksum is over the whole of it.

        Raises:
            UnknownTable: no such table.
            CheckpointError: no such slot or elements, or a block does not match its checksum.
        """
        saved = self.table(table)
        array = self._array(saved, slot)
        if not 0 <= start <= stop <= saved.size:
            raise CheckpointError(f"{self.path}: table '{table}' has {saved.size} elements, not {start}:{stop}")
        out = np.empty(stop - start, DTYPES[saved.arrays[array]])
        for index in range(start // saved.block, -(-stop // saved.block) if start < stop else 0):
            first = index * saved.block
            block = self.block(table, array, index)
            a, b = max(start, first), min(stop, first + block.size)
            out[a - start : b - start] = block[a - first : b - first]
        return out

    def array(self, table: str, slot: str | None = None) -> Array:
        """Return a table's values or one of its slots whole, in the table's shape."""
        saved = self.table(table)
        return self.read(table, slot, 0, saved.size).reshape(saved.shape)

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
        shard, at, (start, stop) = saved.blocks.shard[index], saved.blocks.at[index], saved.cell(index)
        file = self.path / self.manifest.shards[shard].file
        try:
            raw: Array = self._file(shard)[dataset(table, array)][at : at + stop - start]
        except H5_ERRORS as error:
            raise CheckpointError(f"{file}: {array} of table '{table}': {error}") from error
        if raw.shape != (stop - start,):
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
            if length is None:
                continue
            for array, dtype in table.arrays.items():
                try:
                    found = h5py.h5d.open(file.id, dataset(table.name, array).encode())
                    good = (found.shape, found.dtype) == ((length,), np.dtype(STORED[dtype]))
                    what = "" if good else f"is not {length} elements of {dtype}"
                except KeyError:
                    what = "is missing"
                except H5_ERRORS as error:
                    what = f"cannot be opened: {error}"
                if what:
                    out.append((table.name, f"/{dataset(table.name, array)} {what}"))
        return out

    def _array(self, saved: SavedTable, slot: str | None) -> str:
        array = slot_array(slot)
        if array not in saved.arrays:
            slots = ", ".join(a.removeprefix("slots/") for a in saved.arrays if a != slot_array(None))
            raise CheckpointError(f"{self.path}: table '{saved.name}' has no slot '{slot}', it has {slots or 'none'}")
        return array

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
