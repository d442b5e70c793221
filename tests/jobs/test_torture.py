"""No torn block, and no starved reader, while servers fold 10 million floats without pause."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpirun import told

JOB = Path(__file__).parent / "torture_job.py"


@pytest.mark.parametrize(("staleness", "servers", "nodes", "way"), [
    (None, 1, "real", 0), (0, 2, "real", 0), (None, 1, "single", 0), (None, 1, "single", 1), (0, 2, "single", 1)])
def test_reads_are_whole_and_go_on(staleness: int | None, servers: int, nodes: str, way: int) -> None:
    """`way` is how large reads go where nodes are "single": by Get or by messages."""
    options = {"size": 10_000_000, "seconds": 2, "staleness": staleness, "servers": servers, "nodes": nodes, "way": way}
    lines = told(servers + 3, JOB, options, timeout=100)
    reader = next(line for line in lines if "reads" in line)
    clocks = next(line["clocks"] for line in lines if "clocks" in line)
    assert reader["reads"] >= 5, "the reader was starved"
    assert reader["newest"] == (sum(clocks) if staleness is None else reader["newest"]), "the last read has every push"
