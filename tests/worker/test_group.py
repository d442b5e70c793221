"""Small tables together: in batches they are pushed and pulled as one by one."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

import mpips
from mpips import Dense, optim
from mpips.errors import NonFiniteGradient
from mpips.transport import plan
from mpips.worker import Reader, Worker, group, pull
from mpips.worker.group import batches
from tests.chaos import Chaos
from tests.playing import play, small_blocks

SIZES = (3, 8, 1, 5, 8, 40, 2, 0, 7, 6)  # elements; a block has 8, or 16 of float32


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    monkeypatch.setattr(plan, "PAGE", 64)
    monkeypatch.setattr(group, "PIECE", 64 * 4)


def several(staleness: int | None = 0, **options: Any) -> list[Dense]:
    kinds = [Dense(f"t{i}", (size,), optim.Add(), staleness=staleness, dtype="float64", **options) for i, size in enumerate(SIZES)]
    kinds[4] = Dense("t4", (2, 4), optim.Add(), staleness=staleness, dtype="float32", **options)
    return kinds


@pytest.mark.parametrize("servers", [1, 2])
def test_neighbours_of_one_dtype_make_a_batch(servers: int) -> None:
    def work(ps: Worker) -> list[list[str]]:
        found = ps._link.group(tuple(reversed(ps.tables)))
        assert sorted([*found.alone, *(i for owners in batches(found.states) for i in owners)]) == list(range(len(SIZES)))
        for batch in found.batches:
            slots = [found.states[i].runs[0].slot for i in batch.owners]
            assert slots == list(range(slots[0], slots[0] + len(slots)))
            assert len({found.states[i].runs[0].server for i in batch.owners}) == 1
        return [[found.states[i].table.name for i in batch.owners] for batch in found.batches]

    got = play(several(), work, workers=1, servers=servers)["worker 0"]
    assert got == [["t0", "t1", "t2", "t3"], ["t6", "t8", "t9"]] if servers == 1 else got


@pytest.mark.parametrize("staleness", [0, None])
@pytest.mark.parametrize("options", [{}, {"servers": 2}, {"far": True}], ids=str)
def test_they_give_the_bits_of_single_pushes(options: dict[str, Any], staleness: int | None) -> None:
    kinds = several(staleness)

    def job(together: bool) -> Any:
        def work(ps: Worker) -> Any:
            draw, seen = np.random.default_rng(1), list[Any]()
            for turn in range(8):
                some = [t for t in kinds if draw.random() < 0.8] if turn % 3 else kinds  # so that their halves differ
                grads = {t.name: draw.normal(size=t.shape).astype(t.np_dtype) for t in some}
                names = [t.name for t in draw.permutation(np.array(kinds, object))[:7]]
                if together:
                    ps.push(grads)
                else:
                    for name, gradient in grads.items():
                        ps.push(name, gradient)
                ps.clock()
                seen += ps.pull(names) if together else [ps.pull(name) for name in names]
            return seen, ps.pull(list(ps.tables))
        return work

    for seed in range(4):
        got, want = (play(kinds, job(together), workers=1, seed=seed, **options)["worker 0"] for together in (True, False))
        for mine, theirs in zip(got[0] + got[1], want[0] + want[1], strict=True):
            assert mine.tobytes() == theirs.tobytes()


def test_the_window_itself_is_written_where_it_is_mapped() -> None:
    def work(ps: Worker) -> bool:
        grads = {t.name: np.full(t.shape, i + 1, t.np_dtype) for i, t in enumerate(several())}
        for turn in range(1, 4):
            got = ps.pushpull(grads)
            for name, gradient in grads.items():
                assert got[name].tobytes() == (turn * gradient).tobytes()
        for name in ("t1", "t8"):  # their versions lie in the other copy now
            ps.push(name, grads[name])
        ps.clock()
        for name, value in zip(grads, ps.pull(list(grads)), strict=True):
            assert value.tobytes() == ((4 if name in ("t1", "t8") else 3) * grads[name]).tobytes()
        return True

    assert mpips.run(work, several(), device="cpu") == [True]


@pytest.mark.parametrize("far", [False, True])
def test_one_of_them_has_numbers_that_are_none(far: bool) -> None:
    kinds = several()
    kinds[1:4] = [Dense(f"t{i}", (SIZES[i],), optim.Add(), dtype="float64", nonfinite=how)
                  for i, how in ((1, "skip"), (2, "allow"), (3, "raise"))]

    def work(ps: Worker) -> Any:
        grads = {t.name: np.ones(t.shape, t.np_dtype) for t in kinds}
        grads["t1"][-1] = grads["t2"][0] = np.nan
        ps.push(grads)
        ps.clock()
        grads["t3"][2] = np.inf
        with pytest.raises(NonFiniteGradient, match="'t3'"):
            ps.push(grads)
        grads = {t.name: np.full(t.shape, 1e308 if t.dtype == "float64" else 1, t.np_dtype) for t in kinds}
        ps.push(grads)  # their sum overflows
        ps.clock()
        return ps.pull([t.name for t in kinds]), ps.stats["skipped"]

    for seed in range(4):
        values, skipped = play(kinds, work, workers=1, seed=seed, far=far)["worker 0"]
        assert skipped == 1
        assert (values[1] == 1e308).all(), "the first push of it was left out"
        assert np.isnan(values[2]).all()
        assert (values[3] == 1 + 1e308).all()
        assert (values[4] == 2).all()


def test_a_trace_names_them() -> None:
    def work(ps: Worker) -> list[str]:
        ps._link.trace = trace = _Names()  # type: ignore[assignment]
        ps.pull(["t0", "t1", "t5"])
        return trace.names

    assert sorted(play(several(), work, workers=1)["worker 0"][0].split(", ")) == ["t0", "t1", "t5"]


class _Names:
    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, verb: str, begin: float, *, clock: int, what: str) -> None:
        self.names += [what] if verb == "pull" else []


def tiny(staleness: int | None) -> list[Dense]:
    return [Dense(f"t{i}", (size,), optim.Add(), staleness=staleness, dtype="float64") for i, size in enumerate((3, 8, 2))]


@pytest.mark.parametrize("staleness", [0, 1, None])
@pytest.mark.parametrize(("servers", "readers"), [(1, 1), (2, 0)])
def test_every_read_keeps_its_promise(staleness: int | None, servers: int, readers: int) -> None:
    for seed in range(10):
        Chaos(tiny(staleness), seed, 2, servers, readers).run()


def test_a_batch_that_is_not_looked_at_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "broken", lambda marks, versions, clock, *, exact=False: [])

    def work(ps: Worker) -> None:
        for _ in range(8):
            ps.push({t.name: np.ones(t.shape) for t in tiny(None)})
            ps.clock()

    def read(ps: Reader) -> None:
        while not ps.done:
            for value in ps.pull(["t0", "t1", "t2"]):
                assert (value == value[0]).all(), f"torn: {value}"

    with pytest.raises(AssertionError, match="torn"):
        deque(play(tiny(None), work, readers=2, read=read, seed=seed) for seed in range(30))
