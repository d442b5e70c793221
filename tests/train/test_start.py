"""The time before `run`: what ends it well, and what does not."""

from __future__ import annotations

from tests.mpirun import mpirun


def test_help_under_mpirun_is_no_failure() -> None:
    done = mpirun(2, ["-m", "mpips", "train", "--help"], timeout=60)
    assert done.code == 0, done
    assert done.out.count("usage: mpips train") == 2
    assert "mpips:" not in done.err


def test_another_exit_ends_the_job() -> None:
    code = ["-c", "import sys\nfrom mpips.train.start import script\nwith script():\n    sys.exit(3)"]
    assert mpirun(2, code, timeout=60).code == 3
