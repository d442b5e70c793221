from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mpirun import environment, mpirun

DEMO = """
import mpips
mpips.run(lambda ps: None, [mpips.Dense("w", shape=(3,), optimizer=mpips.optim.SGD(lr=0.1))])
"""


def test_a_rank_without_an_mpi_says_so_at_the_end(tmp_path: Path) -> None:
    """As on a node where the module is not loaded: what cannot be ended by MPI_Abort just ends."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").write_text("")
    (tmp_path / "mpi4py/MPI.py").write_text("raise RuntimeError('cannot load MPI library\\n')")
    env = {**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}", "OMPI_COMM_WORLD_SIZE": "3"}
    done = subprocess.run([sys.executable, "-c", DEMO], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done
    assert done.stderr.endswith("\nmpips: error: no MPI here (cannot load MPI library): pip install 'mpips[local]', "
                                "or load your cluster's MPI module\n")
    assert done.stderr.count("Traceback") == 1, done


CTRL_C = """
import os
import mpips
if (os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]) == "1":
    raise KeyboardInterrupt
mpips.run(lambda ps: None, [mpips.Dense("w", shape=(3,), optimizer=mpips.optim.SGD(lr=0.1))])
"""


def test_an_interrupt_before_the_job_has_begun_is_one_line_and_130_as_one_inside_it() -> None:
    """So it is while a rank waits for the others in MPI_Init, which Python hears of when that returns."""
    done = mpirun(3, CTRL_C)
    assert done.code == 130, done
    assert done.err.count("mpips: interrupted") == 1, done
    assert "Traceback" not in done.err, done


ALL_RAISE = """
import mpips.errors
raise {what}
"""


@pytest.mark.parametrize(("what", "code", "says"), [
    ("KeyboardInterrupt", 130, "mpips: interrupted"),
    ("mpips.errors.UsageError('no data')", 2, "mpips: error: no data"),
    ("ValueError('no data')", 1, "ValueError: no data"),
])
def test_what_all_ranks_raise_before_the_job_has_begun_is_told_by_one_of_them(what: str, code: int, says: str) -> None:
    """MPICH passes an interrupt on to every rank; and a script that is wrong is wrong on all of them."""
    done = mpirun(3, ALL_RAISE.format(what=what))
    assert done.code == code, done
    assert done.err.count(says) == 1, done
    assert done.err.count("Traceback") == (code == 1), done
