"""Rows that a worker keeps: never older than the table's staleness, never without its own pushes, and fewer are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import Dense, Rows, init, optim
from mpips.errors import UsageError
from mpips.worker import row_cache
from mpips.worker.row_cache import RowCache
from tests.oracle import NaiveRows
from tests.playing import play, small_logs

ROWS = 17


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_logs(monkeypatch)


def table(**options: Any) -> Rows:
    return Rows("t", **{"rows": ROWS, "dim": 3, "optimizer": optim.Add(), "init": init.zeros(), "dtype": "float64", **options})


def rows(ids: Sequence[int]) -> Any:
    return np.repeat(np.array(ids, float)[:, None], 3, axis=1)


def cache(capacity: int, keep: str = "lru", clocks: int = 0, *, own: bool = True) -> RowCache:
    return RowCache(table(), capacity, keep, clocks, own=own)


def fetched(kept: RowCache, ids: Sequence[int], good: int = 0, since: int = 0) -> None:
    kept.keep(np.array(ids), rows(ids), good, since)


def found(kept: RowCache, ids: Sequence[int], now: int = 0) -> list[int]:
    """Which of the ids may be used; their values must be theirs."""
    at = kept.find(np.array(ids), now)
    here = np.array(ids)[at >= 0].tolist()
    out = np.empty((len(at), 3))
    kept.take(at, out)
    np.testing.assert_array_equal(out[at >= 0], rows(here))
    return here


def test_what_was_used_longest_ago_goes() -> None:
    kept = cache(4)
    fetched(kept, [1, 2])
    fetched(kept, [3, 4])
    assert found(kept, [2, 1]) == [2, 1]
    fetched(kept, [5])
    assert len(kept) == 4
    assert set(found(kept, [1, 2, 5])) == {1, 2, 5}
    assert len(found(kept, [3, 4])) == 1


def test_what_was_used_least_often_goes() -> None:
    kept = cache(4, "lfu")
    fetched(kept, [1, 2, 3, 4])
    assert found(kept, [1, 1, 2, 2, 3, 3]) == [1, 1, 2, 2, 3, 3]
    fetched(kept, [5])
    assert found(kept, [1, 2, 3, 4, 5]) == [1, 2, 3, 5]


def test_what_was_used_often_long_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are halved."""
    kept = cache(2, "lfu")
    fetched(kept, [1, 2])
    found(kept, [1] * 15)
    for _ in range(4):
        found(kept, [2] * 10)
    fetched(kept, [3])
    assert found(kept, [1, 2, 3]) == [2, 3]


@pytest.mark.parametrize("keep", row_cache.KEEP)
def test_a_row_that_was_too_old_is_used_when_it_is_fetched_again(keep: str) -> None:
    kept = cache(8, keep)
    for clock in range(5):
        fetched(kept, [1, 2, 3, 4], good=clock)
        fetched(kept, range(10 * clock + 10, 10 * clock + 14), good=clock)
        assert found(kept, [1, 2, 3, 4], now=clock + 1) == []
    fetched(kept, [1, 2, 3, 4], good=5)
    fetched(kept, range(60, 64), good=5)
    assert found(kept, [1, 2, 3, 4], now=5) == [1, 2, 3, 4]


def test_more_than_there_is_room_for() -> None:
    kept = cache(4)
    fetched(kept, range(100, 110))
    assert len(found(kept, range(100, 110))) == 4
    fetched(kept, [7])
    assert found(kept, [7]) == [7]
    fetched(kept, [])
    assert len(kept) == 4


def test_a_row_is_used_only_while_it_is_good() -> None:
    kept = cache(4, clocks=2)
    fetched(kept, [1], good=3)
    fetched(kept, [2], good=4)
    assert found(kept, [1, 2], now=5) == [1, 2]
    assert found(kept, [1, 2], now=6) == [2]
    fetched(kept, [1], good=5)
    assert found(kept, [1], now=7) == [1]


