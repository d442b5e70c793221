"""Logs and questions of tables of rows in bad order, on the weak memory: each case was wrong once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import Dense, init, optim
from mpips.server import server
from mpips.transport import plan
from mpips.worker import row_push
from tests.playing import Recorder, play, small_blocks, small_logs
from tests.server.test_rows import table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_logs(monkeypatch)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_piece_is_put_aside_while_its_push_is_folded(monkeypatch: pytest.MonkeyPatch, seed: int, named: bool) -> None:
    """Its place in the log is written over then; the fold must not look there any more."""
    monkeypatch.setattr(server, "SLICE", 1)  # one batch, then the mailboxes: as in life with pieces of 1 MB
    kind = {"rows": None, "capacity": 1200} if named else {"rows": 1200}
    t = table(optimizer=optim.Add(), staleness=None, init=init.zeros(), **kind)

    def work(ps: Any) -> Any:
        for clock in range(6):
            ps.push("t", np.full((200, 3), 10.0 ** clock), rows=np.arange(200) + 200 * clock)
            ps.clock()
        return ps.pull("t", rows=np.arange(1200))

    got = play([t], work, workers=1, seed=seed)["worker 0"][:, 0]
    np.testing.assert_array_equal(got, np.repeat(10.0 ** np.arange(6), 200))


@pytest.mark.parametrize("seed", range(2))
def test_small_pieces_before_large_ones(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """However many are put aside, it must be enough for the next piece."""
    monkeypatch.setattr(plan, "LOG", 1 << 14)
    monkeypatch.setattr(row_push, "PIECE", 1 << 20)
    tables = [table(f"s{k}", rows=4, dim=1) for k in range(20)] + [table("b", rows=2000, dim=3)]

    def work(ps: Any) -> None:
        for k in range(20):
            ps.push(f"s{k}", np.ones((1, 1)), rows=[0])
        ps.push("b", np.ones((1000, 3)), rows=np.arange(1000))
        ps.clock()

    play(tables, work, workers=1, seed=seed)


@pytest.mark.parametrize("seed", range(2))
def test_pieces_that_a_fold_has_seen_first(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """They fill the log like others."""
    monkeypatch.setattr(row_push, "PIECE", 1 << 20)
    tables = [table("a", staleness=None, rows=4, dim=1), table("b", rows=2000, dim=3)]
    fold = server.RowFolds.fold

    def slow(self: Any, job: Any) -> int:  # this server is slow here: a schedule like any other
        for _ in range(300):
            self._transport._turn()
        return fold(self, job)

    monkeypatch.setattr(server.RowFolds, "fold", slow)

    def work(ps: Any) -> None:
        ps.push("a", np.ones((1, 1)), rows=[0])
        ps.push("b", np.ones((300, 3)), rows=np.arange(300))

    play(tables, work, workers=1, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_a_push_between_a_question_and_its_answer(seed: int) -> None:
    """The push stays in the log until this worker's clock; the question is answered all the same."""
    def work(ps: Any) -> Any:
        handle = ps.ipull("t", rows=[1, 2, 3])
        ps.push("u", np.ones((3, 3)), rows=[1, 2, 3])
        got = handle.wait()
        ps.clock()
        return got

    assert (play([table(init=init.constant(2.0)), table("u")], work, workers=1, seed=seed, far=True)["worker 0"] == 2).all()


@pytest.mark.parametrize("seed", range(4))
def test_several_questions_at_once(seed: int) -> None:
    """Each gets its own answers, in whatever order they are waited for; one is never waited for."""
    def work(ps: Any) -> Any:
        handles = [ps.ipull(name, rows=np.arange(20)) for name in "tut"]
        got = handles[1].wait(), handles[0].wait()
        assert (got[0] == 2).all()
        assert (got[1] == 1).all()
        ps.push("u", np.ones((3, 3)), rows=[1, 2, 3])
        assert (ps.pull("t", rows=[5]) == 1).all()
        ps.clock()

    play([table(init=init.constant(1.0)), table("u", init=init.constant(2.0))], work, workers=2, servers=2, seed=seed, far=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_question_while_the_log_is_full(seed: int) -> None:
    t = [table("a", rows=400), table("b", rows=20, staleness=None, init=init.constant(3.0))]

    def work(ps: Any) -> None:
        for _ in range(3):
            handle = ps.ipush("a", np.ones((300, 3)), rows=np.arange(300))
            assert (ps.pull("b", rows=np.arange(20)) == 3).all()
            handle.wait()
            ps.clock()

    play(t, work, workers=2, seed=seed, far=True)


@pytest.mark.parametrize("seed", range(3))
def test_rows_with_staleness_beside_rings_and_cuts(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A worker that has pushed rows cannot stand still, and its dense push waits for one that would: that one must come on."""
    small_blocks(monkeypatch, 4096, 4096)
    tables = [table("u", staleness=None, optimizer=optim.Add()), Dense("w", (20_000,), optim.SGD(lr=0.5), dtype="float64")]

    def work(ps: Any) -> None:
        for _ in range(3):
            for _ in range(500 if ps.index == 0 else 0):  # it computes
                ps._link.transport.poll()
                ps._link.transport._turn()
            ps.push("u", np.ones((2, 3)), rows=[0, 22])
            ps.push("w", np.ones(20_000))
            ps.clock()

    play(tables, work, workers=2, mailboxes=1 << 17, saver=Recorder(), every=1, seed=seed)


def test_a_push_that_is_left_out_moves_no_bytes() -> None:
    def work(ps: Any) -> Any:
        ps.push("t", np.full((1, 3), np.nan), rows=[1])
        return ps.stats["push_bytes"]

    assert play([table(nonfinite="skip", rows=1000)], work, workers=1)["worker 0"] == 0


@pytest.mark.parametrize("servers", [1, 2])
def test_ids_may_change_once_a_verb_has_begun(servers: int) -> None:
    def work(ps: Any) -> Any:
        ps.push("t", np.zeros((1, 3)), rows=[0])
        ps.clock()
        ids = np.array([1, 2, 3])
        handle, push = ps.ipull("t", rows=ids), ps.ipush("t", np.ones((3, 3)), rows=ids)
        ids[:] = 7
        got = handle.wait()
        push.wait()
        ps.clock()
        return got, ps.pull("t", rows=[1, 2, 3, 7])

    t = table(init=init.array(np.arange(69.0).reshape(23, 3)), optimizer=optim.Add())
    got, after = play([t], work, workers=2, servers=servers, seed=4)["worker 0"]
    np.testing.assert_array_equal(got[:, 0], [3, 6, 9])
    np.testing.assert_array_equal(after[:, 0], [5, 8, 11, 21])


def test_a_row_may_be_folded_for_ever() -> None:
    """More often than 32 bits can count: 8000 times a second for some days."""
    def work(ps: Any) -> Any:
        for k in range(4):
            ps.push("t", np.ones((2, 3)), rows=[1, 2] if k % 2 else [2, 3])
            ps.clock()
        return ps.pull("t")

    aged: Any = type("Aged", (server.Server,), {"__init__": _aged})
    got = play([table(optimizer=optim.Adam(lr=0.1), staleness=None)], work, workers=1, make=aged)
    assert np.isfinite(got["worker 0"]).all()


def _aged(self: Any, *words: Any, **options: Any) -> None:
    server.Server.__init__(self, *words, **options)
    self._store.rows[0].marks[:] = (1 << 31) - 4
