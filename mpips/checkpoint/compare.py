"""Whether a saved table is the one that a run has declared: what must be equal, and what may differ."""

from __future__ import annotations

from typing import Any

from mpips.checkpoint.schema import SavedTable, row_slots, slot_array
from mpips.layout import grid, rows_on
from mpips.table import Rows, Table


def differences(saved: SavedTable | None, table: Table) -> list[str]:
    """Say in what a saved table differs from `table` so that it cannot be restored.

    Kind, shape (or rows and dim), dtype, grid, master, the optimizer's rule and its slots must be equal; hyperparameters,
    staleness and the rest may differ. Saved rows must fit into the capacity.
    """
    where = f"table '{table.name}'"
    if saved is None:
        return [f"{where} is not in the checkpoint"]
    theirs, ours = saved.describe, table.describe()
    keys: tuple[str, ...] = ("shape", "dtype", *(("master",) if table.half else ()))
    if isinstance(table, Rows):
        keys = ("rows", "dim", "dtype")
    if theirs.get("kind") != ours["kind"]:
        keys = ("kind",)
    pairs: list[tuple[str, Any, Any]] = [(key, theirs.get(key), ours[key]) for key in keys]
    pairs.append(("optimizer", theirs["optimizer"]["name"], ours["optimizer"]["name"]))
    out = [f"{where}: {key} {a!r} in the checkpoint, {b!r} here" for key, a, b in pairs if a != b]
    if out:
        return out
    missing = [slot for slot in table.optimizer.slots if slot_array(slot) not in saved.arrays]
    if missing:
        return [f"{where}: the checkpoint has no slot {missing[0]!r}"]
    if isinstance(table, Rows):
        for slot in table.optimizer.slots:
            there, here = ("row" if slot_array(slot) in names else "element" for names in (saved.single, row_slots(table)))
            if there != here:
                return [f"{where}: slot {slot!r} has one number for each {there} in the checkpoint, for each {here} here"]
        servers = max(saved.blocks.shard, default=0) + 1  # so many have a little more room than the capacity says
        if table.capacity is not None and saved.units > sum(rows_on(table, server, servers) for server in range(servers)):
            return [f"{where}: {saved.units} rows in the checkpoint, capacity {table.capacity} here"]
        return []
    if [(p.start, p.stop) for p in saved.places] != grid(table.size, table.np_dtype.itemsize):
        return [f"{where}: blocks of {saved.block} elements in the checkpoint, this mpips cuts otherwise"]
    return []