def test_what_the_worker_pushes_is_not_kept() -> None:
    """Neither what lies there, nor what comes from a pull that began before the push."""
    kept = cache(8, clocks=100)
    fetched(kept, [1, 2])
    kept.pushed(np.array([2, 3]), 5)
    assert found(kept, [1, 2]) == [1]
    fetched(kept, [2, 3, 4], since=5)
    assert found(kept, [2, 3, 4]) == [4]
    fetched(kept, [2, 3], since=6)
    assert found(kept, [2, 3]) == [2, 3]
    for clock in range(6, 40):
        kept.pushed(np.array([9]), clock)
    fetched(kept, [5], since=5)  # so long ago that nobody knows
    assert found(kept, [5]) == []
    assert len(kept._pushed) <= row_cache.KEPT
    for k in range(100):
        kept.pushed(np.array([k, 9]), 40)
    assert len(kept._pushed) <= row_cache.KEPT + row_cache.MANY
    fetched(kept, [0, 50, 99, 100], since=40)
    assert found(kept, [0, 50, 99, 100]) == [100]


@pytest.mark.parametrize("keep", row_cache.KEEP)
def test_a_pull_of_very_many_rows_leaves_half_of_what_was_used(keep: str) -> None:
    kept = cache(4, keep)
    fetched(kept, [1, 2, 3, 4])
    assert found(kept, [1, 2]) == [1, 2]
    fetched(kept, range(100, 200))
    assert found(kept, [1, 2, 3, 4]) == [1, 2]
    assert len(kept) == 4
    assert [k // 50 for k in found(kept, range(100, 200))] == [2, 3]  # not those alone that come first


@settings(max_examples=60)
@given(st.integers(1, 9), st.sampled_from(row_cache.KEEP), st.integers(0, 3), st.booleans(),
       st.lists(st.tuples(st.sampled_from(["find", "keep", "push", "clock"]), st.sets(st.integers(0, 15))), max_size=40))
def test_like_a_dictionary_that_forgets_more(capacity: int, keep: str, clocks: int, own: bool,
                                             steps: list[tuple[str, set[int]]]) -> None:
    """What is found is what a dictionary without a limit has, or less."""
    kept, all_kept, now = cache(capacity, keep, clocks, own=own), dict[int, int](), 0
    for what, some in steps:
        ids = sorted(some)
        if what == "clock":
            now += 1
        elif what == "push":
            kept.pushed(np.array(ids, np.int64), now)
            for k in ids if own else ():
                all_kept.pop(k, None)
        elif what == "keep":
            fetched(kept, ids, good=now, since=now + 1)
            all_kept |= dict.fromkeys(ids, now)
        else:
            assert {k for k in found(kept, ids, now)} <= {k for k in ids if all_kept.get(k, -99) >= now - clocks}
        assert len(kept) <= capacity
        assert int(kept._lives.sum()) == len(kept)
        assert sorted(kept._free[: capacity - len(kept)]) == np.flatnonzero(~kept._lives).tolist()


@settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.sampled_from(row_cache.KEEP),
       st.booleans(), st.booleans())
