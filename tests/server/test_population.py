"""Rows that are born and die, in bad order on the weak memory: most of these were wrong once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips import init, optim
from mpips.directory import Directory
from mpips.server.population import Population, least
from mpips.worker import row_pull
from tests.playing import Recorder, play, small_logs
from tests.server.test_rows import bsp
from tests.server.test_rows import table as of_rows


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_logs(monkeypatch)


def table(**options: Any) -> Any:
    """Sums of what is pushed, from 0."""
    return of_rows(**{"init": init.zeros(), "optimizer": optim.Add(), "rows": None, **options})


def push(ps: Any, ids: Any, value: float = 1.0) -> None:
    """One step."""
    ps.push("t", np.full((len(ids), 3), value), rows=ids)
    ps.clock()


def resumed(before: Any, after: Any, at: int, last: int, work: Any, servers: tuple[int, int] = (1, 1)) -> Any:
    """What `work(ps, clock)` returns of a job that began again after `at` clocks."""
    saver = Recorder()
    play([before], lambda ps: work(ps, at), workers=1, servers=servers[0], saver=saver, at_end=True)
    return play([after], lambda ps: work(ps, last), workers=1, servers=servers[1], restored=saver.restored(),
                clocks=[at])["worker 0"]


@pytest.mark.parametrize("staleness", [0, None])
def test_the_place_of_a_dead_row_belongs_to_nobody(staleness: int | None) -> None:
    """Whatever ids have lain there; one of them had the mark of the dead as its complement."""
    def work(ps: Any) -> Any:
        push(ps, [5], 1.0)
        assert ps.pull("t", rows=[5])[0, 0] == 1
        push(ps, [~5], 2.0)
        for _ in range(4):
            push(ps, [])
        return ps.pull("t", rows=[5, ~5, np.iinfo(np.int64).min])[:, 0].tolist()

    t = table(capacity=1, ttl=1, when_full="oldest", staleness=staleness)
    assert play([t], work, workers=1)["worker 0"] == [0, 0, 0]


def test_room_for_all_rows_is_there_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that grows moves all of its ids, and a push would wait for that."""
    people = Population(table(capacity=1000), np.zeros(1000, np.int64), 0, 0)
    monkeypatch.setattr(Directory, "_rebuild", None)
    for k in range(10):
        people.enter(np.arange(100) - 100 * k, k)
    assert len(people) == 1000


@pytest.mark.parametrize("staleness", [0, None])
def test_a_push_of_rows_that_have_died_since_they_were_pulled(staleness: int | None) -> None:
    """The worker says where they lay; others lie there now."""
    def work(ps: Any) -> Any:
        push(ps, [5, 7])
        assert (ps.pull("t", rows=[7, 5, 7]) == 1).all()
        push(ps, [6, 8], 2.0)
        push(ps, [7, 5, 7], 4.0)
        return ps.pull("t", rows=[5, 6, 7, 8])[:, 0].tolist()

    t = table(capacity=2, when_full="oldest", staleness=staleness)
    assert play([t], work, workers=1)["worker 0"] == [4, 0, 8, 0]


def test_no_belief_leads_out_of_the_table() -> None:
    people = Population(table(capacity=4), np.zeros(4, np.int64), 0, 0)
    people.owners[people.enter(np.array([0, 5, 6, 7]), 0)] = [0, 5, 6, 7]
    ids, believed = np.array([0, 7, 7, 5, 0, 8]), np.array([-3, 4, 1 << 62, 1, np.iinfo(np.int64).min, 3])
    assert people.find(ids, believed).tolist() == [0, 3, 3, 1, 0, -1]


@pytest.mark.parametrize("number", [np.iinfo(np.int64).min, np.iinfo(np.int64).max, -1, 0])
def test_every_id_is_one(number: int) -> None:
    def work(ps: Any) -> Any:
        for _ in range(3):
            ps.pull("t", rows=[number, 7])
            push(ps, [number])
        return ps.pull("t", rows=[number, 7])[:, 0].tolist()

    assert play([table(capacity=4)], work, workers=1)["worker 0"] == [3, 0]


