from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mpips.cluster.world import environment_size, number_nodes, refuse_singletons
from mpips.errors import UsageError
from tests.mpirun import environment, mpirun, vendor

BATCH = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NTASKS_HET_GROUP_0": "2", "SLURM_NTASKS_HET_GROUP_1": "2"}


@pytest.mark.parametrize(("environ", "size"), [
    ({}, (1, "")),
    ({"OMPI_COMM_WORLD_SIZE": "3"}, (3, "OMPI_COMM_WORLD_SIZE")),
    ({"PMI_SIZE": "5"}, (5, "PMI_SIZE")),
    (BATCH, (1, "")),  # a plain `python x.py` in a batch script
    ({**BATCH, "SLURM_STEP_NUM_TASKS": "4"}, (4, "SLURM_STEP_NUM_TASKS")),
    # The daemons of an mpirun inside a job are a step of two, the program is one rank.
    ({**BATCH, "SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "1"}, (1, "OMPI_COMM_WORLD_SIZE")),
    ({**BATCH, "SLURM_STEP_NUM_TASKS": "4(x2)"}, (1, "SLURM_STEP_NUM_TASKS")),
])
def test_what_the_launcher_says(environ: dict[str, str], size: tuple[int, str]) -> None:
    assert environment_size(environ) == size


def test_a_world_that_is_as_large_as_asked_for_is_not_refused() -> None:
    refuse_singletons(1, {})
    refuse_singletons(1, BATCH)
    refuse_singletons(1, {"PMI_SIZE": "1"})
    refuse_singletons(4, {"PMI_SIZE": "4"})


@pytest.mark.parametrize(("name", "option"), [("Open MPI", "pmix"), ("MPICH", "pmi2")])
@pytest.mark.parametrize("extra", [{}, {"PMI_SIZE": "4"}])
def test_one_line_names_the_right_option_of_srun(name: str, option: str, extra: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_singletons(1, {"SLURM_STEP_NUM_TASKS": "4", **extra}, vendor=name)
    line = str(caught.value)
    assert line.startswith("4 processes were started (")
    assert f"srun --mpi={option} " in line
    assert "`srun --mpi=list`" in line
    assert "\n" not in line


def test_outside_slurm_the_line_names_an_mpirun() -> None:
    with pytest.raises(UsageError) as caught:
        refuse_singletons(1, {"PMI_SIZE": "3"}, vendor="Open MPI")
    assert str(caught.value).startswith("3 processes were started (PMI_SIZE=3), but Open MPI sees each of them alone: "
                                        "this launcher belongs to another MPI, use ")
    assert str(caught.value).endswith("mpirun")


REFUSE = """
import os
from mpi4py import MPI
from mpips.cluster.world import refuse_singletons
refuse_singletons(MPI.COMM_WORLD.size, os.environ)
print("world of", MPI.COMM_WORLD.size)
"""


def test_a_real_world_and_a_real_singleton() -> None:
    done = mpirun(2, REFUSE)
    assert (done.code, done.out.split("\n").count("world of 2")) == (0, 2), done
    alone = subprocess.run([sys.executable, "-c", REFUSE], env={**environment(), "SLURM_STEP_NUM_TASKS": "2"},
                           capture_output=True, text=True, timeout=60, check=False)
    assert alone.returncode == 2
    assert f"SLURM_STEP_NUM_TASKS=2), but {vendor()} sees each of them alone" in alone.stderr


NODES = """
import json
from mpi4py import MPI
from mpips.cluster.world import nodes_of
print(json.dumps([MPI.COMM_WORLD.rank, nodes_of(MPI.COMM_WORLD)]))
"""


def test_the_nodes_of_a_real_world() -> None:
    done = mpirun(3, NODES)
    assert done.code == 0, done
    assert sorted(map(json.loads, done.out.splitlines())) == [[r, [0, 0, 0]] for r in range(3)]


def test_nodes_are_numbered_by_their_first_rank() -> None:
    assert number_nodes([0, 1, 0, 1, 0]) == [0, 1, 0, 1, 0]
    assert number_nodes([0, 0, 2, 3, 3]) == [0, 0, 1, 2, 2]