def test_with_staleness_0_the_bits_are_those_of_a_dictionary(seed: int, servers: int, workers: int, capacity: int, keep: str,
                                                             far: bool, named: bool) -> None:
    t = table(optimizer=optim.Adagrad(lr=0.1), init=init.normal(1.0), **({"rows": None, "capacity": 4 * ROWS} if named else {}))
    clocks, naive, history = 4, NaiveRows(t), []

    def pushed(k: int, clock: int) -> Any:
        random = np.random.default_rng((seed, k, clock))
        ids = random.integers(0, ROWS, random.integers(0, 12))
        return ids, random.normal(size=(ids.size, 3))

    for clock in range(clocks + 1):
        history.append(naive.pull(np.arange(ROWS)))
        naive.fold([pushed(k, clock) for k in range(workers)], clock, workers)

    def work(ps: Any) -> None:
        ps.cache("t", capacity, keep=keep)
        random = np.random.default_rng((seed, ps.index))
        for clock in range(clocks):
            if random.random() < 0.5:
                ps.intent("t", random.integers(0, ROWS, 9), at_clock=clock + random.integers(0, 2))
            handle = ps.ipull("t", rows=np.arange(5))
            for _ in range(2):
                ids = random.integers(0, ROWS, random.integers(0, 12))
                np.testing.assert_array_equal(ps.pull("t", rows=ids), history[clock][ids])
            ids, gradient = pushed(ps.index, clock)
            ps.push("t", gradient, rows=ids)
            ids = random.integers(0, ROWS, random.integers(0, 12))
            np.testing.assert_array_equal(ps.pull("t", rows=ids), history[clock][ids])
            ps.clock()
            np.testing.assert_array_equal(handle.wait(), history[clock][:5])
        np.testing.assert_array_equal(ps.pull("t", rows=np.arange(ROWS)), history[clocks])

    play([t], work, workers=workers, servers=servers, seed=seed, far=far)


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from([1, 2, None]), st.integers(1, 2), st.booleans(), st.booleans(), st.booleans())
def test_every_pull_keeps_the_promise_of_its_staleness(seed: int, staleness: int | None, servers: int, far: bool, own: bool,
                                                       named: bool) -> None:
    """Worker k adds 1 to column k of some rows in each clock, of row 0 in all: so a pull tells which updates it holds."""
    t, clocks, workers = table(staleness=staleness, **({"rows": None, "capacity": 4 * ROWS} if named else {})), 6, 2

    def pushed(k: int, clock: int) -> Any:
        random = np.random.default_rng((seed, k, clock))
        return np.append(0, 1 + random.permutation(ROWS - 1)[: random.integers(0, 9)])

    counts = np.zeros((clocks + 1, ROWS, workers), int)  # of clocks before this one
    for clock in range(clocks):
        counts[clock + 1] = counts[clock]
        for k in range(workers):
            counts[clock + 1, pushed(k, clock), k] += 1

    def check(ps: Any, clock: int, ids: Any, got: Any) -> None:
        old = max(clock - (3 if staleness is None else staleness), 0)
        if staleness is not None:
            assert (got[:, :workers] >= counts[old][ids]).all()
        mine = counts[clock if own else old][ids, ps.index]
        assert (got[:, ps.index] >= mine).all()
        assert (got[:, ps.index] <= counts[ps.now + 1][ids, ps.index]).all()

    def work(ps: Any) -> None:
        ps.cache("t", 12, clocks=3 if staleness is None else None, own=own)
        random, handle, begun, all_ids = np.random.default_rng((seed, ps.index)), None, 0, np.arange(ROWS)
        for clock in range(clocks):
            for _ in range(random.integers(0, 3)):
                ps.intent("t", random.integers(0, ROWS, 9), at_clock=clock + random.integers(0, 4))
            if handle is not None and random.random() < 0.5:
                check(ps, begun, all_ids, handle.wait())
                handle = None
            ids = random.integers(0, ROWS, 10)
            check(ps, clock, ids, ps.pull("t", rows=ids))
            if handle is None and random.random() < 0.5:
                begun, all_ids = clock, random.permutation(ROWS)
                handle = ps.ipull("t", rows=all_ids)
            gradient = np.zeros((len(pushed(ps.index, clock)), 3))
            gradient[:, ps.index] = 1
            ps.push("t", gradient, rows=pushed(ps.index, clock))
            ids = random.integers(0, ROWS, 10)
            check(ps, clock, ids, ps.pull("t", rows=ids))
            ps.clock()

    play([t], work, workers=workers, servers=servers, seed=seed, far=far)


@pytest.mark.parametrize("far", [False, True])
def test_what_is_kept_is_not_fetched(far: bool) -> None:
    """Hits are counted in ids, and cost the servers nothing."""
    def work(ps: Any) -> Any:
        ps.cache("t", 10)
        ps.pull("t", rows=[3, 1, 3])
        before = ps.stats
        np.testing.assert_array_equal(ps.pull("t", rows=[[1, 1], [3, 1]]), np.zeros((2, 2, 3)))
        assert ps.stats["pull_bytes"] == before["pull_bytes"]
        ps.pull("t", rows=[1, 5])
        stats = ps.stats
        assert stats["pull_bytes"] == before["pull_bytes"] + 24
        return stats["cache_hits"], stats["cache_misses"]

    assert play([table()], work, workers=1, far=far)["worker 0"] == (5, 4)


@pytest.mark.parametrize("staleness", [0, 2, None])
def test_a_pull_of_nothing_but_kept_rows_asks_no_server(staleness: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ps: Any) -> None:
        ps.cache("t", 10, clocks=None if staleness is not None else 2)
        ps.pull("t", rows=[3, 1])
        with monkeypatch.context() as patch:
            for look in ("load", "loads", "row", "get", "gather"):
                patch.setattr(ps._link.transport, look, None)
            ps.pull("t", rows=[1, 3])

    play([table(staleness=staleness)], work, workers=1, far=True)


