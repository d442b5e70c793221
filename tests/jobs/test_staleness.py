"""Promise 2, on real ranks, with one slow worker: every read is checked where it happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpirun import told

JOB = Path(__file__).parent / "ssp_job.py"
CLOCKS = 60


@pytest.mark.parametrize("nodes", ["real", "single"])
@pytest.mark.parametrize("staleness", [0, 3, None])
def test_every_read_keeps_the_promise_of_its_staleness(staleness: int | None, nodes: str) -> None:
    options = {"staleness": staleness, "clocks": CLOCKS, "workers": 3, "servers": 1, "nodes": nodes, "slow": 0.01}
    (results,) = told(4, JOB, options, timeout=60)
    assert [r["last"] for r in results] == [CLOCKS] * 3
    ahead = max(r["ahead"] for r in results)
    if staleness is None:
        assert ahead > 3, "the others do not wait for the slow worker"
    else:
        assert ahead == staleness, "the others run ahead as far as they may, and no further"
