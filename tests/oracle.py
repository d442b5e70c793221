"""The naive parameter server: one process, whole arrays, no blocks, no windows. What every job must agree with, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mpips.layout import grid
from mpips.table import Dense, Rows

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


class NaiveRows:
    """A table of rows as a dictionary; `fold` is the whole server."""

    def __init__(self, table: Rows, seed: int = 0) -> None:
        self.table, self.seed = table, seed
        self.rows: dict[int, Any] = {}
        self.slots: dict[int, list[Any]] = {}
        self.folds: dict[int, int] = {}
        self.sightings: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        self.swept = 0
        self.last: dict[int, int] = {}

    def row(self, number: int) -> Any:
        """Values of one row, (dim,)."""
        if number not in self.rows:
            table = self.table
            self.rows[number] = table.init.rows(table.name, table.dim, table.np_dtype, seed=self.seed, ids=np.array([number]))[0]
            width = {s: 1 if s in table.optimizer.row_slots else table.dim for s in table.optimizer.slots}
            self.slots[number] = [np.full(width[s], table.optimizer.initial(s), table.np_dtype) for s in table.optimizer.slots]
            self.folds[number] = 0
        return self.rows[number]

    def pull(self, ids: Any) -> Any:
        """Values of some rows, (n, dim)."""
        return np.array([self.row(int(k)) for k in ids], self.table.np_dtype).reshape(-1, self.table.dim)

    def _sweep(self, clock: int) -> None:
        """Forget rows that were not pushed for long."""
        ttl = self.table.ttl
        if ttl is not None and clock // max(ttl // 8, 1) > self.swept:
            self.swept = clock // max(ttl // 8, 1)
            for k in [k for k, seen in self.seen.items() if seen < clock - clock % max(ttl // 8, 1) - ttl]:
                self.last.pop(k, None)
                del self.seen[k], self.rows[k], self.slots[k], self.folds[k]

    def _admitted(self, pushes: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Leave out what is pushed to rows that are not there and have not been pushed often enough."""
        if isinstance(self.table.admit, float) or self.table.admit == 1:
            return pushes
        for ids, _ in pushes:
            for k in set(map(int, ids)) - set(self.seen):
                self.sightings[k] = self.sightings.get(k, 0) + 1
        out = []
        for ids, gradients in pushes:
            keep = [i for i, k in enumerate(map(int, ids)) if k in self.seen or self.sightings[k] >= self.table.admit]
            out.append((ids[keep], gradients[keep]))
        return out

    def fold(self, pushes: list[tuple[Any, Any]], clock: int, workers: int = 1) -> None:
        """Fold the pushes of one clock, (ids, gradients) in worker order; a push without gradients changes nothing."""
        table, rule, kind = self.table, self.table.optimizer, self.table.np_dtype.type
        if pushes:
            self._sweep(clock)
        pushes = self._admitted(pushes)
        self.seen.update((int(k), clock) for ids, _ in pushes for k in ids)
        total: dict[int, Any] = {}
        for ids, gradients in pushes:
            mine: dict[int, Any] = {}
            for k, g in zip(map(int, ids), gradients, strict=True):
                mine[k] = mine[k] + g if k in mine else g
            for k, g in mine.items():
                total[k] = total[k] + g if k in total else g
        for k, g in total.items():
            w = self.row(k)
            if table.decay:
                born = clock if table.rows is None else -1
                w = w * kind((1 - table.decay) ** max(clock - self.last.get(k, born) - 1, 0))
                self.last[k] = clock
            if table.combine == "mean":
                g = g * kind(1.0 / workers)
            if rule.clip is not None:
                g = np.clip(g, -kind(rule.clip), kind(rule.clip))
            if rule.weight_decay and not rule.decoupled:
                g = g + kind(rule.weight_decay) * w
            self.folds[k] += 1
            scalars = [kind(s) for s in rule.scalars(self.folds[k], rule.rate(clock))]
            if rule.row_slots:
                new, given = rule.per_row(g[None], self.slots[k], scalars)
                (self.rows[k],), self.slots[k] = rule.rule(w, g, *given), list(new)
            else:
                self.rows[k], *self.slots[k] = rule.rule(w, g, *self.slots[k], *scalars)
