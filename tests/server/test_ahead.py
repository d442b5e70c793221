"""Many small tables, folded ahead a chunk at a time: all that is read, and what is left, is bit by bit what it is without."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from mpips import Dense, init, optim
from mpips.errors import NonFiniteGradient
from mpips.server.ahead import Ahead
from mpips.transport import model
from mpips.worker import Worker, group
from tests.playing import Recorder, play, small_blocks

SIZES = (1, 3, 8, 9, 17, 40)
RULES = (optim.Add(), optim.SGD(0.1), optim.SGD(0.3), optim.Adam(0.1))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Fast servers; and for each fold, how many blocks of how many were ready in chunks of several."""
    take, found, pick = Ahead.take, [], model.World._pick

    def noted(self: Ahead, job: Any) -> set[int]:
        ready, chunks = take(self, job), self._store.chunks(job.cohorts[0])
        assert ready <= {chunk.lo for chunk in chunks}
        found.append((sum(c.hi - c.lo for c in chunks if c.lo in ready and c.hi - c.lo > 1), sum(c.hi - c.lo for c in chunks)))
        return ready

    def fast(self: model.World, ready: list[int]) -> int:
        servers = [i for i in ready if self.ranks[i].name.startswith("server")]
        return self.random.choice(servers) if servers and self.random.random() < 0.7 else pick(self, ready)

    monkeypatch.setattr(Ahead, "take", noted)
    monkeypatch.setattr(model.World, "_pick", fast)
    return found


class Program:
    """Workers that mostly push all tables at once; some gradients have NaN, and another is pushed instead where that is refused."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed, self.workers, self.servers = seed, draw.randint(1, 3), draw.choice([1, 1, 2])
        self.nan, self.together = draw.choice([0, 0.1]), draw.choice([1, 0.8])
        rule, dtype = draw.choice(RULES[:3]), draw.choice(["float64", "float32", "bfloat16"])
        self.tables = [Dense(f"t{i}", (draw.choice(SIZES),), rule if draw.random() < 0.7 else draw.choice(RULES),
                             dtype=dtype if draw.random() < 0.9 else "float64", combine="mean" if draw.random() < 0.1 else "sum",
                             nonfinite=draw.choice(["skip", "raise", "allow"])) for i in range(draw.randint(3, 10))]
        self.names = [table.name for table in self.tables]

    def gradient(self, table: Dense, draw: random.Random) -> Any:
        values = np.random.default_rng(draw.randrange(1 << 30)).normal(size=table.size).astype(table.np_dtype)
        if table.nonfinite != "allow" and draw.random() < self.nan:
            values[-1] = np.nan
        return values

    def work(self, ps: Worker) -> list[bytes]:
        draw, seen = random.Random(self.seed * 7 + ps.index), []
        for _ in range(draw.randint(2, 4)):
            mixed = draw.sample(self.tables, len(self.tables))
            cut = 0 if draw.random() < self.together else draw.randrange(len(mixed))
            for part in (mixed[:cut], mixed[cut:]):
                self.push(ps, {table.name: self.gradient(table, draw) for table in part}, draw)
                if draw.random() < 0.5:  # still of this clock, though the push may be under way
                    seen += [np.array(value).tobytes() for value in ps.pull(draw.sample(self.names, 2))]
            ps.clock()
            seen += [np.array(value).tobytes() for value in ps.pull(self.names)]
        return seen

    def push(self, ps: Worker, gradients: dict[str, Any], draw: random.Random) -> None:
        if not gradients:
            return
        try:
            ps.ipush(gradients).wait() if draw.random() < 0.2 else ps.push(gradients)
        except NonFiniteGradient:
            names = draw.sample(list(gradients), draw.randint(1, len(gradients)))
            ps.push({name: np.ones_like(gradients[name]) for name in names})

    def run(self) -> dict[str, Any]:
        found = play(self.tables, self.work, workers=self.workers, servers=self.servers, seed=self.seed)
        for name in [name for name in found if name.startswith("server")]:
            found[name] = [(p.table.name, p.index, p.folds, p.value.tobytes(), [slot.tobytes() for slot in p.slots.values()])
                           for p in found[name]]
        return found


@pytest.mark.parametrize("block", [128, 256, 512])
def test_it_makes_no_difference(block: int, taken: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, block, block)
    monkeypatch.setattr(group, "PIECE", block // 2)
    step = Ahead.step
    for seed in range(12):
        found = Program(seed).run()
        monkeypatch.setattr(Ahead, "step", lambda self: False)
        assert found == Program(seed).run()
        monkeypatch.setattr(Ahead, "step", step)
    assert any(ready > 0 for ready, _ in taken), "no chunk of several tables was ready"
    assert any(0 < ready < whole for ready, whole in taken), "no fold was done in part"


def test_what_a_refused_push_has_left_behind_is_not_folded(taken: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Part of its tables is pushed instead and goes on alone, though a worker still reads what it was; and Adam's moments stay."""
    small_blocks(monkeypatch, 128, 128)
    monkeypatch.setattr(group, "PIECE", 128)
    tables = [Dense(f"t{i}", (8,), optim.Adam(0.1) if i % 4 == 1 else optim.Add(), dtype="float64") for i in range(9)]

    def work(ps: Worker) -> list[Any]:
        seen = []
        for clock in range(3):
            gradients = {table.name: np.full(8, 1.0 + clock + ps.index) for table in tables}
            with pytest.raises(NonFiniteGradient):
                ps.push({**gradients, "t8": np.full(8, np.nan)})
            ps.ipush({name: gradients[name] for name in ("t0", "t1", "t2", "t3")}).wait(applied=ps.index == 0)
            for _ in range(3):
                seen += [value.tolist() for value in ps.pull(["t0", "t1", "t2", "t3"])]
            ps.clock()
        return [*seen, *[value.tolist() for value in ps.pull([table.name for table in tables])]]

    with monkeypatch.context() as without:
        without.setattr(Ahead, "step", lambda self: False)
        want = play(tables, work)
    for seed in range(20):
        found = play(tables, work, seed=seed)
        assert all(found[f"worker {k}"] == want[f"worker {k}"] for k in range(2))


def test_tables_of_other_histories_are_not_folded_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored table has as many folds as it had before, its neighbour others; from then on they are pushed together."""
    small_blocks(monkeypatch, 128, 128)
    tables, saver = [Dense(name, (4,), optim.Add(), init.constant(5.0), dtype="float64") for name in "ab"], Recorder()

    def first(ps: Worker) -> None:
        ps.push("a", np.ones(4))
        ps.clock()

    def then(ps: Worker) -> list[Any]:
        for _ in range(3):
            ps.pushpull({"a": np.ones(4), "b": np.full(4, 10.0)})
        return [value.tolist() for value in ps.pull(["a", "b"])]

    play(tables, first, workers=1, saver=saver, at_end=True)
    found = play(tables, then, workers=1, restored=saver.restored(), clocks=[1])
    assert found["worker 0"] == [[9.0] * 4, [35.0] * 4]
