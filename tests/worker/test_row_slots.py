"""What a client remembers of where rows lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import Rows, optim
from mpips.server.population import Population
from tests.playing import play, small_logs

IDS = np.arange(20) * 7


@pytest.mark.parametrize("seed", range(3))
def test_two_pulls_of_the_same_new_rows(seed: int) -> None:
    """Both look before either asks; the second finds what the first was told."""
    table = Rows("t", rows=None, capacity=100, dim=3, dtype="float64", optimizer=optim.Add(), staleness=1)

    def work(ps: Any) -> list[int]:
        for _ in range(3):
            ps.push("t", np.ones((20, 3)), rows=IDS)
            ps.clock()
        handles = [ps.ipull("t", rows=IDS) for _ in range(2)]
        for handle in handles:
            ps._link.transport.poll()
            handle.pull.advance()
        for handle in handles:
            assert (handle.wait() >= 1).all()
        return [len(known) for known in ps._link.slots[0]._known]

    assert play([table], work, workers=1, seed=seed)["worker 0"] == [20]


@pytest.mark.parametrize("servers", [1, 2])
def test_a_push_of_the_rows_that_were_pulled_last_says_where_they_lie(monkeypatch: pytest.MonkeyPatch, servers: int) -> None:
    """In any order, with repeats, and where its pieces are put aside before they are folded."""
    small_logs(monkeypatch)
    table, beliefs = Rows("t", rows=None, capacity=900, dim=3, dtype="float64", optimizer=optim.Add()), list[Any]()
    find = Population.find

    def watched(self: Population, ids: Any, believed: Any = None) -> Any:
        found = find(self, ids, believed)
        if believed is not None:
            beliefs.append((believed.copy(), found))
        return found

    monkeypatch.setattr(Population, "find", watched)

    def work(ps: Any) -> None:
        ids = np.random.default_rng(3).integers(-1 << 63, 1 << 63, 300, np.int64)[np.random.default_rng(4).integers(0, 300, 400)]
        for _ in range(2):
            ps.pull("t", rows=ids)
            ps.push("t", np.ones((400, 3)), rows=ids)
            ps.clock()

    play([table], work, workers=1, servers=servers)
    half = len(beliefs) // 2
    assert half > servers
    assert all((believed == -1).all() for believed, _ in beliefs[:half])
    assert all((believed == found).all() for believed, found in beliefs[half:])
