"""How README says that workers stop together, and come to the last values of an asynchronous training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import Dense, optim
from tests.playing import play


@pytest.mark.parametrize("seed", range(4))
def test_a_table_stops_all_workers_at_the_same_clock(seed: int) -> None:
    def work(ps: Any) -> int:
        for step in range(20):
            if ps.pull("stop"):
                break
            ps.push("w", np.ones(3, np.float32))
            if (ps.index, step) == (1, 7):
                ps.push("stop", np.ones((), np.float32))
            ps.clock()
        return int(ps.now)

    tables = [Dense("w", 3, optim.Add(), staleness=2), Dense("stop", (), optim.Add())]
    ended = play(tables, work, workers=3, seed=seed)
    assert [ended[f"worker {k}"] for k in range(3)] == [8, 8, 8]


@pytest.mark.parametrize("staleness", [None, 3])
@pytest.mark.parametrize("seed", range(4))
def test_after_a_barrier_all_workers_see_every_applied_push(staleness: int | None, seed: int) -> None:
    def work(ps: Any) -> float:
        for _ in range(5 * (1 + ps.index)):
            last = ps.ipush("w", np.ones(3, np.float32))
            ps.clock()
        last.wait(applied=True)
        ps.barrier()
        return float(ps.pull("w").min())

    seen = play([Dense("w", 3, optim.Add(), staleness=staleness)], work, workers=3, seed=seed)
    assert [seen[f"worker {k}"] for k in range(3)] == [30, 30, 30]
