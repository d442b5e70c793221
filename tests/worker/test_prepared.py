"""A prepared round does what push, clock and pull do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpips
from mpips import Dense, Rows, optim
from mpips.errors import NonFiniteGradient, ProtocolError, UnknownTable, UsageError
from mpips.transport import plan
from mpips.transport.local import Local
from mpips.transport.words import BEGIN, VERSION
from mpips.worker import Worker, prepared
from tests.chaos import Chaos, tables
from tests.playing import play, small_blocks

WAYS: dict[str, dict[str, Any]] = {
    "mailboxes": {}, "two servers": {"servers": 2}, "far": {"far": True},
    "rings": {"mailboxes": 2 * 128}, "node": {"nodes": (0, 0)},
}


def one(shape: tuple[int, ...] = (8,), name: str = "w", **options: Any) -> Dense:
    return Dense(name, shape, optim.Add(), **options)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    monkeypatch.setattr(plan, "PAGE", 64)


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


@pytest.mark.parametrize("staleness", [0, 2, None])
@pytest.mark.parametrize(("workers", "servers", "readers"), [(1, 1, 0), (2, 1, 1), (3, 2, 1)])
def test_every_read_keeps_its_promise(staleness: int | None, workers: int, servers: int, readers: int) -> None:
    for seed in range(12):
        options: dict[str, Any] = {"every": 2, "saves": True, "at_end": True} if seed % 3 == 2 else {}
        Chaos(tables(staleness, size=8), seed, workers, servers, readers, rounds=0.8, **options).run()


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prepared, "whole", lambda row, version, clock: True)


def not_new_enough(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prepared._Short, "_ready", lambda self: True)


def half_reused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prepared, "wait_half", lambda link, group: None)


def commit_before_data(patch: pytest.MonkeyPatch) -> None:
    short = prepared._Short.push

    def hasty(self: Any) -> bool:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self._link, "all_flush", lambda: None)
            return short(self)

    patch.setattr(prepared._Short, "push", hasty)


@pytest.mark.parametrize("mistake", [no_second_look, not_new_enough, half_reused, commit_before_data], ids=lambda f: f.__name__)
def test_a_broken_protocol_is_caught(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    for seed in range(200):
        try:
            Chaos(tables(0 if seed % 4 == 0 else None, size=8), seed, workers=3, clocks=12, barriers=False, rounds=1.0).run()
        except Exception:  # noqa: BLE001 - a broken protocol may fail in any way
            return
    pytest.fail(f"{mistake.__name__} was not noticed")


def test_a_block_that_is_not_whole_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks that change while it is read; in memory that is mapped, where the schedules above do not come."""
    row, looks = Local.row, list[int]()

    def changing(self: Local, server: int, word: int, count: int) -> list[int]:
        words = row(self, server, word, count)
        if looks and word == looks[0]:
            looks.append(words[BEGIN])
            if len(looks) == 3:  # the second look of the first read
                words[BEGIN] = words[VERSION] + 2
        return words

    def work(ps: Worker) -> tuple[float, float]:
        step = ps.prepare({"w": np.ones(8, np.float32)})
        step()
        looks.append(ps._link.plan.words.block(0))
        return float(step()["w"][0]), ps.stats["pulls"]

    monkeypatch.setattr(Local, "row", changing)
    assert mpips.run(work, [one(staleness=None)], device="cpu") == [(2.0, 2)]
    assert len(looks) == 5, "read once by the short way and once by the verb"


@pytest.mark.parametrize("shape", [(8,), (100,)])
def test_numbers_that_are_none(shape: tuple[int, ...]) -> None:
    def work(ps: Worker) -> Any:
        gradients = {name: np.full(shape, np.nan, np.float32) for name in ("raise", "skip", "allow")}
        steps = {name: ps.prepare({name: gradient}) for name, gradient in gradients.items()}
        with pytest.raises(NonFiniteGradient, match="'raise'"):
            steps["raise"]()
        assert ps.now == 0
        gradients["raise"][...] = 2
        assert (steps["raise"]()["raise"] == 2).all(), "another gradient may be pushed instead"
        assert (steps["skip"]()["skip"] == 0).all()
        assert np.isnan(steps["allow"]()["allow"]).all()
        return ps.now, ps.stats["skipped"], ps.stats["pushes"]

    kinds = [one(shape, name, nonfinite=name) for name in ("raise", "skip", "allow")]
    assert mpips.run(work, kinds, device="cpu") == [(3, 1, 3)]


def test_what_was_begun_before_comes_before() -> None:
    def work(ps: Worker) -> Any:
        gradient = np.ones(8, np.float32)
        step = ps.prepare({"w": gradient})
        ps.push("w", gradient)
        with pytest.raises(ProtocolError, match="closed for clock 0"):
            step()
        ps.clock()
        ps.push("w", gradient, more=True)
        assert (step()["w"] == 3).all()
        with ps.gradients("w") as inside:
            inside[...] = 5
            with pytest.raises(ProtocolError, match="inside"):
                step()
        late = ps.ipull("w")
        ps.clock()
        assert (late.wait() == 3).all()
        for _ in range(2):  # in one process the server runs only while the worker waits: now no half is free
            ps.push("v", gradient)
        ps.ipush("v", np.full(8, np.nan, np.float32))
        with pytest.raises(NonFiniteGradient, match="'v'"):
            step()
        return float(step()["w"][0]), float(ps.pull("v")[0])

    assert mpips.run(work, [one(), one(name="v", staleness=None)], device="cpu") == [(9.0, 2.0)]


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
