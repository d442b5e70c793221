"""Pushes through rings: the promises and the bits of whole mailboxes, with room for two blocks; mistakes in them are caught."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpips import Dense, optim
from mpips.errors import NonFiniteGradient, UsageError
from mpips.server import rings as server_rings
from mpips.transport import model, plan
from mpips.transport.plan import make_plan
from mpips.transport.words import TAIL
from mpips.worker import Worker
from mpips.worker import rings as worker_rings
from tests.chaos import Chaos, tables
from tests.playing import play, small_blocks

LEAST = 128  # bytes of two blocks


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    monkeypatch.setattr(plan, "PAGE", 64)
    monkeypatch.setattr(server_rings, "SLICE", 64)


@pytest.mark.parametrize("room", [1, 4])
@pytest.mark.parametrize(("workers", "servers", "readers"), [(1, 1, 0), (2, 1, 1), (2, 2, 0), (3, 2, 1)])
def test_every_read_keeps_its_promise(workers: int, servers: int, readers: int, room: int) -> None:
    for seed in range(8):
        Chaos(tables(0, 0), seed, workers, servers, readers, mailboxes=room * LEAST * workers, barriers=False).run()


@pytest.mark.parametrize("servers", [1, 2])
def test_every_checkpoint_is_a_cut(servers: int) -> None:
    for seed in range(8):
        Chaos(tables(0, 0), seed, workers=3, servers=servers, every=2, saves=seed % 2 == 0, at_end=True, mailboxes=3 * LEAST,
              barriers=False).run()


def test_tables_created_by_several_workers() -> None:
    for seed in range(8):
        later = [Dense("later", (30,), optim.Add(), dtype="float64")]
        Chaos(tables(0), seed, workers=3, servers=2, every=2, created=later, mailboxes=3 * LEAST, barriers=False).run()


def _trained(tables: list[Dense], seed: int, mailboxes: int | None, workers: int = 3, servers: int = 2) -> list[bytes]:
    """Bytes of all tables and slots after five clocks of random gradients, of which some workers leave some out."""
    def work(ps: Worker) -> None:
        draw = np.random.default_rng([7, ps.index])
        for _ in range(5):
            names = [t.name for t in tables if draw.random() < 0.8]
            wanted = {t.name: draw.standard_normal(t.shape).astype(t.np_dtype) for t in tables if t.name in names}
            for name, gradient in wanted.items():
                if name == "skips" and draw.random() < 0.4:
                    gradient.flat[-1] = np.nan
            if draw.random() < 0.5:
                ps.push(dict(sorted(wanted.items(), reverse=draw.random() < 0.5)))
            else:
                for name, gradient in wanted.items():
                    ps.ipush(name, gradient)
            ps.clock()
            ps.pull([t.name for t in tables])

    results = play(tables, work, workers=workers, servers=servers, seed=seed, mailboxes=mailboxes)
    return [b"".join([piece.value.tobytes(), *(slot.tobytes() for slot in piece.slots.values())])
            for server in range(servers) for piece in results[f"server {server}"]]


def _all_kinds(dtype: str) -> list[Dense]:
    return [Dense("big", (70,), optim.SGD(lr=0.1), dtype=dtype), Dense("tiny", (3,), optim.Adam(lr=0.1), dtype=dtype),
            Dense("mean", (40,), optim.Momentum(lr=0.1, clip=0.5, weight_decay=0.1), dtype=dtype, combine="mean"),
            Dense("skips", (20,), optim.SGD(lr=0.1), dtype=dtype, nonfinite="skip"),
            Dense("scalar", (), optim.SGD(lr=0.1), dtype=dtype),
            Dense("none", (0, 3), optim.SGD(lr=0.1), dtype=dtype)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_bits_are_those_of_whole_mailboxes(dtype: str) -> None:
    kinds = _all_kinds(dtype)
    want = _trained(kinds, 0, None)
    for seed in range(1, 6):
        assert _trained(kinds, seed, 3 * LEAST * (1 + seed % 2)) == want
    for seed in range(1, 5):
        assert _trained(kinds, seed, None) == want, "whole mailboxes themselves"


def test_pieces_of_several_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring small tables travel together, whatever lies between them."""
    small_blocks(monkeypatch, 256, 256)
    kinds = [Dense(f"{dtype}{n}", (n,), optim.SGD(lr=0.1), dtype=dtype)
             for dtype in ("float32", "float16", "float64") for n in (3, 5, 30, 70)]
    want = _trained(kinds, 0, None)
    for seed in range(1, 5):
        assert _trained(kinds, seed, 3 * 512) == want


def test_sums_may_overflow_in_silence() -> None:
    def work(ps: Worker) -> Any:
        ps.push("w", np.full(80, 3e38, np.float32))
        ps.clock()
        return ps.pull("w")

    assert np.isinf(play([Dense("w", (80,), optim.Add())], work, workers=2, mailboxes=2 * LEAST)["worker 0"]).all()


def test_a_push_may_take_longer_than_the_limit_while_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ps: Worker) -> None:
        monkeypatch.setattr(ps._link, "limit", 0.05)
        begin = time.monotonic()
        ps.push("w", np.ones(8000))
        assert time.monotonic() - begin > 0.05, "or this shows nothing"

    play([Dense("w", (8000,), optim.Add(), dtype="float64")], work, workers=1, mailboxes=LEAST)


def test_one_push_is_larger_than_the_ring() -> None:
    """100 blocks, room for two; nothing is lost, and the worker goes on as the server takes them out."""
    def work(ps: Worker) -> Any:
        for _ in range(3):
            ps.push("w", np.arange(800.0))
            ps.clock()
        return ps.pull("w")

    got = play([Dense("w", (800,), optim.Add(), dtype="float64")], work, workers=2, mailboxes=2 * LEAST)
    assert (got["worker 1"] == 6 * np.arange(800.0)).all()


