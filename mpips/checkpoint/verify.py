"""Walk a whole checkpoint and list everything that is wrong, with file, table and block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from mpips.checkpoint.master import intact, is_virtual, shows
from mpips.checkpoint.publish import read_index
from mpips.checkpoint.read import Saved, locate
from mpips.checkpoint.schema import (
    FORMAT,
    H5_ERRORS,
    MANIFEST,
    MASTER,
    SavedTable,
    ShardIndex,
    ShardTable,
    State,
    crc32,
    state_array,
)
from mpips.checkpoint.tidy import unnamed
from mpips.errors import CheckpointError


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `what` is a phrase."""

    file: str
    what: str
    table: str | None = None
    array: str | None = None
    block: int | None = None

    def __str__(self) -> str:
        parts = [f"table '{self.table}'" if self.table is not None else "", self.array or "",
                 f"block {self.block}" if self.block is not None else ""]
        return ": ".join([self.file, *(p for p in parts if p), self.what])


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found; `ok` if nothing is wrong."""

    path: Path
    findings: tuple[Finding, ...]
    blocks: int  # of which the checksum was compared
    nbytes: int  # of those

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify(path: str | os.PathLike[str]) -> Report:
    """Compare structure and every checksum of a checkpoint; CheckpointError if `path` is not a complete one at all."""
    step = locate(path)
    try:
        saved = Saved(step, structure=False)
    except CheckpointError as error:
        return Report(step, (Finding(MANIFEST, str(error).removeprefix(f"{step / MANIFEST}: ")),), 0, 0)
    with saved:
        findings: list[Finding] = []
        unreadable = set()
        blocks = nbytes = 0
        for number, shard in enumerate(saved.manifest.shards):
            problems = saved.problems(number)
            findings += [Finding(shard.file, what, table) for table, what in problems]
            if any(table is None for table, _ in problems):
                unreadable.add(number)
                continue
            findings += _index(saved, number)
            broken = {table for table, _ in problems}
            for size, finding in _blocks(saved, number, [t for t in saved.manifest.tables if t.name not in broken]):
                blocks += 1
                nbytes += size
                findings += [finding] if finding else []
        findings += _master(saved, unreadable)
        findings += [Finding(entry.name, "not named by the manifest") for entry in unnamed(step, saved.manifest)]
        return Report(step, tuple(findings), blocks, nbytes)


def _blocks(saved: Saved, number: int, tables: Sequence[SavedTable]) -> Iterator[tuple[int, Finding | None]]:
    """Compare all blocks that a shard has of some tables with their checksums; yield the bytes read, and what is wrong."""
    file = saved.manifest.shards[number].file
    for table in tables:
        for index, where in enumerate(table.blocks.shard):
            for array in table.arrays if where == number else ():
                try:
                    raw = saved.raw_block(table.name, array, index)
                except CheckpointError as error:
                    yield 0, Finding(file, str(error), table.name, array, index)
                    continue
                good = crc32(raw) == table.blocks.crc32[array][index]
                yield raw.nbytes, None if good else Finding(file, "does not match its checksum", table.name, array, index)
        for name in table.state(number).arrays:
            try:
                yield saved.kept(table.name, number, name).nbytes, None
            except CheckpointError as error:
                array = state_array(name)
                what = str(error).removeprefix(f"{saved.path / file}: {array} of table '{table.name}': ")
                yield 0, Finding(file, what, table.name, array)


def _index(saved: Saved, number: int) -> Iterator[Finding]:
    """Compare what a shard says about itself with the manifest."""
    manifest, file = saved.manifest, saved.manifest.shards[number].file
    try:
        index: ShardIndex = read_index(saved.path / file)
    except CheckpointError as error:
        yield Finding(file, str(error).removeprefix(f"{saved.path / file}:").lstrip())
        return
    if (index.clocks, index.servers) != (manifest.clocks, manifest.servers):
        yield Finding(file, f"of clocks {index.clocks} and {index.servers} servers")
    for table in manifest.tables:
        own = index.tables.get(table.name)
        state = (own.state if own else None) or State({}, {})
        if (_of_manifest(table, number), table.state(number)) != (_of_index(table, own), state):
            yield Finding(file, "its index differs from the manifest", table.name)


def _of_manifest(table: SavedTable, number: int) -> list[tuple[int, ...]]:
    """What the manifest says about the blocks of a table in one shard."""
    mine = [i for i, shard in enumerate(table.blocks.shard) if shard == number]
    sums = [[table.blocks.crc32[array][i] for i in mine] for array in table.arrays]
    if table.of_rows:
        return list(zip((table.blocks.at[i] for i in mine), (table.blocks.rows[i] for i in mine), *sums, strict=True))
    return list(zip(mine, (table.blocks.folds[i] for i in mine), *sums, strict=True))


def _of_index(table: SavedTable, own: ShardTable | None) -> list[tuple[int, ...]]:
    """What the shard's index says about them, in the same form."""
    if own is None:
        return []
    sums = [own.crc32[array] for array in table.arrays]
    if table.of_rows:
        return list(zip(own.start, (b - a for a, b in zip(own.start, own.stop, strict=True)), *sums, strict=True))
    return list(zip(own.index, own.folds, *sums, strict=True))


def _master(saved: Saved, unreadable: set[int]) -> Iterator[Finding]:
    """Compare the master with the manifest: each table whole, from the shards that the manifest names."""
    manifest, path = saved.manifest, saved.path / MASTER
    if not path.exists():
        yield Finding(MASTER, "missing")
        return
    size = path.stat().st_size
    if not intact(saved.path, manifest):  # HDF5 may crash on it
        same = size == manifest.master.bytes
        what = "does not match its checksum" if same else f"{size} bytes, {manifest.master.bytes} were written"
        yield Finding(MASTER, what)
        return
    try:
        with h5py.File(path, "r", locking=False) as file:
            stamp = {key: file.attrs.get(key) for key in ("format", "version", "clock")}
            if stamp != {"format": FORMAT, "version": manifest.version, "clock": manifest.clock}:
                yield Finding(MASTER, f"its attributes are {stamp}")
            for table in manifest.tables:
                if not is_virtual(table) and not unreadable.isdisjoint(table.blocks.shard):
                    continue  # there is nothing to compare it with, and that has been told
                for array in table.arrays:
                    try:
                        wrong = shows(saved.path, manifest, file, table, array)
                    except H5_ERRORS as error:
                        wrong = f"cannot be read: {error}"
                    if wrong:
                        yield Finding(MASTER, wrong, table.name, array)
    except H5_ERRORS as error:
        yield Finding(MASTER, str(error))
