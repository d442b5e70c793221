"""Tables of rows on the weak memory: the same bits as a dictionary of rows, no torn row, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import Dense, Rows, init, optim
from mpips.errors import MpipsError, NonFiniteGradient, ProtocolError, UsageError
from mpips.optim import RowFold
from mpips.server import logs
from mpips.server.store import Store
from mpips.transport.local import Local
from mpips.transport.plan import make_plan
from tests.oracle import NaiveRows
from tests.playing import Recorder, build, play, small_logs

RULES = [optim.SGD(lr=0.1), optim.Adagrad(lr=0.1), optim.Adam(lr=0.1, clip=0.5), optim.FTRL(lr=0.1, l1=0.01),
         optim.Momentum(lr=0.1, weight_decay=0.1)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces and logs, so that a push has several and a log is soon full."""
    small_logs(monkeypatch)


def table(name: str = "t", rows: int | None = 23, dim: int = 3, **options: Any) -> Rows:
    """A small table with values that differ."""
    defaults = {"optimizer": optim.SGD(lr=0.1), "init": init.normal(1.0), "dtype": "float64"}
    return Rows(name, rows=rows, dim=dim, **{**defaults, **options})


def wanted(worker: int, clock: int, seed: int, rows: int, dim: int) -> tuple[Any, Any] | None:
    """What a worker pushes in a clock: repeats, any order, sometimes nothing at all or no row."""
    random = np.random.default_rng((seed, worker, clock))
    kind = random.integers(6)
    if kind == 0:
        return None
    ids = random.integers(0, rows, random.integers(0, 3 if kind == 1 else 40))
    return ids, random.normal(size=(ids.size, dim))


def bsp(seed: int, *, servers: int, workers: int, clocks: int, far: bool = False, named: bool = False, rows: int = 23,
        again: Sequence[tuple[int, int]] = (), **options: Any) -> None:
    """Compare every pull of a job with a dictionary of rows.

    Args:
        named: their ids are not known beforehand.
        again: (clocks, servers) before which the job ended and was resumed.
    """
    t = table(**{**options, "rows": None, "capacity": 3 * rows + 20} if named else {**options, "rows": rows})
    names = np.random.default_rng(seed).integers(-1 << 63, 1 << 63, rows, np.int64, endpoint=False) if named else np.arange(rows)
    naive, history = NaiveRows(t), []
    for clock in range(clocks + 1):
        history.append(naive.pull(names))
        pushes = [wanted(k, clock, seed, rows, t.dim) for k in range(workers)]
        naive.fold([(names[push[0]], push[1]) for push in pushes if push is not None], clock, workers)

    def work(ps: Any) -> Any:
        for clock in range(ps.now, last):
            random = np.random.default_rng((seed, ps.index, clock, 1))
            ids = random.integers(0, rows, random.integers(0, 30))
            assert (ps.pull("t", rows=names[ids]) == history[clock][ids]).all()
            push = wanted(ps.index, clock, seed, rows, t.dim)
            if push is not None:
                if random.integers(2):  # then the worker knows where they lie
                    assert (ps.pull("t", rows=names[push[0]]) == history[clock][push[0]]).all()
                ps.push("t", push[1], rows=names[push[0]])
            assert (ps.pull("t", rows=names[ids]) == history[clock][ids]).all()  # of this clock still
            ps.clock()
        return ps.pull("t", rows=names)

    saver, more = Recorder(), dict[str, Any]()
    for last, on in [*again, (clocks, servers)]:
        got = play([t], work, workers=workers, servers=on, seed=seed, far=far, saver=saver, at_end=True, **more)
        for k in range(workers):
            np.testing.assert_array_equal(got[f"worker {k}"], history[last])
        more = {"restored": saver.restored(), "clocks": [last] * workers}


