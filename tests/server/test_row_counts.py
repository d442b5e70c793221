"""What servers say has happened to their rows: to clients, and in checkpoints."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from mpips import Dense, optim
from mpips.errors import UsageError
from mpips.server.row_table import COUNTERS
from tests.playing import Recorder, play, small_logs
from tests.server.test_population import push, table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_logs(monkeypatch)


def total(stats: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(counts[name] for counts in stats) for name in ("rows", *COUNTERS)}


def counted(t: Any, work: Any, **options: Any) -> dict[str, int]:
    """Sums over the servers, when everything has been applied."""
    def whole(ps: Any) -> Any:
        work(ps)
        ps.pull("t", rows=[0])
        ps.barrier()
        return total(ps.server_stats("t"))

    return play([t], whole, **{"workers": 1, **options})["worker 0"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("staleness", [0, None])
@pytest.mark.parametrize("servers", [1, 3])
def test_births_and_refusals(servers: int, staleness: int | None) -> None:
    def work(ps: Any) -> None:
        push(ps, np.arange(40))
        push(ps, np.arange(20))
        push(ps, np.repeat(np.arange(10), 3))

    found = counted(table(capacity=90, admit=2, staleness=staleness), work, servers=servers)
    assert found == {"rows": 20, "pushed": 70, "folded": 30, "born": 20, "refused": 40, "expired": 0, "evicted": 0}


def test_deaths_of_age_and_for_room() -> None:
    def work(ps: Any) -> None:
        push(ps, np.arange(6))
        push(ps, np.arange(6, 12))
        push(ps, np.arange(12, 14))  # two of 12 must go
        for _ in range(4):
            push(ps, [13])

    found = counted(table(capacity=12, ttl=2, when_full="oldest"), work)
    assert found == {"rows": 1, "pushed": 18, "folded": 18, "born": 14, "refused": 0, "expired": 11, "evicted": 2}


def test_rows_of_several_workers_are_folded_once() -> None:
    found = counted(table(rows=9), lambda ps: push(ps, np.arange(ps.index, 8)), workers=2, servers=2)
    assert (found["rows"], found["pushed"], found["folded"], found["born"]) == (9, 15, 8, 0)


@pytest.mark.parametrize("servers", [(1, 1), (3, 3), (3, 2), (2, 3), (1, 3)])
@pytest.mark.parametrize("rows", [None, 99])
def test_they_outlast_a_resume(servers: tuple[int, int], rows: int | None) -> None:
    def work(last: int) -> Any:
        def go(ps: Any) -> None:
            for clock in range(ps.now, last):
                push(ps, np.arange(10 * clock, 10 * clock + 20))
        return go

    t, saver = table(rows=rows, **({"capacity": 300, "ttl": 2, "admit": 2} if rows is None else {})), Recorder()
    before = counted(t, work(3), servers=servers[0], saver=saver, at_end=True)
    saved = [kept.state for kept in saver.restored().shards["t"]]
    assert {name: sum(state.counters[name] for state in saved) for name in COUNTERS} == {k: before[k] for k in COUNTERS}
    assert len(saved) == servers[0]
    resume: dict[str, Any] = {"restored": saver.restored(), "clocks": [3], "servers": servers[1]}
    assert counted(t, lambda ps: None, **resume) == before
    assert counted(t, work(7), **resume) == counted(t, work(7), servers=servers[1])


def test_a_log_ends_with_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mpips.server"):
        play([table(capacity=9)], lambda ps: push(ps, [5, 6]), workers=1)
    assert "server 0: table 't': rows 2, pushed 2, folded 2, born 2, expired 0, evicted 0, refused 0" in caplog.messages


def test_a_dense_table_has_none() -> None:
    def work(ps: Any) -> None:
        with pytest.raises(UsageError, match=r"table 'w': server_stats\(\) is for tables of rows, it is dense"):
            ps.server_stats("w")

    play([Dense("w", (3,), optim.SGD(lr=0.1))], work, workers=1)
