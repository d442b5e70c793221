"""Every interleaving of tiny jobs, one server, two workers, two blocks; and broken protocols that the enumeration finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpips import Dense, optim
from mpips.transport.explore import Explorer, Found
from mpips.worker import Worker
from mpips.worker.pull import Pull
from tests import broken
from tests.playing import explorer, small_blocks

SIZE = 10  # elements of 8 bytes: a block of eight and one of two


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


@pytest.fixture(autouse=True)
def whole_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The enumeration takes each turn of a wait for the same, but a pull that reads blocks while it waits gets on in between.
    Those are left to random schedules (`tests/server/test_protocol.py`)."""
    monkeypatch.setattr(Pull, "_read_early", lambda self: None)


def job(staleness: int | None, clocks: int, workers: int = 2, limit: int = 0) -> Explorer:
    """Each worker adds a power of two of its own in each clock; what is read under BSP, and what is left in the end, is known."""
    def work(ps: Worker) -> bool:
        if ps.now == clocks:
            return False
        value = ps.pull("w")
        if staleness == 0:
            assert (value == _sum(range(ps.now), workers)).all(), f"worker {ps.index} in clock {ps.now} read {value}"
        own = (value.astype(np.int64) >> 8 * ps.index) & 0xFF
        assert (own == 2**ps.now - 1).all(), f"worker {ps.index} in clock {ps.now} does not see its own pushes: {value}"
        ps.push("w", np.full(SIZE, 2.0 ** (8 * ps.index + ps.now)))
        ps.clock()
        return True

    found = explorer([Dense("w", (SIZE,), optim.Add(), staleness=staleness, dtype="float64")], work, workers=workers, limit=limit)

    def check(results: list[Any]) -> None:
        for piece in results[0]:
            assert (piece.value == _sum(range(clocks), workers)).all(), f"in the end: {piece.value}"

    found.check = check
    return found


def _sum(clocks: range, workers: int) -> float:
    return sum(2.0 ** (8 * w + c) for w in range(workers) for c in clocks)


@pytest.mark.timeout(900)  # 30 s where nothing else runs
@pytest.mark.parametrize("clocks", [1, 2])
def test_every_interleaving_of_two_workers_and_two_blocks_under_bsp(clocks: int) -> None:
    found = job(0, clocks=clocks)
    assert found.run(), "it was not gone through to its end"
    assert found.states > 1000
    assert found.ends >= 1


@pytest.mark.parametrize("staleness", [0, None])
def test_every_interleaving_of_one_worker_and_two_clocks(staleness: int | None) -> None:
    found = job(staleness, clocks=2, workers=1)
    assert found.run(), "it was not gone through to its end"
    assert found.ends >= 1


@pytest.mark.parametrize("mistake", [broken.commit_before_data, broken.acknowledged_before_version], ids=lambda f: f.__name__)
def test_a_broken_protocol_is_found(mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of `broken` need more ranks than can be gone through; `tests/server/test_protocol.py` finds them at random."""
    mistake(monkeypatch)
    found = job(None, clocks=2, workers=1)
    with pytest.raises(Found):
        found.run()
