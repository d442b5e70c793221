"""Whose turn it is: folds of staleness 0 in their order, all others in turn, with each other and with those."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mpips.server.agenda import Agenda


def job(clock: int, table: int, lockstep: bool) -> Any:
    return SimpleNamespace(clock=clock, tables=[table], cohorts=[SimpleNamespace(lockstep=lockstep)], left=3)


def test_a_small_table_does_not_wait_for_a_large_one() -> None:
    agenda, (second, free, first) = Agenda(), [job(4, 2, True), job(4, 9, False), job(4, 1, True)]
    for one in (second, free, first):
        agenda.add(one)
    order = []
    while agenda:
        one = agenda.first()
        one.left -= 1
        order.append(one)
        agenda.done(ended=not one.left)
    assert order == [first, free] * 3 + [second] * 3


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans(), st.integers(1, 3), st.integers(0, 4)), max_size=8))
def test_everybody_comes_to_its_end(jobs: list[tuple[int, int, bool, int, int]]) -> None:
    agenda, ended, waiting = Agenda(), [], []
    for clock, table, lockstep, left, turns in jobs:
        one = job(clock, table, lockstep)
        one.left = left
        agenda.add(one)
        waiting.append(one)
        for _ in range(turns):
            _turn(agenda, waiting, ended)
    while agenda:
        _turn(agenda, waiting, ended)
    assert len(ended) == len(jobs)
    assert not waiting


def _turn(agenda: Agenda, waiting: list[Any], ended: list[Any]) -> None:
    assert len(agenda) == len(waiting)
    if not waiting:
        return
    one = agenda.first()
    if one.cohorts[0].lockstep:
        assert (one.clock, one.tables) == min((o.clock, o.tables) for o in waiting if o.cohorts[0].lockstep)
    one.left -= 1
    agenda.done(ended=not one.left)
    if not one.left:
        waiting.remove(one)
        ended.append(one)
