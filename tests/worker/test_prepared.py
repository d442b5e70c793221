"""A prepared round does what push, clock and pull do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpips
from mpips import Dense, Rows, optim
from mpips.errors import UnknownTable, UsageError
from mpips.worker import Worker
from tests.playing import WAYS, play, small_windows


def one(shape: tuple[int, ...] = (8,), name: str = "w", **options: Any) -> Dense:
    return Dense(name, shape, optim.Add(), **options)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_windows(monkeypatch)


@pytest.mark.parametrize("staleness", [0, 2, None])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shapes", [((8,),), ((),), ((5, 30),), ((8,), (2, 3), (100,))], ids=str)
def test_it_gives_the_bits_of_the_verbs(way: str, shapes: Any, staleness: int | None) -> None:
    if way in ("rings", "node") and staleness != 0:
        return
    rule = optim.make("momentum" if staleness == 0 else "sgd", lr=0.1)
    kinds = [Dense(f"t{i}", shape, rule, staleness=staleness) for i, shape in enumerate(shapes)]
    workers = 2 if staleness == 0 else 1  # with staleness, what several read depends on who was faster

    def job(handle: bool) -> Callable[[Worker], Any]:
        def work(ps: Worker) -> Any:
            draw = np.random.default_rng(ps.index)
            grads = {t.name: np.empty(t.shape, np.float32) for t in kinds}
            out = {t.name: np.empty(t.shape, np.float32) for t in kinds} if ps.index else None
            step, seen = ps.prepare(grads, out), list[Any]()
            assert out is None or all(step.values[name] is out[name] for name in out)
            for turn in range(5):
                for gradient in grads.values():
                    gradient[...] = draw.normal(size=gradient.shape)
                if handle or turn == 3:
                    values = step()
                    assert values is step.values
                else:
                    values = ps.pushpull(grads)
                if staleness == 0:
                    seen += [np.copy(values[t.name]) for t in kinds]
            ps.barrier()
            counts = {name: count for name, count in ps.stats.items() if "seconds" not in name and name != "retries"}
            return ps.now, seen, [ps.pull(t.name) for t in kinds] if workers == 1 else [], counts
        return work

    for seed in (0, 1):
        got, want = (play(kinds, job(handle), workers=workers, seed=seed, **WAYS[way]) for handle in (True, False))
        for name in [f"worker {k}" for k in range(workers)]:
            assert got[name][0] == want[name][0] == 5
            for mine, theirs in zip(got[name][1] + got[name][2], want[name][1] + want[name][2], strict=True):
                assert mine.tobytes() == theirs.tobytes()
            assert got[name][3] == want[name][3]


def test_arrays_are_looked_at_when_it_is_prepared() -> None:
    right, other = np.zeros((2, 3), np.float32), np.zeros((2, 3))

    def work(ps: Worker) -> float:
        with pytest.raises(UsageError, match="'w': a push takes"):
            ps.prepare({"w": other})
        with pytest.raises(UsageError, match="'w': out must be"):
            ps.prepare({"w": right}, {"w": other})
        with pytest.raises(UsageError, match="out for"):
            ps.prepare({"w": right}, {})
        with pytest.raises(UsageError, match="not a dict"):
            ps.prepare([right])  # type: ignore[arg-type]
        with pytest.raises(UnknownTable):
            ps.prepare({"x": right})
        with pytest.raises(UsageError, match="'r': prepare"):
            ps.prepare({"r": right})
        assert ps.prepare({})() == {}
        across = np.ones((3, 2), np.float32).T  # not contiguous: copied in each step, as by push
        step = ps.prepare({"w": across})
        step()
        across[...] = 5
        return float(step()["w"][1, 1])

    assert mpips.run(work, [one((2, 3)), Rows("r", 2, 3, optim.Add())], device="cpu") == [6.0]
