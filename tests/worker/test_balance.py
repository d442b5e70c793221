"""How evenly servers are asked and pushed to where few ids are frequent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import Rows, optim
from mpips.worker.rows import parts_of
from tests.playing import play

WAYS = {  # how ids may be made of 1, 2, 3, ... by their frequency
    "as they are": lambda k: k, "far apart": lambda k: k << 32, "even": lambda k: 840 * k, "negative": lambda k: -k,
    "any": lambda k: np.random.default_rng(1).integers(-1 << 63, 1 << 63, k.max() + 1)[k],
}


def zipf(seed: int, power: float, n: int = 20_000) -> Any:
    """The different ids of a batch drawn by Zipf's law."""
    return np.unique(np.minimum(np.random.default_rng(seed).zipf(power, n), 1 << 20))


def table(rows: int | None) -> Rows:
    return Rows("t", rows=rows, dim=1, optimizer=optim.Add(), capacity=None if rows else 1 << 21)


def largest(counts: Any) -> float:
    return float(max(counts) / np.mean(counts))


@pytest.mark.parametrize("servers", range(2, 9))
@pytest.mark.parametrize("power", [1.1, 1.3])
def test_ids_of_a_law_of_powers_do_not_pile_up(servers: int, power: float) -> None:
    for seed in range(5):
        ids = zipf(seed, power)
        for way in WAYS.values():
            found = [len(part.index) for part in parts_of(table(None), way(ids), servers)]
            assert len(found) == servers
            assert largest(found) < 1.2
        assert largest([len(part.index) for part in parts_of(table((1 << 20) + 1), ids, servers)]) < 1.2


def test_servers_say_how_even_it_was() -> None:
    def work(ps: Any) -> Any:
        for clock in range(3):
            ids = np.random.default_rng((ps.index, clock)).zipf(1.2, 4000)
            ps.push("t", np.ones((4000, 1), np.float32), rows=ids)
            ps.clock()
        ps.pull("t", rows=[1])
        ps.barrier()
        return [(counts["rows"], counts["pushed"]) for counts in ps.server_stats("t")]

    rows, pushed = zip(*play([table(None)], work, servers=3)["worker 0"], strict=True)
    assert sum(pushed) < 24_000  # different ids
    assert largest(pushed) < 1.2
    assert largest(rows) < 1.2
