"""The short way of a push and a pull does what the long one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpips
from mpips import Dense, Rows, optim
from mpips.errors import NonFiniteGradient, ProtocolError, UsageError
from mpips.transport.local import Local
from mpips.transport.words import BEGIN, VERSION
from mpips.worker import Worker, short
from tests.chaos import Chaos, tables
from tests.playing import WAYS, play, small_windows


def one(shape: tuple[int, ...] = (8,), name: str = "w", **options: Any) -> Dense:
    return Dense(name, shape, optim.Add(), **options)


def turn(ps: Worker, name: str, gradient: Any) -> Any:
    ps.push(name, gradient)
    ps.clock()
    return ps.pull(name)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_windows(monkeypatch)


@pytest.mark.parametrize("staleness", [0, 2, None])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(8,), (), (2, 3), (5, 30), (0,)], ids=str)
def test_it_gives_the_bits_of_the_long_way(way: str, shape: tuple[int, ...], staleness: int | None) -> None:
    if way in ("rings", "node") and staleness != 0:
        return
    rule = optim.make("momentum" if staleness == 0 else "sgd", lr=0.1)
    table = Dense("w", shape, rule, staleness=staleness)
    workers = 2 if staleness == 0 else 1  # with staleness, what several read depends on who was faster

    def job(singly: bool) -> Callable[[Worker], Any]:
        def work(ps: Worker) -> Any:
            draw, seen = np.random.default_rng(ps.index), list[Any]()
            out = np.empty(shape, np.float32) if ps.index else None
            for turn in range(5):
                gradient = draw.normal(size=shape).astype(np.float32)
                if singly or turn == 3:
                    ps.push("w", gradient)
                    ps.clock()
                    values = ps.pull("w", out)
                    assert out is None or values is out
                else:
                    ps.push({"w": gradient})
                    ps.clock()
                    (values,) = ps.pull(["w"])
                if staleness == 0:
                    seen.append(values.copy())
                    assert values.shape == shape
            ps.barrier()
            counts = {name: count for name, count in ps.stats.items() if "seconds" not in name and name != "retries"}
            ps.clock()
            ps.barrier()
            return seen, ps.pull("w") if workers == 1 else None, counts
        return work

    for seed in (0, 1):
        got, want = (play([table], job(singly), workers=workers, seed=seed, **WAYS[way]) for singly in (True, False))
        for name in [f"worker {k}" for k in range(workers)]:
            assert [v.tobytes() for v in got[name][0]] == [v.tobytes() for v in want[name][0]]
            assert workers > 1 or got[name][1].tobytes() == want[name][1].tobytes()
            assert got[name][2] == want[name][2]


def test_who_has_one() -> None:
    kinds = [one(), one((100,), "long"), one((), "number"), Rows("r", 2, 3, optim.Add())]

    def work(ps: Worker) -> list[bool]:
        return [ps._short(table.name) is not None for table in kinds]

    assert mpips.run(work, kinds, device="cpu") == [[True, False, True, False]]
    assert play(kinds[:2], lambda ps: (ps._link.plan.rings, ps._short("w")), mailboxes=2 * 128)["worker 0"] == (True, None)
    assert play(kinds[:1], lambda ps: None, read=lambda ps: ps._short("w"), readers=1)["reader 0"] is None


@pytest.mark.parametrize("staleness", [0, 2, None])
@pytest.mark.parametrize(("workers", "servers", "readers"), [(1, 1, 0), (2, 1, 1), (3, 2, 1)])
def test_every_read_keeps_its_promise(staleness: int | None, workers: int, servers: int, readers: int) -> None:
    for seed in range(12):
        options: dict[str, Any] = {"every": 2, "saves": True, "at_end": True} if seed % 3 == 2 else {}
        Chaos(tables(staleness, size=8), seed, workers, servers, readers, singly=0.8, **options).run()


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(short, "whole", lambda row, version, clock: True)


def not_new_enough(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(short.Short, "_ready", lambda self: True)


def half_reused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(short, "wait_half", lambda link, group: None)


def commit_before_data(patch: pytest.MonkeyPatch) -> None:
    push = short.Short.push

    def hasty(self: Any, gradient: Any) -> bool:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self._link, "all_flush", lambda: None)
            return push(self, gradient)

    patch.setattr(short.Short, "push", hasty)


@pytest.mark.parametrize("mistake", [no_second_look, not_new_enough, half_reused, commit_before_data], ids=lambda f: f.__name__)
def test_a_broken_protocol_is_caught(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    for seed in range(200):
        try:
            Chaos(tables(0 if seed % 4 == 0 else None, size=8), seed, workers=3, clocks=12, barriers=False, singly=1.0).run()
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
        value = turn(ps, "w", np.ones(8, np.float32))
        looks.append(ps._link.plan.words.block(0))
        value = turn(ps, "w", np.ones(8, np.float32))
        return float(value[0]), ps.stats["pulls"]

    monkeypatch.setattr(Local, "row", changing)
    assert mpips.run(work, [one(staleness=None)], device="cpu") == [(2.0, 2)]
    assert len(looks) == 5, "read once by the short way and once by the verb"


@pytest.mark.parametrize("shape", [(8,), (100,)])
def test_numbers_that_are_none(shape: tuple[int, ...]) -> None:
    def work(ps: Worker) -> Any:
        bad = np.full(shape, np.nan, np.float32)
        with pytest.raises(NonFiniteGradient, match="'raise'"):
            ps.push("raise", bad)
        assert (turn(ps, "raise", np.full(shape, 2, np.float32)) == 2).all(), "another gradient may be pushed instead"
        assert (turn(ps, "skip", bad) == 0).all()
        assert np.isnan(turn(ps, "allow", bad)).all()
        return ps.now, ps.stats["skipped"], ps.stats["pushes"]

    kinds = [one(shape, name, nonfinite=name) for name in ("raise", "skip", "allow")]
    assert mpips.run(work, kinds, device="cpu") == [(3, 1, 3)]


@pytest.mark.parametrize("wrong", [np.ones(8), np.ones(9, np.float32), [1.0] * 8, np.ones((8, 2), np.float32)[:, 0]], ids=repr)
def test_arrays_that_do_not_fit_as_they_are(wrong: Any) -> None:
    def work(ps: Worker) -> float:
        if isinstance(wrong, list) or wrong.dtype != np.float32 or wrong.shape != (8,):
            with pytest.raises(UsageError, match="'w': a push takes an array of shape"):
                ps.push("w", wrong)
            ps.push("w", np.ones(8, np.float32))
        else:
            ps.push("w", wrong)
        ps.clock()
        with pytest.raises(UsageError, match="'w': out must be"):
            ps.pull("w", out=wrong)
        return float(ps.pull("w").sum())

    assert mpips.run(work, [one()], device="cpu") == [8.0]


def test_what_was_begun_before_comes_before() -> None:
    def work(ps: Worker) -> Any:
        gradient = np.ones(8, np.float32)
        ps.push("w", gradient)
        with pytest.raises(ProtocolError, match="closed for clock 0"):
            ps.push("w", gradient)
        ps.clock()
        ps.push("w", gradient, more=True)
        assert (turn(ps, "w", gradient) == 3).all()
        with ps.gradients("w") as inside:
            inside[...] = 5
            with pytest.raises(ProtocolError, match="inside"):
                ps.push("w", gradient)
        late = ps.ipull("w")
        ps.clock()
        assert (late.wait() == 3).all()
        for _ in range(2):  # in one process the server runs only while the worker waits: now no half is free
            ps.push("v", gradient)
        ps.ipush("v", np.full(8, np.nan, np.float32))
        with pytest.raises(NonFiniteGradient, match="'v'"):
            ps.push("w", gradient)
        return float(turn(ps, "w", gradient)[0]), float(ps.pull("v")[0])

    assert mpips.run(work, [one(), one(name="v", staleness=None)], device="cpu") == [(9.0, 2.0)]
