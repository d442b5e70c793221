"""What there is to tell about checkpoints without loading them: the lists behind `mpips ckpt`."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from math import hypot, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from mpips.checkpoint.read import Saved
from mpips.checkpoint.schema import MANIFEST, MASTER, load_manifest, steps
from mpips.errors import CheckpointError


@dataclass(frozen=True)
class Entry:
    """One directory of a list; `problem` is None for a complete checkpoint of which no file is missing or too short."""

    name: str
    step: int
    state: str  # "complete", "incomplete" (no manifest) or "broken"
    problem: str | None
    clocks: list[int] | None
    tables: int | None
    servers: int | None
    bytes: int
    age: float  # seconds since it was completed, or since the last write


def entries(directory: Path) -> list[Entry]:
    """List the checkpoints of a directory, oldest clock first, broken ones too. Opens no HDF5 file: `verify` does."""
    out = []
    for clock, step in steps(directory):
        with suppress(FileNotFoundError):  # a run has just removed it
            out.append(_entry(step, clock))
    return out


def _entry(step: Path, clock: int) -> Entry:
    sizes: dict[str, int] = {}
    try:
        times = {"": step.stat().st_mtime}
        for entry in step.iterdir():
            with suppress(FileNotFoundError):  # a run that writes or removes it was faster
                if entry.is_file():
                    found = entry.stat()
                    sizes[entry.name], times[entry.name] = found.st_size, found.st_mtime
    except PermissionError as error:
        return Entry(step.name, clock, "broken", str(error.strerror), None, None, None, 0, _age(step.stat().st_mtime))
    size = sum(sizes.values())
    if MANIFEST not in sizes:
        return Entry(step.name, clock, "incomplete", f"no {MANIFEST}", None, None, None, size, _age(max(times.values())))
    age = _age(times[MANIFEST])
    try:
        manifest = load_manifest(step)
    except CheckpointError as error:
        return Entry(step.name, clock, "broken", str(error).removeprefix(f"{step}/"), None, None, None, size, age)
    want = [*((s.file, s.bytes) for s in manifest.shards), (MASTER, manifest.master.bytes)]
    bad = [f"{name}: {'missing' if name not in sizes else f'{sizes[name]} bytes, {n} were written'}"
           for name, n in want if sizes.get(name) != n]
    return Entry(step.name, clock, "broken" if bad else "complete", bad[0] if bad else None, manifest.clocks,
                 len(manifest.tables), manifest.servers, size, age)


def _age(then: float) -> float:
    return max(0.0, time.time() - then)


@dataclass(frozen=True)
class Stats:
    """Numbers about one array; min, max, mean and norm are over the finite elements, None if there are none."""

    shape: list[int]
    dtype: str
    min: float | None
    max: float | None
    mean: float | None
    norm: float | None
    zeros: int
    nonfinite: int


def stats(saved: Saved, table: str, slot: str | None = None) -> Stats:
    """Compute `Stats` block by block in float64; never more than a block is in memory."""
    described = saved.table(table)
    low, high, mean, norm, zeros, count = np.inf, -np.inf, 0.0, 0.0, 0, 0
    array = saved.array_name(table, slot)
    dtype, shape = described.arrays[array], list(described.whole(array))
    for index in range(len(described.blocks.shard)):
        with np.errstate(invalid="ignore"):  # a signalling NaN
            x = saved.block(table, array, index).astype(np.float64).ravel()
        x = x[np.isfinite(x)]
        if not x.size:
            continue
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        zeros += int(x.size - np.count_nonzero(x))
        count += x.size
        scale = max(-float(x.min()), float(x.max())) or 1.0  # squares of float64 may not fit in float64
        x /= scale
        mean += (float(x.mean()) * scale - mean) * (x.size / count)
        norm = hypot(norm, scale * sqrt(float(np.dot(x, x))))
    if not count:
        return Stats(shape, dtype, None, None, None, None, 0, prod(shape))
    return Stats(shape, dtype, low, high, mean, norm, zeros, prod(shape) - count)


def rows(saved: Saved, table: str, slot: str | None, which: slice) -> np.ndarray[Any, np.dtype[Any]]:
    """Return rows (along the first axis) of a table or slot, reading only the blocks that hold them.

    Where rows are born, they are counted as they are stored, as in `Saved.ids`.
    """
    shape = saved.table(table).shape
    if not shape:
        return saved.array(table, slot)
    first, last, _ = which.indices(shape[0])
    last = max(first, last)
    if saved.table(table).of_rows:
        return saved.part(table, saved.array_name(table, slot), first, last)
    width = prod(shape[1:])
    return saved.read(table, slot, first * width, last * width).reshape(last - first, *shape[1:])