@pytest.mark.parametrize("far", [False, True])
def test_rows_that_were_announced_are_there(far: bool) -> None:
    def work(ps: Any) -> Any:
        ps.cache("t", 10)
        ps.intent("t", [1, 2], at_clock=1)
        ps.intent("t", [5], at_clock=3)
        ps.push("t", rows([1, 2, 5]), rows=[1, 2, 5])
        ps.clock()
        np.testing.assert_array_equal(ps.pull("t", rows=[2, 1]), rows([2, 1]))
        assert ps.stats["cache_misses"] == 0
        ps.clock()
        ps.clock()
        np.testing.assert_array_equal(ps.pull("t", rows=[5, 2]), rows([5, 2]))
        return ps.stats["cache_hits"], ps.stats["cache_misses"]

    assert play([table()], work, workers=1, far=far)["worker 0"] == (3, 1)


def test_what_is_wanted_much_later_costs_nothing_until_then() -> None:
    def work(ps: Any) -> None:
        ps.cache("t", 10)
        for clock in reversed(range(100)):
            ps.intent("t", [clock % ROWS], at_clock=clock)
        for clock in range(100):
            assert len(ps._ahead._later) == 99 - clock
            assert len(ps._ahead._intents) <= 1
            ps.pull("t", rows=[clock % ROWS])
            ps.clock()
        assert ps.stats["cache_hits"] == 100
        assert not ps._ahead._intents

    play([table()], work, workers=1)


def test_a_row_is_used_as_many_clocks_as_staleness_allows() -> None:
    def work(ps: Any) -> Any:
        ps.cache("t", 10)
        hits = []
        for _ in range(4):  # whether it is a hit later depends on how far the fold was
            before = ps.stats["cache_hits"]
            ps.pull("t", rows=[1])
            hits.append(ps.stats["cache_hits"] - before)
            ps.push("t", rows([2]), rows=[2])
            ps.pull("t", rows=[2])
            ps.clock()
        return hits

    assert play([table(staleness=2)], work, workers=1)["worker 0"] == [0, 1, 1, 0]


def test_bad_arguments_name_the_table() -> None:
    def work(ps: Any) -> None:
        for wrong, message in [
            ({"rows": 0}, "table 't': cache.*: rows 0"), ({"rows": True}, "rows True"), ({"rows": 2.5}, "rows 2.5"),
            ({"rows": 4, "keep": "fifo"}, "table 't': cache.*: keep 'fifo' is not one of"),
            ({"rows": 4, "clocks": 3}, "clocks=3 is for staleness None, here staleness 0"),
            ({"rows": 4, "clocks": -1}, "clocks -1"),
        ]:
            with pytest.raises(UsageError, match=message):
                ps.cache("t", **wrong)
        with pytest.raises(UsageError, match=r"table 'a': cache.*: say with clocks="):
            ps.cache("a", 4)
        with pytest.raises(UsageError, match="table 'd': cache"):
            ps.cache("d", 4)
        with pytest.raises(UsageError, match=r"table 't': intent.* call cache"):
            ps.intent("t", [1], at_clock=0)
        ps.cache("t", 4)
        for at_clock in (-1, 1.5, True):
            with pytest.raises(UsageError, match=r"table 't': intent.* for clock"):
                ps.intent("t", [1], at_clock=at_clock)
        with pytest.raises(UsageError, match=f"table 't': row {ROWS} in a pull"):
            ps.intent("t", [ROWS], at_clock=0)
        with pytest.raises(UsageError, match="table 'd'"):
            ps.intent("d", [1], at_clock=0)
        for many in (1 << 62, 1 << 70):
            ps.cache("t", many)  # no more than the table has
            with pytest.raises(UsageError, match=f"table 'h': cache.*: there is no memory for {many} rows of 4 bytes"):
                ps.cache("h", many)

    asp = Rows("a", rows=3, dim=1, optimizer=optim.Add(), staleness=None)
    hashed = Rows("h", rows=None, capacity=9, dim=1, optimizer=optim.Add())
    play([table(), asp, hashed, Dense("d", (2,), optim.Add())], work, workers=1)
