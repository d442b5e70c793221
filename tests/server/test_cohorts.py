"""Tables that are pushed together, apart, and together again: cohorts split, and every table still gets all of its pushes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from mpips import Dense, optim
from mpips.server import Server
from mpips.worker import Worker
from tests.playing import build, small_blocks

TABLES, CLOCKS, WORKERS = 6, 5, 2
SIZES = (3, 40, 8, 1, 17, 8)


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


def groups(seed: int, worker: int, clock: int) -> list[list[int]]:
    """Which tables a worker pushes in a clock, and which of them together."""
    draw = random.Random(f"{seed} {worker if seed % 3 else 0} {clock}")
    if draw.random() < 0.4:
        return [list(range(TABLES))]
    chosen = draw.sample(range(TABLES), draw.randrange(TABLES + 1))
    cut = draw.randrange(len(chosen) + 1)
    return [part for part in (chosen[:cut], chosen[cut:]) if part]


def total(seed: int, table: int, clocks: int, worker: int | None = None) -> float:
    workers = range(WORKERS) if worker is None else [worker]
    return float(sum(1 + w + c for w in workers for c in range(clocks) for part in groups(seed, w, c) if table in part))


def play(seed: int, staleness: tuple[int | None, ...], servers: int, optimizer: Any) -> dict[str, Any]:
    tables = [Dense(f"t{k}", (size,), optimizer, staleness=staleness[k % len(staleness)], dtype="float64")
              for k, size in enumerate(SIZES)]

    def work(ps: Worker) -> None:
        for clock in range(CLOCKS):
            values = ps.pull([t.name for t in tables])
            for k, (table, value) in enumerate(zip(tables, values, strict=True)):
                if table.staleness == 0:
                    assert (value == total(seed, k, clock)).all(), f"{table.name} in clock {clock}"
                else:
                    assert value.min() >= total(seed, k, clock, ps.index), f"{table.name}: its own pushes are missing"
            for part in groups(seed, ps.index, clock):
                ps.push({f"t{k}": np.full(SIZES[k], 1.0 + ps.index + clock) for k in part})
            ps.clock()

    results: dict[str, Any] = {}
    build(tables, work, workers=WORKERS, servers=servers, seed=seed, results=results).run()
    return results


@pytest.mark.parametrize("staleness", [(0,), (None,), (0, 1, None)])
@pytest.mark.parametrize(("servers", "block"), [(1, 64), (1, 128), (1, 256), (2, 64), (2, 128)])
def test_every_table_gets_all_of_its_pushes(staleness: tuple[int | None, ...], servers: int, block: int,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, block)
    for seed in range(12):
        results = play(seed, staleness, servers, optim.Add())
        pieces = [piece for s in range(servers) for piece in results[f"server {s}"]]
        assert sum(piece.value.size for piece in pieces) == sum(SIZES)
        for piece in pieces:
            assert (piece.value == total(seed, int(piece.table.name[1:]), CLOCKS)).all(), piece.table.name


def test_tables_that_are_pushed_together_are_folded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fold = optim.Fold.__call__
    monkeypatch.setattr(optim.Fold, "__call__", lambda self, w, *args, **more: calls.append(w.size) or fold(self, w, *args, **more))
    small_blocks(monkeypatch, 1024, 1024)
    tables = [Dense(f"t{k}", (size,), optim.Adam(0.1), dtype="float64") for k, size in enumerate(SIZES)]

    def work(ps: Worker) -> None:
        ps.push({table.name: np.ones(table.shape) for table in tables})
        ps.clock()

    build(tables, work, workers=1).run()
    assert len(calls) == 1
    assert calls[0] >= sum(SIZES)


def test_slots_of_tables_folded_together_are_their_own() -> None:
    """Adam's moments: all at once, or each table for itself, it is the same."""
    def run(together: bool) -> list[np.ndarray[Any, Any]]:
        tables = [Dense(f"t{k}", (size,), optim.Adam(0.1), dtype="float64") for k, size in enumerate(SIZES)]

        def work(ps: Worker) -> None:
            for clock in range(3):
                grads = {t.name: np.sin(np.arange(t.size) + clock) for t in tables}
                for part in [grads] if together else [{name: g} for name, g in grads.items()]:
                    ps.push(part)
                ps.clock()

        results: dict[str, Any] = {}
        build(tables, work, workers=1, results=results).run()
        return [a for piece in results["server 0"] for a in (piece.value, *piece.slots.values())]

    for a, b in zip(run(True), run(False), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_server_starts_with_one_cohort_for_each_kind() -> None:
    made: list[Server] = []

    class Kept(Server):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    tables = [Dense(f"t{k}", (3,), optim.Add(), staleness=k % 2) for k in range(10)]
    build(tables, lambda ps: None, workers=1, make=Kept).run()
    assert [cohort.tables for cohort in made[0]._mail.cohorts] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
