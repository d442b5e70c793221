"""combine="node": the bits of one NumPy process that adds up node by node, whoever ends when, and less traffic."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.checkpoint.order import complete
from mpips.checkpoint.read import Saved
from mpips.transport.plan import make_plan
from tests import oracle
from tests.jobs import workload
from tests.mpirun import mpirun, told
from tests.playing import small_blocks

JOB = Path(__file__).parent / "combine_job.py"
VERBS = Path(__file__).parent / "combine_verbs_job.py"


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, 4096, 4096)


def jobs(ranks: int, options: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Run them in one group of processes; return each one's results by worker."""
    results = told(ranks, JOB, options, timeout=100)
    assert len(results) == len(options), results
    return results


def expected(options: dict[str, Any]) -> list[oracle.Values]:
    """Values before each clock, and the final ones."""
    def gradient(worker: int, clock: int, values: oracle.Values) -> dict[str, Any]:
        if not options.get("pull", True):
            values = {name: np.zeros_like(value) for name, value in values.items()}
        return workload.finite(worker, clock, values)

    ranks = options["servers"] + len(options["clocks"])
    nodes = workers_nodes(options["nodes"], options["servers"]) if "nodes" in options else [0] * ranks
    return oracle.history([*workload.tables(), *workload.skipping()], gradient, options["clocks"], nodes)


def workers_nodes(nodes: list[int], servers: int) -> list[int]:
    from mpips.cluster.roles import assign

    return [nodes[rank] for rank in assign(nodes, servers).workers]


def check(options: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Every value that a worker has seen, and the last checkpoint, against the naive process."""
    want = expected(options)
    prints = [workload.fingerprint(values) for values in want]
    for worker, result in enumerate(results):
        for clock, seen in result["seen"]:
            assert seen == prints[clock], f"worker {worker} at clock {clock} of {options}"
    if "directory" in options:
        with Saved(complete(Path(options["directory"]))[-1]) as saved:
            for name, value in want[-1].items():
                assert saved.array(name).tobytes() == value.tobytes(), f"{name} of {options}"


def test_three_workers_of_a_node_end_in_every_order_also_if_they_never_pull(tmp_path: Path) -> None:
    ends = [*itertools.permutations([1, 2, 4]), (1, 3, 3), (0, 2, 1)]
    options = [{"servers": 1, "clocks": clocks, "silent": [k for k in range(3) if i >> k & 1], "directory": str(tmp_path / f"{i}")}
               for i, clocks in enumerate(ends)]
    options += [{"servers": 1, "clocks": clocks, "pull": False, "silent": silent, "directory": str(tmp_path / f"ahead{i}")}
                for i, (clocks, silent) in enumerate([((7, 7, 7), []), ((3, 7, 5), [0, 1])])]
    for one, results in zip(options, jobs(4, options), strict=True):
        check(one, results)


def test_four_workers_and_two_servers_on_several_nodes(tmp_path: Path) -> None:
    nodes = [[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 1, 1]]  # two, two dealt out, 2 + 1 + 1, 1 + 3
    ends = [((3, 3, 3, 3), [1, 3]), ((1, 4, 3, 2), [0, 2])]
    options = [{"servers": 2, "clocks": clocks, "nodes": of, "silent": silent, "directory": str(tmp_path / f"{i}")}
               for i, (of, (clocks, silent)) in enumerate(zip([*nodes, nodes[0]], [*ends, *ends, ends[1]], strict=True))]
    options += [{"servers": 2, "clocks": (6, 6, 6, 6), "nodes": [0] * 6, "pull": False, "slow": slow} for slow in (0, 3)]
    for one, results in zip(options, jobs(6, options), strict=True):
        check(one, results)


def test_a_resumed_job_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    first: dict[str, Any] = {"servers": 1, "clocks": (3, 3, 3), "save": 1, "directory": str(tmp_path)}
    second = {"servers": 1, "clocks": (6, 7, 5), "every": 2, "resume": "latest", "directory": str(tmp_path)}
    results = jobs(4, [first, second])
    check({"servers": 1, "clocks": (3, 3, 3)}, results[0])
    check(second, results[1])
    assert [seen[0] for seen in results[1][0]["seen"]] == [3, 4, 5, 6], "it began where the first has ended"
    prints = expected(second)
    for saved in complete(tmp_path):
        with Saved(saved) as one:
            for name, value in prints[max(one.clocks)].items():
                assert one.array(name).tobytes() == value.tobytes(), f"{name} in {saved}"


def test_beside_tables_with_staleness_whose_checkpoints_stop_the_workers(tmp_path: Path) -> None:
    options = {"servers": 1, "clocks": (9, 6, 8), "mixed": True, "every": 2, "directory": str(tmp_path)}
    check(options, jobs(4, [options])[0])
    assert len(complete(tmp_path)) >= 2


def test_one_gradient_of_each_node_goes_to_the_servers() -> None:
    base: dict[str, Any] = {"servers": 1, "clocks": (3, 3, 3), "pull": False}
    apart, node = jobs(4, [base | {"combine": None}, base])
    plan = make_plan([*workload.tables(), *workload.skipping()], servers=1, workers=3)
    halves = sum(t.nbytes for t in plan.layout.tables if t.half)
    assert [r["stats"]["pushes"] for r in node] == [r["stats"]["pushes"] for r in apart]
    sent = [sum(r["stats"]["push_bytes"] for r in results) for results in (apart, node)]
    whole = sum(t.nbytes for t in plan.layout.tables) - halves
    assert sent[1] <= 3 * (whole + 3 * halves) < sent[0] - whole
    assert node[1]["stats"]["push_bytes"] <= 3 * halves, "worker 0 sends"


def test_the_verbs_mean_what_they_mean() -> None:
    done = mpirun(4, [str(VERBS)], timeout=60)
    assert done.code == 0, done
    assert json.loads(done.out) == [True, True, True]


def test_who_waits_in_vain_says_for_whom() -> None:
    done = mpirun(4, [str(VERBS), "absent"], timeout=60)
    assert done.code != 0
    assert "waited 1.5 s for worker 1, clock 0: the other workers of this node: worker 0 is at clock 0" in done.err \
        or "waited 1.5 s for worker 2, clock 0: the other workers of this node: worker 0 is at clock 0" in done.err \
        or "waited 1.5 s for worker 0, clock 0: barrier 1: workers 1, 2 have not come" in done.err, done
