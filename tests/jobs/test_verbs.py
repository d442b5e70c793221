"""Every verb on real ranks, over dtypes, staleness, servers, and ranks that share a node or do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpirun import told

JOB = Path(__file__).parent / "verbs_job.py"


def job(ranks: int, *, dtype: str = "float32", servers: int = 1, readers: int = 0, nodes: str = "real", reserve: int = 0,
        directory: str = "", turns: int = 1) -> list[dict[str, object]]:
    """Run it and return what it printed, line by line."""
    options = {"ranks": ranks, "dtype": dtype, "servers": servers, "readers": readers, "nodes": nodes, "reserve": reserve,
               "directory": directory, "turns": turns}
    return told(ranks, JOB, options, timeout=90)


@pytest.mark.parametrize(("dtype", "nodes"), [("float32", "real"), ("float32", "single"), ("float64", "single"),
                                              ("float16", "real"), ("bfloat16", "single")])
def test_all_verbs(dtype: str, nodes: str) -> None:
    assert job(4, dtype=dtype, servers=2, nodes=nodes) == [{"turn": 0, "workers": 2}]


def test_all_verbs_alone_in_one_process() -> None:
    assert job(1, servers=3, reserve=1) == [{"turn": 0, "workers": 1}]


@pytest.mark.parametrize("nodes", ["real", "single"])
def test_readers_see_the_newest_until_all_is_done(nodes: str) -> None:
    lines = job(5, servers=1, readers=2, nodes=nodes)
    ends = [line["reader"] for line in lines if "reader" in line]
    assert len(ends) == 2
    assert ends[0] == ends[1], "the last read of each is final"
    assert {"turn": 0, "workers": 2} in lines


@pytest.mark.parametrize("servers", [1, 2])
def test_tables_are_created_on_the_way(servers: int) -> None:
    assert job(2 + servers, servers=servers, reserve=1) == [{"turn": 0, "workers": 2}]


def test_run_twice_in_one_process_and_save_in_each(tmp_path: Path) -> None:
    lines = job(4, servers=2, directory=str(tmp_path / "run"), turns=2)
    assert lines == [{"turn": 0, "workers": 2}, {"turn": 1, "workers": 2}]


def test_one_worker_is_enough() -> None:
    assert job(2) == [{"turn": 0, "workers": 1}]
