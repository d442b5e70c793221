"""Promise 1 and 4: the same bits for any number of servers, equal to one NumPy process, also after a resume elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpips import layout
from mpips.checkpoint.order import complete
from mpips.errors import FAILED, USAGE
from tests import oracle
from tests.jobs import workload
from tests.mpirun import mpirun, told
from tests.playing import small_blocks

JOB = Path(__file__).parent / "bsp_job.py"


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, 4096, 4096)


def job(ranks: int, **options: Any) -> list[dict[str, str]]:
    results: list[dict[str, str]]
    (results,) = told(ranks, JOB, options, timeout=100)
    return results


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("nodes", ["real", "single"])
@pytest.mark.parametrize(("ranks", "servers"), [(3, 1), (4, 2), (5, 3)])
def test_the_same_bits_on_any_number_of_servers_as_in_one_numpy_process(ranks: int, servers: int, nodes: str) -> None:
    expected = workload.fingerprint(oracle.bsp(workload.tables(), workload.gradient, [6, 6]))
    for result in job(ranks, servers=servers, clocks=[6], nodes=nodes):
        assert result == expected


@pytest.mark.usefixtures("blocks")
def test_workers_with_unequal_numbers_of_batches_end_cleanly() -> None:
    expected = workload.fingerprint(oracle.bsp(workload.tables(), workload.gradient, [3, 7, 5]))
    assert expected in job(5, servers=2, clocks=[3, 7, 5])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("nodes", ["real", "single"])
def test_rings_give_the_same_bits(nodes: str) -> None:
    """Room for two blocks of each worker, where its gradients have a dozen."""
    expected = workload.fingerprint(oracle.bsp(workload.tables(), workload.gradient, [3, 7, 5]))
    assert expected in job(5, servers=2, clocks=[3, 7, 5], nodes=nodes, mailboxes=3 * 2 * layout.BLOCK)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("servers", [1, 3])
def test_alone_in_one_process(servers: int) -> None:
    expected = workload.fingerprint(oracle.bsp(workload.tables(), workload.gradient, [6]))
    assert job(1, servers=servers, clocks=[6]) == [expected]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 2)])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path, before: int, after: int) -> None:
    straight = job(2 + after, servers=after, clocks=[10])
    directory = str(tmp_path / "ckpt")
    job(2 + before, servers=before, clocks=[5], directory=directory, every=5)
    resumed = job(2 + after, servers=after, clocks=[10], directory=directory, resume="latest")
    assert resumed == straight


@pytest.mark.parametrize("who", ["worker", "server"])
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint_and_not_a_bit(tmp_path: Path, who: str) -> None:
    straight = job(4, servers=2, clocks=[10])
    options = {"servers": 2, "clocks": [10], "directory": str(tmp_path), "every": 3, "resume": "auto"}
    done = mpirun(4, [str(JOB), json.dumps({**options, "kill": who, "at": 8})], timeout=60)
    assert done.code not in (0, FAILED, USAGE), done  # job scripts start it again
    assert [step.name for step in complete(tmp_path)][-1] in ("step-00000003", "step-00000006")
    assert job(4, **options) == straight