@pytest.mark.parametrize("seed", range(3))
def test_a_place_that_changes_hands_there_and_back(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A reader is slow between its looks: the values must belong to the owner that it saw."""
    look = row_pull.RowPull._look

    def slow(self: Any, parts: Any, section: str) -> Any:
        for _ in range(400 if section == "owners" and self._link.reader and len(parts) else 0):
            self._link.transport.poll()
            self._link.transport._turn()
        return look(self, parts, section)

    monkeypatch.setattr(row_pull.RowPull, "_look", slow)

    def work(ps: Any) -> None:
        for clock in range(60):
            push(ps, [1 + clock % 2], 1000.0 * (1 + clock % 2))
            for _ in range(10):
                ps._link.transport.poll()
                ps._link.transport._turn()

    def read(ps: Any) -> None:
        while not ps.done:
            for k in (1, 2):
                assert ps.pull("t", rows=[k])[0, 0] in (0, 1000 * k)

    play([table(capacity=1, when_full="oldest", staleness=None)], work, workers=1, readers=1, read=read, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_readers_see_births_and_deaths_of_one_clock(seed: int) -> None:
    """Under staleness 0 they see who lives in a clock, and with what, on all servers."""
    clocks = 6

    def work(ps: Any) -> None:
        for clock in range(clocks):
            push(ps, [*range(10), 100 + clock])

    def read(ps: Any) -> None:
        while not ps.done:
            got = ps.pull("t", rows=[*range(10), *range(100, 100 + clocks)])
            clock = got[0, 0] / 2
            assert (got[:10] == 2 * clock).all()
            assert (got[10:, 0] == [2 * (k < clock < k + 3) for k in range(clocks)]).all()

    play([table(capacity=60, ttl=1)], work, servers=seed % 3 + 1, readers=1, read=read, seed=seed, far=seed % 4 == 3)


@pytest.mark.parametrize("seed", range(6))
def test_handles_out_of_order_while_rows_come_and_go(seed: int) -> None:
    """What a pull shows was pushed to that id, in whatever order, and by whom; some pulls are never waited for."""
    def work(ps: Any) -> None:
        random, begun = np.random.default_rng((seed, ps.index)), list[Any]()
        for clock in range(12):
            ids = random.integers(1, 25, 5)
            begun.append((ids, ps.ipull("t", rows=ids)))
            ps.push("t", np.repeat(1000.0 * ids[:, None], 3, axis=1), rows=ids)
            if clock % 3 == 2:
                random.shuffle(begun)
                for asked, handle in begun[1:]:
                    got = handle.wait()
                    assert (got == got[:, :1]).all()
                    assert (got[:, 0] % (1000 * asked) == 0).all()
                begun = []
            ps.clock()

    t = table(capacity=12, staleness=(None, 1)[seed % 2], when_full=("oldest", "smallest", "rarest")[seed % 3])
    play([t], work, servers=seed % 2 + 1, seed=seed, far=seed % 4 > 1)


def test_a_time_to_live_that_comes_with_a_resume() -> None:
    """A checkpoint says when each row was pushed, also where nobody asked for that."""
    def work(ps: Any, last: int) -> Any:
        while ps.now < last:
            push(ps, [1])
        return ps.pull("t", rows=[1])[0, 0]

    assert resumed(table(capacity=9), table(capacity=9, ttl=2), 10, 12, work) == 12


def test_death_does_not_depend_on_where_a_job_was_resumed() -> None:
    t = table(capacity=9, ttl=16)

    def work(ps: Any, last: int) -> Any:
        while ps.now < last:
            if ps.now == 18:
                ps.clock()
            else:
                push(ps, [1 if ps.now == 2 else 2])
        return ps.pull("t", rows=[1])[0, 0]

    assert resumed(t, t, 19, 20, work) == play([t], lambda ps: work(ps, 20), workers=1)["worker 0"]


@pytest.mark.parametrize("servers", [(1, 1), (2, 2), (1, 3), (3, 2)])
@pytest.mark.parametrize("capacity", [30, 900])
def test_sightings_outlast_a_resume(servers: tuple[int, int], capacity: int) -> None:
    """Half of these have been seen twice before it, half once; a table may have more room afterwards, or less."""
    def work(ps: Any, last: int) -> Any:
        for clock in range(ps.now, last):
            push(ps, np.arange(0, 20, 2 if clock == 1 else 1))
        return ps.pull("t", rows=np.arange(20))[:, 0].tolist()

    t = table(capacity=300, admit=3)
    after = table(capacity=capacity, admit=3)
    assert resumed(t, after, 2, 3, work, servers) == [1, 0] * 10
    assert resumed(t, after, 2, 4, work, servers) == [2, 1] * 10
    assert resumed(t, table(capacity=capacity, admit=2), 2, 3, work, servers) == [1] * 20
    assert resumed(table(capacity=300), after, 2, 3, work, servers) == [3, 2] * 10  # they live


@pytest.mark.parametrize("when_full", ["oldest", "rarest", "smallest"])
def test_a_full_table_is_resumed_on_fewer_servers(when_full: str) -> None:
    """Several have a little more room than one: some rows die, and none of those is worth more than any that lives."""
    t = table(capacity=400, when_full=when_full)

    def work(ps: Any) -> None:
        for clock in range(ps.now, 10):
            some = np.random.default_rng(clock)
            push(ps, np.unique(some.zipf(1.2, 150) % 2000), float(some.integers(1, 20)))

    def worth(piece: Any) -> Any:
        return {"oldest": piece.slots["seen"], "rarest": piece.folds, "smallest": (piece.value ** 2).sum(axis=1)}[when_full]

    saver = Recorder()
    play([t], work, workers=1, servers=3, saver=saver, at_end=True)
    before = {k: w for p in saver.restored().rows(t, 0, 1) for k, w in zip(p.ids.tolist(), worth(p).tolist(), strict=True)}
    pieces = play([t], work, workers=1, servers=1, restored=saver.restored(), clocks=[10])["server 0"]
    alive = {k for piece in pieces for k in piece.ids.tolist()}
    assert len(alive) == 400 < len(before)
    assert max(before[k] for k in before.keys() - alive) <= min(before[k] for k in alive)


def test_a_client_does_not_remember_all_who_ever_lived() -> None:
    def work(ps: Any) -> Any:
        for clock in range(40):
            ids = np.arange(40) + 40 * clock
            push(ps, ids)
            ps.pull("t", rows=ids)
        return sum(map(len, ps._link.slots[0]._known))

    assert play([table(capacity=50, when_full="oldest")], work, workers=1)["worker 0"] <= 100


def test_rows_of_a_slow_worker_live_as_long() -> None:
    """Without staleness 0 a time to live counts from the furthest clock that had been pushed in."""
    def work(ps: Any) -> Any:
        for _ in range(40 if ps.index == 0 else 0):
            push(ps, [0])
        for worker in (1, 0):
            ps.barrier()
            if ps.index == worker:
                ps.ipush("t", np.ones((1, 3)), rows=[worker]).wait(applied=True)
        ps.barrier()
        return ps.pull("t", rows=[1])[0, 0]

    assert play([table(capacity=50, ttl=5, staleness=None)], work)["worker 0"] == 1


def test_each_push_has_its_chance() -> None:
    """Several of a worker's pushes in one clock, too."""
    def work(ps: Any) -> Any:
        for _ in range(20):
            ps.ipush("t", np.ones((200, 3)), rows=np.arange(200)).wait(applied=True)
        return int(ps.pull("t", rows=np.arange(200)).any(axis=1).sum())

    assert play([table(capacity=500, admit=0.25, staleness=None)], work, workers=1)["worker 0"] > 190


def test_a_number_of_numpy_is_one() -> None:
    t = table(capacity=10, admit=np.int64(3), ttl=np.int64(9))

    def work(ps: Any) -> Any:
        out = []
        for _ in range(3):
            push(ps, [1])
            out.append(ps.pull("t", rows=[1])[0, 0])
        return out

    assert play([t], work, workers=1)["worker 0"] == [0, 0, 1]
    assert type(t.describe()["ttl"]) is int


def test_the_smallest_row_is_small_after_its_decay() -> None:
    def work(ps: Any) -> Any:
        push(ps, [1], 10.0)
        for _ in range(20):
            push(ps, [2], 0.1)
        push(ps, [3])
        return ps.pull("t", rows=[1, 2, 3])[:, 0].astype(bool).tolist()

    assert play([table(capacity=2, when_full="smallest", decay=0.5)], work, workers=1)["worker 0"] == [False, True, True]


@pytest.mark.parametrize("seed", range(3))
def test_slots_of_a_row_are_born_and_saved_with_it(seed: int) -> None:
    bsp(seed, servers=seed + 1, workers=2, clocks=8, named=True, optimizer=optim.RowAdagrad(lr=0.1), ttl=2, decay=0.1,
        again=[(3, 2), (5, 1)])


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("when_full", ["oldest", "rarest", "smallest"])
def test_who_makes_room_depends_neither_on_who_was_faster_nor_on_where_a_job_was_resumed(when_full: str, servers: int) -> None:
    """With staleness 0, on as many servers: each has room for its share of the rows, and fills it."""
    t = of_rows(rows=None, capacity=30, when_full=when_full, init=init.normal(1.0), optimizer=optim.Adagrad(lr=0.1), staleness=0)

    def work(ps: Any, last: int) -> bytes:
        for clock in range(ps.now, last):
            ids = np.random.default_rng((clock, ps.index)).permutation(80)[:5]
            ps.push("t", ps.pull("t", rows=ids), rows=ids)
            ps.clock()
        values: bytes = ps.pull("t", rows=np.arange(80)).tobytes()
        return values

    straight = {play([t], lambda ps: work(ps, 12), workers=2, servers=servers, seed=seed)["worker 0"] for seed in range(3)}
    saver = Recorder()
    play([t], lambda ps: work(ps, 7), workers=2, servers=servers, saver=saver, at_end=True)
    again = play([t], lambda ps: work(ps, 12), workers=2, servers=servers, restored=saver.restored(), clocks=[7, 7])
    assert straight == {again["worker 0"]}


def test_of_rows_that_are_worth_the_same_the_smallest_id_makes_room_wherever_it_lies() -> None:
    people = Population(table(capacity=3, when_full="oldest"), np.zeros(3, np.int64), 0, 0)
    people.owners[people.enter(np.array([9, 3, 5]), 0)] = [9, 3, 5]
    dying = people.surplus(1, np.empty(0, np.int64), lambda: people.seen)
    assert people.owners[dying].tolist() == [3]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_the_least_are_those_that_sorting_gives(worth: list[int], data: st.DataObject) -> None:
    ids = np.array(data.draw(st.permutations(range(len(worth)))))
    count = data.draw(st.integers(1, len(worth)))
    values = np.array(worth) / 2
    assert set(least(values, ids, count).tolist()) == set(np.lexsort((ids, values))[:count].tolist())
