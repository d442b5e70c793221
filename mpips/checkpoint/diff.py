"""How two checkpoints differ: in what was declared, and by how much in values, slots and folds.

They may have been saved by different numbers of servers. Arrays are read in pieces, and checksums compared as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mpips.checkpoint.read import Saved
from mpips.checkpoint.schema import FOLDS, IDS, LOGICAL, VALUE, SavedTable, slot_array

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[Array, Array]
HELD = 1 << 27  # bytes of an array that are held of one checkpoint
CHUNK = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True)
class Gap:
    """By how much one array differs, over the elements that both have; NaN is equal to NaN.

    Attributes:
        elements: that both have; `differ` of them are not equal.
        absolute: largest |a - b|, inf where only one of two is finite.
        relative: largest |a - b| / max(|a|, |b|).
    """

    array: str
    elements: int
    differ: int
    absolute: float
    relative: float


@dataclass(frozen=True)
class TableDiff:
    """How a table differs.

    Attributes:
        facts: what was declared differently, as (in a, in b); None is not there.
        arrays: all that could be compared.
        only: "a" or "b" if the other has no such table.
    """

    name: str
    facts: dict[str, tuple[Any, Any]]
    arrays: list[Gap]
    only: str | None = None

    @property
    def same(self) -> bool:
        """Whether it does not."""
        return not self.facts and self.only is None and not any(gap.differ for gap in self.arrays)


@dataclass(frozen=True)
class Diff:
    """How two checkpoints differ; `same` if clock and all tables are equal."""

    a: Path
    b: Path
    clock: tuple[int, int]
    tables: list[TableDiff]

    @property
    def same(self) -> bool:
        """Whether they do not."""
        return self.clock[0] == self.clock[1] and all(table.same for table in self.tables)


def diff(a: Saved, b: Saved) -> Diff:
    """Compare two checkpoints: clock, and by table kind, shape, dtype, optimizer, values, slots and folds.

    The rows of a table with rows=None are found by their ids. What servers keep beside rows is not compared.
    """
    names = dict.fromkeys((*a.tables, *b.tables))
    return Diff(a.path, b.path, (a.clock, b.clock), [_table(a, b, name) for name in names])


def _table(a: Saved, b: Saved, name: str) -> TableDiff:
    if name not in a.tables or name not in b.tables:
        return TableDiff(name, {}, [], "a" if name in a.tables else "b")
    ours, theirs = a.table(name), b.table(name)
    x, y = _declared(ours), _declared(theirs)
    if ours.describe["optimizer"]["name"] == theirs.describe["optimizer"]["name"]:
        x, y = x | _rule(ours), y | _rule(theirs)
    facts = {key: (x.get(key), y.get(key)) for key in {**x, **y} if x.get(key) != y.get(key)}
    if {"kind", "shape", "rows", "dim"} & facts.keys():
        return TableDiff(name, facts, [])
    arrays = [_gap(array, _pairs(a, b, name, array)) for array in ours.arrays
              if array in theirs.arrays and array != IDS and (array in ours.single) == (array in theirs.single)]
    if ours.has_ids:
        both = next(gap.elements for gap in arrays if gap.array == VALUE) // prod(ours.trail(VALUE))
        if (both, both) != (ours.units, theirs.units):
            facts["ids of its own"] = (ours.units - both, theirs.units - both)
    elif not ours.of_rows and ours.places == theirs.places:
        arrays.append(_gap(FOLDS, [(np.array(ours.blocks.folds), np.array(theirs.blocks.folds))]))
    return TableDiff(name, facts, arrays)


def _declared(table: SavedTable) -> dict[str, Any]:
    keys = ("kind", "rows", "dim") if table.of_rows else ("kind", "shape")
    dtypes = {f"dtype of {array}": dtype for array, dtype in table.arrays.items()}
    return {key: table.describe[key] for key in keys} | {"optimizer": table.describe["optimizer"]["name"]} | dtypes


def _rule(table: SavedTable) -> dict[str, Any]:
    return {f"optimizer's {key}": value for key, value in table.describe["optimizer"].items()}


def _gap(array: str, pairs: Iterable[Pair]) -> Gap:
    """Measure pairs of equal shapes."""
    elements, differ, absolute, relative = 0, 0, 0.0, 0.0
    for whole_x, whole_y in pairs:
        elements += whole_x.size
        for at in range(0, whole_x.size, CHUNK):
            with np.errstate(all="ignore"):  # what overflows is infinite, and so it is said
                x, y = (part.reshape(-1)[at : at + CHUNK].astype(np.float64) for part in (whole_x, whole_y))
                other = np.flatnonzero((x != y) & ~(np.isnan(x) & np.isnan(y)))
                if not other.size:
                    continue
                x, y = x[other], y[other]
                apart = np.abs(x - y)
                share = apart / np.maximum(np.abs(x), np.abs(y))
            differ += other.size
            absolute, relative = (max(old, float(np.nan_to_num(new, nan=np.inf, posinf=np.inf).max()))
                                  for old, new in ((absolute, apart), (relative, share)))
    return Gap(array, elements, differ, absolute, relative)


def _pairs(a: Saved, b: Saved, name: str, array: str) -> Iterator[Pair]:
    """Yield the same elements of both checkpoints, piece by piece."""
    table = a.table(name)
    if table.has_ids:
        yield from _by_id(a, b, name, array)
        return
    many = max(1, HELD // _bytes(table, array))
    if not table.of_rows:
        many = -(-many // table.block) * table.block  # a block is read whole
    for start in range(0, table.units, many):
        stop = min(start + many, table.units)
        if table.of_rows:
            yield a.part(name, array, start, stop), b.part(name, array, start, stop)
        else:
            slot = None if array == VALUE else array.removeprefix(slot_array(""))
            yield a.read(name, slot, start, stop), b.read(name, slot, start, stop)


def _by_id(a: Saved, b: Saved, name: str, array: str) -> Iterator[Pair]:
    """Yield rows of equal ids: for as many of `a` as are held at a time, `b` is read once."""
    for blocks in _groups(a.table(name), array):
        ids, rows = (np.concatenate([a.block(name, one, index) for index in blocks]) for one in (IDS, array))
        order = np.argsort(ids)
        ids, rows = ids[order], rows[order]
        for index in range(len(b.table(name).blocks.shard)):
            theirs = b.block(name, IDS, index)
            at = np.searchsorted(ids, theirs)
            at[at == len(ids)] = 0
            here = ids[at] == theirs
            if here.any():
                yield rows[at[here]], b.block(name, array, index)[here]


def _groups(table: SavedTable, array: str) -> Iterator[list[int]]:
    """Yield the numbers of blocks, as many at a time as may be held."""
    group: list[int] = []
    size = 0
    for index, rows in enumerate(table.blocks.rows):
        if rows and group and (size + rows) * _bytes(table, array) > HELD:
            yield group
            group, size = [], 0
        if rows:
            group.append(index)
            size += rows
    if group:
        yield group


def _bytes(table: SavedTable, array: str) -> int:
    """Bytes of one unit."""
    return prod(table.trail(array)) * LOGICAL[table.arrays[array]].itemsize
