"""Tables that are created while a job runs, saved, and created again by the run that resumes it."""

from __future__ import annotations

from pathlib import Path

from tests.mpirun import told

JOB = Path(__file__).parent / "create_job.py"


def job(ranks: int, **options: object) -> list[list[float]]:
    results: list[list[float]]
    (results,) = told(ranks, JOB, options, timeout=60)
    return results


def test_a_table_created_later_trains_is_saved_and_comes_back(tmp_path: Path) -> None:
    straight = job(4, servers=2, clocks=8, directory=str(tmp_path / "a"))
    assert straight[0] == straight[1]
    job(3, servers=1, clocks=5, directory=str(tmp_path / "b"))
    assert job(4, servers=2, clocks=8, directory=str(tmp_path / "b")) == straight
