"""Tables of rows on real ranks: the same bits for any number of servers, gathered or asked for, resumed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.checkpoint.read import Saved
from mpips.checkpoint.verify import verify
from tests.jobs import rows_workload as workload
from tests.mpirun import told
from tests.oracle import NaiveRows

JOB = Path(__file__).parent / "rows_job.py"
CLOCKS = [7, 5]


def job(**options: Any) -> dict[str, Any]:
    """Run it; the final values by table, as worker 0 sees them, who makes the most steps."""
    options = {"servers": 1, "clocks": CLOCKS, **options}
    ranks = options["servers"] + len(options["clocks"]) + options.get("readers", 0)
    found: dict[str, str]
    ((found, *_),) = told(ranks, JOB, options, timeout=90)
    return {name: np.frombuffer(bytes.fromhex(values)) for name, values in found.items()}


def expected(clocks: list[int]) -> dict[str, Any]:
    """The same by dictionaries of rows."""
    out = {}
    for table in workload.tables():
        naive = NaiveRows(table)
        for clock in range(max(clocks)):
            live = [k for k, last in enumerate(clocks) if clock < last]
            pushes = []
            for k in live:
                ids = workload.batch(table.name, k, clock)
                pushes.append((ids, workload.gradient(table.name, naive.pull(ids), clock)))
            naive.fold(pushes, clock, len(live))
        out[table.name] = naive.pull(workload.ids_of(table.name)).reshape(-1)
    return out


def same(got: dict[str, Any], want: dict[str, Any]) -> None:
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], name)


@pytest.mark.parametrize(("servers", "nodes"), [(1, "real"), (3, "single")])
def test_the_bits_are_those_of_dictionaries(servers: int, nodes: str) -> None:
    same(job(servers=servers, nodes=nodes, readers=1), expected(CLOCKS))


@pytest.mark.parametrize("nodes", ["real", "single"])
def test_with_rows_kept_and_announced_the_bits_are_the_same(nodes: str) -> None:
    same(job(servers=2, nodes=nodes, cache=100), expected(CLOCKS))


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_resumed_on_the_same_or_another_number_of_servers(tmp_path: Path, servers: int) -> None:
    """The bits of an uninterrupted run; the checkpoint holds each row that was born, with its slots and folds."""
    job(servers=2, clocks=[4, 4], directory=str(tmp_path), every=4)
    assert verify(tmp_path / "step-00000004").ok
    same(job(servers=servers, clocks=[7, 7], directory=str(tmp_path), resume="auto"), expected([7, 7]))
    with Saved(tmp_path / "step-00000007") as saved:
        ids, values = saved.ids("word"), saved.array("word")
        want = dict(zip(workload.ids_of("word").tolist(), expected([7, 7])["word"].reshape(-1, 3), strict=True))
        assert len(set(ids.tolist())) == len(ids)
        for k, row in zip(ids.tolist(), values, strict=True):
            np.testing.assert_array_equal(row, want[k])


def test_asynchronous_jobs_end() -> None:
    """Readers look at rows that change; checkpoints stop the workers."""
    for values in job(staleness=None, servers=2, clocks=[30, 20], readers=1).values():
        assert np.isfinite(values).all()
