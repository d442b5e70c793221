"""The few HDF5 calls that writing needs, by h5py's low-level interface.

A network may have thousands of small arrays, and this takes a third of the time of `Group.create_dataset` and
`Dataset.__setitem__` (3000 arrays: 1.5 s against 4.6 s, two busy cores). Nothing in a file depends on the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from mpips.checkpoint.schema import FORMAT, STORED

LIBVER = ("v110", "v110")  # metadata with checksums, and HDF5 1.10 can read it
# what a missing shard looks like: a NaN each, and numbers that hardly any fold or id has
FILL = {"float32": np.nan, "float64": np.nan, "float16": np.nan, "bfloat16": 0x7FC0, "int32": -1 << 31, "int64": -1 << 63}
Box = tuple[slice, ...]
Source = tuple[Box, str, tuple[int, ...], Box]  # box, file, shape of the dataset there, box of it


def create(path: Path, clock: int, version: int) -> Any:
    """Open a new file and say in it what it is. No locks: a reader never sees the name under which it is written."""
    file = h5py.File(path, "w", libver=LIBVER, locking=False)
    file.attrs["format"], file.attrs["version"], file.attrs["clock"] = FORMAT, version, clock
    file.create_group("tables")
    return file


def new(file: Any, name: str, shape: tuple[int, ...], dtype: str, sources: Iterable[Source] | None = None) -> Any:
    """Create a dataset of a table's dtype, contiguous, or virtual over the datasets of the same name in `sources`."""
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    if sources is not None:
        properties.set_fill_value(np.array([FILL[dtype]], STORED[dtype]))
        for box, other, length, box_there in sources:
            here, there = select(shape, box), select(length, box_there)
            properties.set_virtual(here, other.encode(), source_name(name).encode(), there)
    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    links.set_char_encoding(h5t.CSET_UTF8)
    space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
    out = h5d.create(file.id, name.encode(), h5t.py_create(np.dtype(STORED[dtype])), space, properties, links)
    if dtype == "bfloat16":
        h5py.Dataset(out).attrs["logical_dtype"] = dtype
    return out


def put(dataset: Any, at: int, data: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Write a contiguous array of the stored dtype into the units (elements or rows) from `at` of a dataset."""
    there = dataset.get_space()
    there.select_hyperslab((at,) + (0,) * (data.ndim - 1), data.shape)
    dataset.write(h5s.create_simple(data.shape), there, data)


def select(shape: tuple[int, ...], box: Box) -> Any:
    """Return a data space with a box selected; a slice may have a step."""
    space = h5s.create_simple(shape)
    ranges = [range(s.start, s.stop, s.step or 1) for s in box]
    space.select_hyperslab(tuple(r.start for r in ranges), tuple(map(len, ranges)), tuple(r.step for r in ranges))
    return space


def selected(space: Any) -> tuple[range, ...] | None:
    """Return what `select` has selected, None if it is something else."""
    if space.get_select_type() == h5s.SEL_ALL:
        return tuple(range(n) for n in space.shape)
    if not space.is_regular_hyperslab():
        return None
    out = []
    for first, stride, count, block in zip(*space.get_regular_hyperslab(), strict=True):
        if block != 1 and count != 1 and stride != block:
            return None
        n, step = int(block * count), int(stride) if block == 1 and count > 1 else 1
        out.append(range(int(first), int(first) + (n - 1) * step + 1, step))  # as `box_ranges` has it: HDF5 forgets the rest
    return tuple(out)


def box_ranges(box: Box) -> tuple[range, ...]:
    """Return a box in the form of `selected`: ends at the last, and one of one element has step 1."""
    out = []
    for s in box:
        r = range(s.start, s.stop, s.step or 1)
        out.append(range(r[0], r[-1] + 1, r.step if len(r) > 1 else 1))
    return tuple(out)


def source_name(name: str) -> str:
    """Name of a dataset as a virtual source: there '%' begins a pattern, '%%' is the sign."""
    return name.replace("%", "%%")
