"""srun with the right and the wrong way to start this MPI, over two nodes."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from mpips.cluster.world import SRUN
from tests.mpirun import vendor

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]

RIGHT = SRUN.get(vendor(), "pmi2")
RUN = """
import numpy as np
import mpips
tables = [mpips.Dense("w", shape=(3,), optimizer=mpips.optim.SGD(lr=1.0))]

def work(ps):
    ps.push("w", np.array([-1, -2, -3], "f4"))
    ps.clock()
    return ps.pull("w").tolist()

print(mpips.run(work, tables, servers=2))
"""

# What MPICH's MPI_Init sends depends on what lies in memory after its address: here, text in the gaps of the heap.
RUBBISH = """
rubbish = [b"Z" * n for n in range(513, 9000)]
del rubbish[::2]
"""


def srun(cluster: Any, way: str, *program: str) -> Any:
    return cluster.run(["srun", "--nodes=2", "--ntasks-per-node=2", f"--mpi={way}", sys.executable, *program])


def test_the_doctor_sees_two_nodes_and_tries_the_window_between_them(cluster: Any) -> None:
    done = srun(cluster, RIGHT, "-m", "mpips", "doctor", "--json")
    assert done.code == 0, done
    world = json.loads(done.out)["world"]
    assert [(node["host"], node["ranks"]) for node in world["nodes"]] == [("n1", 2), ("n2", 2)]
    assert world["windows"]["Allocate_shared"].startswith("works, passive")
    assert world["windows"]["Create over it, other node"].startswith("works")


def test_a_run_over_two_nodes(cluster: Any) -> None:
    (cluster.folder / "demo.py").write_text(RUBBISH + RUN)
    done = srun(cluster, RIGHT, "demo.py")
    assert done.code == 0, done
    assert sorted(done.out.split("\n")) == ["", "None", "None", "None", "[[2.0, 4.0, 6.0], [2.0, 4.0, 6.0]]"], done


@pytest.mark.parametrize("wrong", ["none", "pmi2" if RIGHT == "pmix" else "none"])
def test_the_wrong_way_is_refused_by_name(cluster: Any, wrong: str) -> None:
    (cluster.folder / "demo.py").write_text(RUN)
    done = srun(cluster, wrong, "demo.py")
    assert done.code == 2, done
    assert "[[" not in done.out
    assert f"{vendor()} sees each of them alone: use srun --mpi={RIGHT} (`srun --mpi=list` shows" in done.err, done


def test_one_process_in_a_batch_script_is_one_process(cluster: Any) -> None:
    (cluster.folder / "demo.py").write_text(RUN)
    (cluster.folder / "alone.sh").write_text(f"#!/bin/sh\n{sys.executable} demo.py\n")
    job = cluster.sbatch("--nodes=2", "--ntasks=4", "alone.sh")
    assert job.wait() == "COMPLETED 0", job
    assert "[[1.0, 2.0, 3.0]]" in str(job)


def test_a_rank_that_fails_ends_the_ranks_of_other_nodes(cluster: Any) -> None:
    failing = RUN.replace("ps.clock()", "ps.clock()\n    if ps.index == 1:\n        1 / 0")
    (cluster.folder / "demo.py").write_text(failing)
    done = srun(cluster, RIGHT, "demo.py")
    assert done.code == (1 if RIGHT == "pmix" else 137), done  # pmi2 loses the code
    assert done.err.count("ZeroDivisionError: division by zero") == 2, done
    assert done.err.count("Traceback") == 1, done