def test_nan_is_found_before_anything_leaves() -> None:
    def work(ps: Worker) -> Any:
        bad = np.ones(80)
        bad[-1] = np.nan
        with pytest.raises(NonFiniteGradient, match="table 'w'"):
            ps.push("w", bad)
        ps.push("w", np.ones(80))
        ps.clock()
        return ps.pull("w")

    got = play([Dense("w", (80,), optim.Add(), dtype="float64")], work, workers=2, mailboxes=2 * LEAST)
    assert (got["worker 0"] == 2).all()


def test_gradients_are_not_written_in_place() -> None:
    def work(ps: Worker) -> Any:
        context = ps.gradients("w")
        with context as gradient:
            gradient[:] = 3
        ps.clock()
        return context.zero_copy, ps.pull("w")[0]

    assert play([Dense("w", (80,), optim.Add())], work, workers=1, mailboxes=LEAST)["worker 0"] == (False, 3)


def test_rings_only_where_they_are_needed() -> None:
    table = Dense("w", (1000,), optim.SGD(lr=0.1))
    whole = make_plan([table], servers=1, workers=2)
    assert not whole.rings
    assert not make_plan([table], servers=1, workers=2, mailboxes=2 * 2 * 8192).rings
    ring = make_plan([table], servers=1, workers=2, mailboxes=2 * 1024)
    assert ring.rings
    assert ring.maps[0].size - ring.maps[0].mailbox(0, 0) == 2 * 1024


@pytest.mark.parametrize(("staleness", "mailboxes", "says"), [
    (None, 4096, "table 'w': staleness None"), (2, 4096, "table 'w': staleness 2"), (0, 255, "mailboxes=255 bytes for 2 workers")])
def test_what_rings_cannot_do_is_refused(staleness: int | None, mailboxes: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_plan([Dense("w", (10_000,), optim.SGD(lr=0.1), staleness=staleness)], servers=1, workers=2, mailboxes=mailboxes)


def test_a_table_with_staleness_cannot_be_created_later() -> None:
    def work(ps: Worker) -> None:
        with pytest.raises(UsageError, match=r"table 'later': staleness None where mailboxes are rings"):
            ps.create(Dense("later", (4,), optim.Add(), staleness=None))

    play([Dense("w", (400,), optim.Add())], work, workers=1, mailboxes=LEAST, reserve=4096)


def _head_before_data(patch: pytest.MonkeyPatch) -> None:
    """A piece is said to stand in the ring while it is under way."""
    flush = model.Endpoint.flush
    patch.setattr(model.Endpoint, "flush",
                  lambda self, s: None if sys._getframe(1).f_code.co_name == "put" else flush(self, s))


def _tail_before_reading(patch: pytest.MonkeyPatch) -> None:
    """A place is free before what stands there has been added up."""
    take = server_rings.Rings._take

    def hasty(self: Any, worker: int, count: int) -> int:
        words = self._plan.words
        self._transport.store(self._store.index, words.reply(worker) + TAIL, count + 1)
        self._transport.sync()
        self._transport.pause(0)
        return take(self, worker, count)

    patch.setattr(server_rings.Rings, "_take", hasty)


def _tail_not_read(patch: pytest.MonkeyPatch) -> None:
    """A worker writes over what has not been added up."""
    patch.setattr(worker_rings.Ring, "_room", lambda self, nbytes: (self._head % 2) * 64)


def _folded_too_early(patch: pytest.MonkeyPatch) -> None:
    """A clock is folded before all pieces have been added up."""
    patch.setattr(server_rings.Rings, "through", lambda self, cohort, clock: True)


@pytest.mark.parametrize("mistake", [_head_before_data, _tail_before_reading, _tail_not_read, _folded_too_early])
def test_a_broken_ring_is_caught(mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    for seed in range(60):
        try:
            Chaos(tables(0, size=40), seed, workers=3, servers=1, readers=1, clocks=6, mailboxes=3 * LEAST, barriers=False).run()
        except Exception:  # noqa: BLE001 - a broken protocol may fail in any way
            return
    pytest.fail(f"{mistake.__name__} was not noticed")


def test_adding_out_of_turn_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in the order of arrival have other bits."""
    monkeypatch.setattr(server_rings.Rings, "_turn", lambda self, cohort, worker, clock, lo, hi: cohort.floor == clock)
    kinds = _all_kinds("float32")
    got = []
    for seed in range(6):
        try:
            got.append(_trained(kinds, seed, 3 * LEAST))
        except Exception:  # noqa: BLE001 - a broken protocol may fail in any way
            return
    assert any(result != got[0] for result in got)


@pytest.mark.parametrize("seed", range(5))
def test_a_push_begun_inside_gradients_is_committed_before_them(seed: int) -> None:
    """It goes piece by piece: another push in between would take its pieces for its own."""
    def work(ps: Worker) -> list[float]:
        found = []
        for _ in range(3):
            with ps.gradients("w") as gradient:
                inside = ps.ipush("v", np.ones((10, 16), np.float32))
                gradient[:] = 10
            assert inside.test()
            ps.clock()
            found += [float(x) for values in ps.pull(["w", "v"]) for x in np.unique(values)]
        return found

    both = [Dense(name, (10, 16), optim.Add()) for name in ("w", "v")]
    results = play(both, work, servers=2, seed=seed, mailboxes=2 * LEAST)
    assert results["worker 0"] == results["worker 1"] == [20, 2, 40, 4, 60, 6]
