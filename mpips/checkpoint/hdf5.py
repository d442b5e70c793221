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

from mpips.checkpoint.schema import FORMAT, STORED, VERSION

LIBVER = ("v110", "v110")  # metadata with checksums, and HDF5 1.10 can read it
FILL = {"float32": np.nan, "float64": np.nan, "float16": np.nan, "bfloat16": 0x7FC0}  # a NaN each
Box = tuple[slice, ...]
Source = tuple[Box, str, int, int, int]  # box, file, length of the dataset there, first and last + 1 element of it


def create(path: Path, clock: int) -> Any:
    """Open a new file and say in it what it is. No locks: a reader never sees the name under which it is written."""
    file = h5py.File(path, "w", libver=LIBVER, locking=False)
    file.attrs["format"], file.attrs["version"], file.attrs["clock"] = FORMAT, VERSION, clock
    file.create_group("tables")
    return file


def new(file: Any, name: str, shape: tuple[int, ...], dtype: str, sources: Iterable[Source] | None = None) -> Any:
    """Create a dataset of a table's dtype, contiguous, or virtual over the datasets of the same name in `sources`."""
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    if sources is not None:
        properties.set_fill_value(np.array([FILL[dtype]], STORED[dtype]))
        for box, other, length, start, stop in sources:
            here, there = h5s.create_simple(shape), h5s.create_simple((length,))
            here.select_hyperslab(tuple(s.start for s in box), tuple(s.stop - s.start for s in box))
            there.select_hyperslab((start,), (stop - start,))
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
    """Write a contiguous array of the stored dtype into the elements from `at` of a one-dimensional dataset."""
    there = dataset.get_space()
    there.select_hyperslab((at,), (data.size,))
    dataset.write(h5s.create_simple((data.size,)), there, data)


def source_name(name: str) -> str:
    """Name of a dataset as a virtual source: there '%' begins a pattern, '%%' is the sign."""
    return name.replace("%", "%%")
