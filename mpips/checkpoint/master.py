"""The master file: every table whole, as virtual datasets over the shards.

A virtual dataset maps boxes of the table to runs of a shard, so a run of flat elements is cut into boxes first. The rows of a
server are one box, with a step where their ids are numbered. Reading the master needs no mpips; but HDF5 shows a missing shard as
fill values without an error (NaN here), so our own reader never uses it.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5s

from mpips.checkpoint.disk import Life, commit, replacing
from mpips.checkpoint.hdf5 import Box, Source, box_ranges, create, new, selected, source_name
from mpips.checkpoint.schema import MASTER, STORED, Manifest, Master, SavedTable, Shard, dataset, version_of


@dataclass(frozen=True)
class Span:
    """Units (elements or rows) `place` of a table, which are `at : at + len(place)` of its datasets in a shard."""

    shard: int
    at: int
    place: range


def spans(table: SavedTable) -> list[Span]:
    """Join blocks that follow each other in one shard."""
    out: list[Span] = []
    for shard, at, place in zip(table.blocks.shard, table.blocks.at, table.places, strict=True):
        last = out[-1] if out else None
        if last and (last.shard, last.place.stop, last.at + len(last.place)) == (shard, place.start, at):
            out[-1] = Span(shard, last.at, range(last.place.start, place.stop, place.step))
        else:
            out.append(Span(shard, at, place))
    return out


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[Box, int, int]]:
    """Cut the flat elements `start:stop` of an array into boxes, each with its own flat start and stop, in order.

    >>> [(box, a, b) for box, a, b in boxes((3, 4), 2, 12)]
    [((slice(0, 1, None), slice(2, 4, None)), 2, 4), ((slice(1, 3, None), slice(0, 4, None)), 4, 12)]
    """
    if len(shape) == 1:
        if start < stop:
            yield (slice(start, stop),), start, stop
        return
    row = int(np.prod(shape[1:], dtype=np.int64))
    first, last = -(-start // row), stop // row  # whole rows
    if first > last:  # inside one row
        yield from _in_row(shape, last, row, start, stop)
        return
    if start < first * row:
        yield from _in_row(shape, first - 1, row, start, first * row)
    if first < last:
        yield (slice(first, last), *(slice(0, n) for n in shape[1:])), first * row, last * row
    if last * row < stop:
        yield from _in_row(shape, last, row, last * row, stop)


def _in_row(shape: tuple[int, ...], number: int, row: int, start: int, stop: int) -> Iterator[tuple[Box, int, int]]:
    base = number * row
    for box, a, b in boxes(shape[1:], start - base, stop - base):
        yield (slice(number, number + 1), *box), a + base, b + base


def is_virtual(table: SavedTable) -> bool:
    """Whether the master maps the table; scalars and empty tables have no box and are written out."""
    return len(table.shape) > 0 and table.size > 0


def write_master(step: Path, clock: int, shards: Sequence[Shard], tables: Sequence[SavedTable],
                 life: Life) -> Generator[None, None, Master]:
    """Write `model.h5` into a checkpoint's directory, over the one that may be there.

    The generator's value is what the manifest says of it.
    """
    files = [shard.file for shard in shards]
    with replacing(step / MASTER, life) as path:
        with create(path, clock, version_of(tables)) as file:
            for table in tables:
                for array, dtype in table.arrays.items():
                    name = dataset(table.name, array)
                    sources = list(_sources(files, table, array)) if is_virtual(table) else None
                    out = new(file, name, table.whole(array), dtype, sources)
                    if table.size and not is_virtual(table):
                        out.write(h5s.ALL, h5s.ALL, _scalar(step, files, table, name))
                yield
        raw = path.read_bytes()
        yield from commit(path, step / MASTER, life)
    return Master(bytes=len(raw), crc32=zlib.crc32(raw))


def intact(step: Path, manifest: Manifest) -> bool:
    """Whether the master is, byte by byte, the one that belongs to the manifest."""
    path = step / MASTER
    if not path.is_file() or path.stat().st_size != manifest.master.bytes:
        return False
    return zlib.crc32(path.read_bytes()) == manifest.master.crc32


def _sources(files: Sequence[str], table: SavedTable, array: str) -> Iterator[Source]:
    """Yield what the virtual dataset of an array is made of."""
    lengths, trail = table.lengths(), table.trail(array)
    rest = tuple(slice(0, n) for n in trail)
    for span in spans(table):
        file, place, shape = files[span.shard], span.place, (lengths[span.shard], *trail)
        if table.of_rows:
            box = slice(place.start, place.stop, place.step)
            yield (box, *rest), file, shape, (slice(span.at, span.at + len(place)), *rest)
            continue
        for box_of, a, b in boxes(table.shape, place.start, place.stop):
            at = span.at - place.start
            yield box_of, file, shape, (slice(at + a, at + b),)


def _scalar(step: Path, files: Sequence[str], table: SavedTable, name: str) -> Any:
    """Read the only element of a table."""
    with h5py.File(step / files[table.blocks.shard[0]], "r", locking=False) as shard:
        return np.asarray(shard[name][table.blocks.at[0]])


def shows(step: Path, manifest: Manifest, file: Any, table: SavedTable, array: str) -> str | None:
    """Say what is wrong with one dataset of an open master, None if it shows exactly the shards of the manifest."""
    name = dataset(table.name, array)
    files = [shard.file for shard in manifest.shards]
    found = file.get(name)
    dtype = table.arrays[array]
    if not isinstance(found, h5py.Dataset):
        return "missing"
    shape = table.whole(array)
    if (found.shape, found.dtype) != (shape, np.dtype(STORED[dtype])):
        return f"{found.shape} {found.dtype} instead of {shape} {np.dtype(STORED[dtype])}"
    if dtype == "bfloat16" and found.attrs.get("logical_dtype") != dtype:
        return "attribute logical_dtype is not 'bfloat16'"
    if not is_virtual(table):
        same = not table.size or found[()].tobytes() == _scalar(step, files, table, name).tobytes()
        return None if same else "differs from the shard"
    if not found.is_virtual:
        return "not a virtual dataset"
    want = {(file_name, source_name(name), box_ranges(there), box_ranges(here))
            for here, file_name, _, there in _sources(files, table, array)}
    have = {(source.file_name, source.dset_name, selected(source.src_space), selected(source.vspace))
            for source in found.virtual_sources()}
    return None if have == want else "does not show the shards of the manifest"
