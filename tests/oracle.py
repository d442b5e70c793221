"""The naive parameter server: one process, whole arrays, no blocks, no windows. What every job must agree with, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mpips.layout import grid
from mpips.table import Dense

Values = dict[str, Any]
Gradient = Callable[[int, int, Values], Mapping[str, Any]]  # (worker, clock, values) -> gradients of the tables it pushes


def initial(table: Dense, seed: int = 0) -> np.ndarray[Any, Any]:
    """First values of a table, flat, in the compute dtype."""
    draw = table.compute_dtype if table.half else table.np_dtype
    parts = [table.init.block(table.name, table.shape, draw, seed=seed, index=i, start=a, stop=b)
             for i, (a, b) in enumerate(grid(table.size, table.np_dtype.itemsize))]
    return np.concatenate(parts) if parts else np.empty(0, draw)


class Naive:
    """Tables on which `fold` is the whole server."""

    def __init__(self, tables: list[Dense], seed: int = 0) -> None:
        self.tables = {t.name: t for t in tables}
        self.master = {t.name: initial(t, seed) for t in tables}
        self.slots = {t.name: [np.full(t.size, t.optimizer.initial(s), t.compute_dtype) for s in t.optimizer.slots] for t in tables}
        self.folds = dict.fromkeys(self.tables, 0)

    def values(self) -> Values:
        """Published values by name."""
        return {n: self.master[n].astype(t.np_dtype).reshape(t.shape) for n, t in self.tables.items()}

    def fold(self, name: str, gradients: list[Any], clock: int, workers: int) -> None:
        """Fold the gradients of one clock, in worker order."""
        table, rule = self.tables[name], self.tables[name].optimizer
        kind = table.compute_dtype.type
        total = gradients[0].reshape(-1).astype(table.compute_dtype)
        for g in gradients[1:]:
            total = total + g.reshape(-1).astype(table.compute_dtype)
        if table.combine == "mean":
            total = total * kind(1.0 / workers)
        w = self.master[name]
        if rule.clip is not None:
            total = np.clip(total, -kind(rule.clip), kind(rule.clip))
        if rule.weight_decay and not rule.decoupled:
            total = total + kind(rule.weight_decay) * w
        self.folds[name] += 1
        scalars = [kind(s) for s in rule.scalars(self.folds[name], rule.rate(clock))]
        self.master[name], *self.slots[name] = rule.rule(w, total, *self.slots[name], *scalars)
        if table.half and not table.master:
            self.master[name] = self.master[name].astype(table.np_dtype).astype(table.compute_dtype)


def bsp(tables: list[Dense], gradient: Gradient, clocks: list[int], seed: int = 0) -> Values:
    """Final values of a job under BSP in which worker k does `clocks[k]` steps of pull all, push, clock."""
    return history(tables, gradient, clocks, seed=seed)[-1]


def history(tables: list[Dense], gradient: Gradient, clocks: list[int], nodes: list[int] | None = None,
            seed: int = 0) -> list[Values]:
    """Values before each clock of such a job, and the final ones; with `nodes` (of each worker) they add up there first."""
    naive = Naive(tables, seed)
    out = [naive.values()]
    for clock in range(max(clocks)):
        live = [k for k, n in enumerate(clocks) if clock < n]
        pushed = {k: gradient(k, clock, out[-1]) for k in live}
        for name, table in naive.tables.items():
            mine = {k: p[name] for k, p in pushed.items() if name in p}
            gradients = list(mine.values())
            if nodes and not table.half:
                order = dict.fromkeys(nodes[k] for k in live)
                by_node = [[mine[k] for k in live if nodes[k] == node and k in mine] for node in order]
                gradients = [functools.reduce(np.add, some) for some in by_node if some]
            if gradients:
                naive.fold(name, gradients, clock, len(live))
        out.append(naive.values())
    return out