@pytest.mark.parametrize("seed", range(12))
def test_bsp_gives_the_bits_of_a_dictionary(seed: int) -> None:
    """For any number of servers, in any schedule, gathered or asked for, whether ids are known beforehand or not."""
    bsp(seed, servers=seed % 3 + 1, workers=seed % 2 + 1, clocks=4, optimizer=RULES[seed % len(RULES)],
        combine=("sum", "mean")[seed // 2 % 2], far=seed % 4 == 1, named=seed % 4 == 2)


@pytest.mark.parametrize("seed", range(9))
def test_rows_are_admitted_and_die_by_the_clock(seed: int) -> None:
    """Sightings and times to live give the same rows on any number of servers."""
    bsp(seed, servers=seed % 3 + 1, workers=seed % 2 + 1, clocks=10, named=True, far=seed % 4 == 1, rows=60,
        optimizer=RULES[seed % len(RULES)], decay=seed % 2 / 8, admit=seed % 4 + 1, ttl=seed % 3 + 1)


@settings(max_examples=15)
@given(st.integers(0, 1 << 30), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=2), st.integers(1, 3),
       st.booleans(), st.booleans())
def test_resumed_on_any_number_of_servers(seed: int, parts: list[tuple[int, int]], servers: int, named: bool, far: bool) -> None:
    """A job that is ended and resumed, twice maybe, goes on with the same bits; so do times to live and sightings."""
    clock, again = 0, []
    for clocks, on in parts:
        clock += clocks
        again.append((clock, on))
    more = {"ttl": seed % 3 + 1, "admit": seed % 4 + 1} if named else {}
    bsp(seed, servers=servers, workers=seed % 2 + 1, clocks=clock + 3, far=far, named=named, again=again,
        optimizer=RULES[seed % len(RULES)], decay=(0.0, 0.25)[seed % 2], **more)


@pytest.mark.parametrize("when_full", ["oldest", "rarest", "smallest"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_make_room_for_others(seed: int, when_full: str) -> None:
    """Rows that come and go are never torn, nor another's; there are never more of them than there is room for."""
    t = table(rows=None, capacity=12, optimizer=optim.Add(), staleness=(None, 2)[seed % 2], when_full=when_full,
              init=init.zeros())

    def work(ps: Any) -> None:
        random = np.random.default_rng((seed, ps.index))
        for _ in range(12):
            ids = random.permutation(30)[:5]
            got = ps.pull("t", rows=ids)
            assert (got == got[:, :1]).all()
            assert (got[:, 0] % np.maximum(1000 * ids, 1) == 0).all()
            ps.push("t", np.repeat(1000.0 * ids[:, None], 3, axis=1), rows=ids)
            ps.clock()

    pieces = play([t], work, workers=2, seed=seed, far=seed > 1)["server 0"]
    ids = np.concatenate([piece.ids for piece in pieces])
    assert len(set(ids.tolist())) == len(ids) <= 12
    for k, row in zip(ids, np.concatenate([piece.value for piece in pieces]), strict=True):
        assert (row == row[0]).all()
        assert row[0] % max(1000 * k, 1) == 0


def test_a_row_is_admitted_with_a_probability() -> None:
    """About so many of a push, others the next time, the same ones on two servers."""
    def work(ps: Any) -> Any:
        out = []
        for _ in range(2):
            ps.push("t", np.ones((1000, 1)), rows=range(1000))
            ps.clock()
            out.append(int(ps.pull("t", rows=range(1000)).any(axis=1).sum()))
        return out, ps.pull("t", rows=range(1000)).tolist()

    t = table(rows=None, dim=1, capacity=1000, optimizer=optim.Add(), admit=0.25, init=init.zeros())
    (first, both), rows = play([t], work, workers=1)["worker 0"]
    assert 200 < first < 300
    assert 390 < both < 490
    assert play([t], work, workers=1, servers=2)["worker 0"][1] == rows


def test_no_room_is_an_error_that_names_the_table() -> None:
    def work(ps: Any) -> None:
        ps.push("t", np.ones((13, 3)), rows=range(13))
        ps.clock()
        ps.pull("t", rows=[0])

    with pytest.raises(MpipsError, match=r"table 't': server 0 has no room for 13 rows, only for 12 .*capacity=12"):
        play([table(rows=None, capacity=12)], work, workers=1)
    with pytest.raises(MpipsError, match="table 't': server 0 is to push 13 rows at a time and has room for 12"):
        play([table(rows=None, capacity=12, when_full="oldest")], work, workers=1)


@settings(max_examples=15)
@given(st.integers(0, 1 << 30), st.integers(1, 4), st.integers(1, 3), st.integers(1, 40), st.integers(1, 5),
       st.booleans())
def test_bsp_of_any_size(seed: int, servers: int, workers: int, rows: int, dim: int, named: bool) -> None:
    bsp(seed, servers=servers, workers=workers, clocks=2, rows=rows, dim=dim, named=named)


@pytest.mark.parametrize("staleness", [None, 1])
@pytest.mark.parametrize("seed", range(8))
def test_no_row_is_torn_and_no_push_is_lost(seed: int, staleness: int | None) -> None:
    """All elements of a row change alike, so every pull must show them alike; a worker sees its own pushes, and old ones of all."""
    t = table(optimizer=optim.Add(), staleness=staleness, rows=9, init=init.zeros())
    clocks, workers = 5, 2

    def work(ps: Any) -> Any:
        mine = np.zeros(9)
        for clock in range(clocks):
            got = ps.pull("t", rows=np.arange(9)[::-1])[::-1]
            assert (got == got[:, :1]).all()
            assert (got[:, 0] >= mine).all()
            if staleness is not None:
                assert got[8, 0] >= workers * (clock - staleness)
            ids = np.random.default_rng((seed, ps.index, clock)).integers(0, 9, 12)
            ids[0] = 8
            mine += np.bincount(ids, minlength=9)
            ps.push("t", np.ones((12, 3)), rows=ids)
            if clock % 2:
                ps.push("t", np.ones((1, 3)), rows=[clock])
                mine[clock] += 1
            ps.clock()
        return mine

    def read(ps: Any) -> Any:
        while not ps.done:
            got = ps.pull("t")
            assert (got == got[:, :1]).all()
        return ps.pull("t")

    got = play([t], work, workers=workers, servers=seed % 2 + 1, readers=1, read=read, seed=seed, far=seed % 4 > 1)
    np.testing.assert_array_equal(got["reader 0"][:, 0], got["worker 0"] + got["worker 1"])


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_sees_rows_of_one_clock(seed: int) -> None:
    """Under staleness 0 all rows that it reads are of the same clock, on all servers."""
    t = table(optimizer=optim.Add(), rows=8, init=init.zeros())

    def work(ps: Any) -> None:
        for _ in range(6):
            ps.push("t", np.ones((8, 3)), rows=range(8))
            ps.clock()

    def read(ps: Any) -> Any:
        seen = []
        while not ps.done:
            got = ps.pull("t")
            assert (got == got[0, 0]).all()
            seen.append(got[0, 0])
        assert seen == sorted(seen)
        return ps.pull("t")

    assert (play([t], work, servers=seed % 2 + 1, readers=1, read=read, seed=seed, far=seed % 4 > 1)["reader 0"] == 12).all()


def test_pieces_are_put_aside_where_a_log_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """One push is many times as large as the log: the worker goes on, nothing is lost, the server keeps what does not fit."""
    most = []
    step = logs.Logs.step

    def watched(self: logs.Logs, rows: Any) -> bool:
        done = step(self, rows)
        most.append(sum(len(pieces) for pushes in self._pushes for pieces in pushes.values()))
        return done

    monkeypatch.setattr(logs.Logs, "step", watched)
    t = table(optimizer=optim.Add(), rows=2000, init=init.zeros())

    def work(ps: Any) -> Any:
        for clock in range(3):
            ps.push("t", np.full((1500, 3), 1.0), rows=np.arange(1500) + 100 * clock)
            ps.clock()
        return ps.pull("t")

    for got in play([t], work, workers=2, seed=3).values():
        if not isinstance(got, list):
            counts = sum((np.arange(2000) >= 100 * k) & (np.arange(2000) < 1500 + 100 * k) for k in range(3)) * 2.0
            np.testing.assert_array_equal(got[:, 0], counts)
    assert max(most) > 60


def test_rows_beside_dense_tables_and_rings() -> None:
    """Tables of both kinds in one job, dense ones through rings."""
    tables = [Dense("w", (40,), optim.SGD(lr=0.5), dtype="float64"), table(), table("u", staleness=None, optimizer=optim.Add())]

    def work(ps: Any) -> Any:
        for _ in range(3):
            w, rows = ps.pull("w"), ps.pull("t", rows=[3, 3, 5])
            ps.push("w", w)
            ps.push("t", rows, rows=[3, 3, 5])
            ps.push("u", np.ones((2, 3)), rows=[0, 22])
            ps.clock()
        return ps.pull("w"), ps.pull("t", rows=[3])

    plain = play(tables, work, servers=2)
    ringed = play(tables, work, servers=2, mailboxes=1 << 15)
    for a, b in zip(plain["worker 0"], ringed["worker 0"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_pushes_of_a_clock_are_given_with_more() -> None:
    t = table(optimizer=optim.Add(), init=init.zeros())

    def work(ps: Any) -> Any:
        ps.push("t", np.ones((2, 3)), rows=[1, 2], more=True)
        with pytest.raises(UsageError, match="more"):
            ps.clock()
        ps.push("t", np.ones((1, 3)), rows=[2])
        with pytest.raises(ProtocolError):
            ps.push("t", np.ones((1, 3)), rows=[2])
        ps.clock()
        return ps.pull("t", rows=[1, 2, 3])[:, 0].tolist()

    assert play([t], work, workers=1)["worker 0"] == [1, 2, 0]


def test_nonfinite_gradients_are_refused_or_left_out() -> None:
    tables = [table(optimizer=optim.Add(), init=init.zeros(), nonfinite="skip"),
              table("r", optimizer=optim.Add(), init=init.zeros(), dtype="float32"),
              table("a", optimizer=optim.Add(), init=init.zeros(), nonfinite="allow")]

    def work(ps: Any) -> Any:
        bad = np.ones((3, 3))
        bad[1, 1] = np.nan
        ps.push("t", bad, rows=[1, 2, 3])
        ps.push("a", bad, rows=[1, 2, 3])
        with pytest.raises(NonFiniteGradient):
            ps.push("r", np.full((2, 3), 3e38, "f4"), rows=[1, 1])  # the sum overflows
        ps.push("r", np.ones((2, 3), "f4"), rows=[1, 1])
        ps.clock()
        return ps.pull("t").any(), ps.pull("r", rows=1).tolist(), np.isnan(ps.pull("a")).sum(), ps.stats["skipped"]

    assert play(tables, work, workers=1)["worker 0"] == (False, [2, 2, 2], 1, 1)


@pytest.mark.parametrize(("call", "says"), [
    (lambda ps: ps.pull("t", rows=[0, 23]), "row 23 in a pull; its rows are 0 to 22"),
    (lambda ps: ps.push("t", np.ones((1, 3)), rows=[-1]), "row -1 in a push"),
    (lambda ps: ps.pull("t", rows=[0.5]), "whole numbers"),
    (lambda ps: ps.push("t", np.ones((2, 3)), rows=[1]), r"shape \(1, 3\)"),
    (lambda ps: ps.push("t", np.ones((1, 3), "f4"), rows=[1]), "float64"),
    (lambda ps: ps.push("t", [[1, 2, 3]], rows=[1]), "not list"),
    (lambda ps: ps.push("t", np.ones((23, 3))), "rows="),
    (lambda ps: ps.push({"t": np.ones((23, 3))}), "rows="),
    (lambda ps: ps.pull("d", rows=[1]), "it is dense"),
    (lambda ps: ps.pull(["t"], rows=[1]), "not one table's name"),
    (lambda ps: ps.view("t"), "view"),
    (lambda ps: ps.gradients("t"), "gradients"),
    (lambda ps: ps.pull("t", np.empty((2, 3)), rows=[1]), "out must be"),
    (lambda ps: ps.pull("h", rows=[1]), "unknown table"),
    (lambda ps: ps.create(table("late")), "given to run"),
    (lambda ps: ps.create("late"), "not a dense table"),
    (lambda ps: ps.pull(["t", "d"]), "of several tables"),
    (lambda ps: ps.pull("d", pool="sum"), "go with rows="),
    (lambda ps: ps.push("d", np.ones(3, "f4"), offsets=[0]), "go with rows="),
    (lambda ps: ps.pull("t", rows=[[1], [1, 2]]), "array of whole numbers"),
    (lambda ps: ps.pull("t", rows=np.array([1 << 63], np.uint64)), "row 9223372036854775808"),
    (lambda ps: ps.pull("hashed", rows=[1 << 63]), r"row 9223372036854775808 in a pull; any int64 is an id; .*\.view\(np\.int64\)"),
])
def test_bad_input_is_refused_and_changes_nothing(call: Any, says: str) -> None:
    def work(ps: Any) -> Any:
        before = ps.pull("t")
        with pytest.raises(UsageError, match=says):
            call(ps)
        ps.clock()
        return bool((ps.pull("t") == before).all())

    tables = [table(), table("hashed", rows=None, capacity=9), Dense("d", (3,), optim.Add())]
    assert play(tables, work, workers=1)["worker 0"]


def test_shapes_of_ids() -> None:
    """The result has the shape of the ids, and one axis more; an empty list is a pull of nothing."""
    def work(ps: Any) -> Any:
        everything = ps.pull("t")
        ids = np.array([[1, 2], [2, 22]], np.uint8)
        assert (ps.pull("t", rows=ids) == everything[ids]).all()
        assert ps.pull("t", rows=[]).shape == (0, 3)
        assert ps.pull("t", rows=7).shape == (3,)
        out = np.empty((2, 3))
        assert ps.pull("t", out, rows=(4, 4)) is out
        assert (out == everything[[4, 4]]).all()
        ps.push("t", np.ones((2, 2, 3)), rows=ids)
        ps.push("e", np.ones((0, 3)), rows=[])
        ps.clock()
        return (ps.pull("t") != everything)[:, 0].nonzero()[0].tolist()

    for servers in (1, 3):
        assert play([table(), table("e")], work, workers=1, servers=servers)["worker 0"] == [1, 2, 22]


def test_waiting_for_an_update_before_the_clock_is_refused() -> None:
    """Under staleness 0 it would wait for this worker's own clock()."""
    def work(ps: Any) -> None:
        handle = ps.ipush("t", np.ones((1, 3)), rows=[1])
        with pytest.raises(ProtocolError, match="before clock"):
            handle.wait(applied=True)
        ps.clock()
        handle.wait(applied=True)

    play([table()], work)


def test_pulls_that_are_begun_are_over_before_the_clock() -> None:
    t = table(optimizer=optim.Add(), init=init.zeros())

    def work(ps: Any) -> Any:
        handles = []
        for _ in range(4):
            handles.append(ps.ipull("t", rows=[1, 5]))
            ps.ipush("t", np.ones((1, 3)), rows=[5])
            ps.clock()
        return [handle.wait()[1, 0] for handle in handles]

    for seed in range(4):
        assert play([t], work, servers=2, seed=seed)["worker 1"] == [0, 2, 4, 6]


def test_the_same_schedule_ends_the_same() -> None:
    """The tests above rest on it."""
    def work(ps: Any) -> Any:
        ps.push("t", np.ones((2, 3)), rows=[1, 5])
        ps.clock()
        return ps.pull("t").tolist()

    worlds = [build([table()], work, seed=5) for _ in range(2)]
    for world in worlds:
        world.run()
    assert worlds[0].steps == worlds[1].steps


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_bags_are_pooled_and_their_gradients_spread(pool: str) -> None:
    """Ragged batches, empty bags among them; the gradient is that of the pooled value."""
    t = table(optimizer=optim.SGD(lr=1.0))
    ids, offsets = np.array([3, 3, 7, 1, 9]), [0, 2, 2, 3, 5]

    def work(ps: Any) -> Any:
        before = ps.pull("t")
        got = ps.pull("t", rows=ids, pool=pool, offsets=offsets)
        want = [before[ids[a:b]].sum(axis=0) / (b - a if pool == "mean" and b > a else 1)
                for a, b in zip(offsets, [*offsets[1:], 5], strict=True)]
        np.testing.assert_allclose(got, want)
        ps.push("t", np.ones((5, 3)), rows=ids, pool=pool, offsets=offsets)
        ps.clock()
        return before - ps.pull("t")

    step = play([t], work, workers=1)["worker 0"][:, 0]
    half = 1 if pool == "sum" else 0.5
    np.testing.assert_allclose(step[[3, 7, 1, 9]], [2 * half, 1, half, half])


@pytest.mark.parametrize(("options", "says"), [
    ({"pool": "max", "offsets": [0]}, "pool 'max'"), ({"pool": "sum"}, "go together"), ({"offsets": [0]}, "go together"),
    ({"pool": "sum", "offsets": [1]}, "begin with 0"), ({"pool": "sum", "offsets": [0, 3]}, "at most 2"),
    ({"pool": "sum", "offsets": [0, 2, 1]}, "ascend"), ({"pool": "sum", "offsets": [[0]]}, "one row"),
    ({"pool": "sum", "offsets": [0.0]}, "whole numbers"), ({"pool": "sum", "offsets": [[0], [1, 2]]}, "whole numbers"),
    ({"pool": np.array(["sum"]), "offsets": [0]}, "is not one of"), ({"pool": "sum", "offsets": []}, "begin with 0"),
    ({"pool": "sum", "offsets": [0], "out": np.empty((1, 3))}, "takes no out"),
])
def test_bags_that_do_not_fit_are_refused(options: Any, says: str) -> None:
    def work(ps: Any) -> None:
        with pytest.raises(UsageError, match=says):
            ps.pull("t", rows=[1, 2], **options)

    play([table()], work, workers=1)


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_a_table_of_rows_is_folded_by_the_compiled_loop(monkeypatch: pytest.MonkeyPatch, combine: str) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(RowFold, "_part", lambda *args: pytest.fail("folded by NumPy"))
    plan = make_plan([table(combine=combine)], servers=1, workers=2)
    rows = Store(Local([plan.maps[0].size]), plan, 0, seed=0, engine="numba").rows[0]
    before, gradients, some = rows.values.copy(), np.ones((2, 3)), np.arange(2)
    rows.fold(rows.values, rows.slots, some, some + 1, gradients, clock=0, scale=0.5 if combine == "mean" else 1.0)
    np.testing.assert_array_equal(rows.values[:2], before[:2] - 0.1 * gradients * (0.5 if combine == "mean" else 1.0))
