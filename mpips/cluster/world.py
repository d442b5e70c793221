"""How large the world is, whether it is the one that was asked for, and which of its ranks share a node.

A launcher of one MPI starts a program of another MPI as N worlds of one process each, and every one of them succeeds:
so a world of one is compared with what the launcher wrote into the environment. No role and no rank is ever taken
from there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpips.errors import UsageError

if TYPE_CHECKING:
    from mpi4py import MPI

# What `srun --mpi=` must say for the MPI that this Python is linked with.
SRUN = {"Open MPI": "pmix", "MPICH": "pmi2", "Intel MPI": "pmi2"}


def environment_size(environ: Mapping[str, str]) -> tuple[int, str]:
    """Return how many processes the launcher started together, and the variable that says so; else (1, "").

    A process manager's own variable comes first: under `mpirun` inside a Slurm job Slurm's count is that of the
    daemons. Slurm's is only that of a *step*: SLURM_NTASKS is also there in a batch script, which may run a program
    alone. A step over several groups of a heterogeneous job counts the tasks of all of them (Slurm 22.05; only the
    batch script's counts are one group's).
    """
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if name in environ:
            return _number(environ[name]), name
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return 1, ""
    return _number(environ["SLURM_STEP_NUM_TASKS"]), "SLURM_STEP_NUM_TASKS"


def refuse_singletons(size: int, environ: Mapping[str, str] = os.environ, vendor: str | None = None) -> None:
    """Raise UsageError if MPI sees a world of one where the launcher started several processes.

    `vendor` is the MPI's name as `mpi4py.MPI.get_vendor()` gives it; None asks it, and only when the name is needed.
    """
    started, how = environment_size(environ)
    if size != 1 or started <= 1:
        return
    if vendor is None:
        from mpi4py import MPI

        vendor = MPI.get_vendor()[0]
    mpirun = beside() or f"the mpirun of {vendor}"
    told = f"{started} processes were started ({how}={started}), but {vendor} sees each of them alone: "
    if "SLURM_STEP_NUM_TASKS" in environ:
        name = SRUN.get(vendor)
        use = f"srun --mpi={name}" if name else "the --mpi= of srun that this MPI was built for"
        raise UsageError(f"{told}use {use} (`srun --mpi=list` shows what this Slurm has) or {mpirun}")
    raise UsageError(f"{told}this launcher belongs to another MPI, use {mpirun}")


def beside() -> str:
    """Return the mpirun that was installed with this Python's MPI (a wheel puts it there), or ""."""
    path = Path(sys.executable).parent / "mpirun"
    return str(path) if path.exists() else ""


def _number(text: str) -> int:
    """Read a count; what is not one (nobody's launcher wrote it) counts as 1."""
    return int(text) if text.isdecimal() else 1


def nodes_of(comm: MPI.Comm) -> list[int]:
    """Return the node of every rank, numbered by their first ranks. Collective."""
    from mpi4py import MPI

    local = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    leader = np.array([comm.rank], np.int64)
    local.Bcast(leader)
    local.Free()
    leaders = np.empty(comm.size, np.int64)
    comm.Allgather(leader, leaders)
    return number_nodes(leaders.tolist())


def number_nodes(leaders: Sequence[int]) -> list[int]:
    """Return the node of every rank, given the first rank of its node.

    >>> number_nodes([0, 1, 0, 3, 1])
    [0, 1, 0, 2, 1]
    """
    numbers: dict[int, int] = {}
    return [numbers.setdefault(leader, len(numbers)) for leader in leaders]
