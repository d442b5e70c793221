"""The time before `run`, in which ranks that do not know each other yet may each find that something is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mpips.errors import UsageError

T = TypeVar("T")


@contextmanager
def starting() -> Iterator[None]:
    """Let what fails in the block end the whole job, told once; nothing more than raise it where no job was started.

    A UsageError is raised on all ranks: those that have found none meet the others where `run` begins. MPI is started
    only if a launcher has started several processes: one alone, on a login node, says what is wrong without it.
    """
    from mpips.cluster.world import environment_size

    if environment_size(os.environ)[0] <= 1:
        yield
        return
    from mpips.cluster import abort, mpi

    mpi.start()
    from mpi4py import MPI

    with abort.installed(MPI.COMM_WORLD):
        try:
            yield
        except UsageError as error:
            if not getattr(error, "alike", False):  # `by_first` has met the others already
                abort.settle(MPI.COMM_WORLD, error)
            raise
        except SystemExit as end:
            if not end.code:  # such as --help: all ranks were given the same words
                end.alike = True  # type: ignore[attr-defined]
            raise


def by_first(find: Callable[[], T]) -> T:
    """Return on all ranks, within `starting`, what rank 0 finds: on a network file system each might find something else."""
    from mpips.cluster.world import environment_size

    if environment_size(os.environ)[0] <= 1:
        return find()
    from mpi4py import MPI

    from mpips.cluster import abort

    comm, problem = MPI.COMM_WORLD, None
    found: T | None = None
    try:
        found = find() if comm.rank == 0 else None
    except UsageError as error:
        problem = error
    abort.settle(comm, problem)
    out: T = comm.bcast(found)
    return out


@contextmanager
def script() -> Iterator[None]:
    """As `starting`, for what a script does before `run`: wrong input is one line on stderr and exit code 2, alone too."""
    from mpips.cluster.world import environment_size

    try:
        with starting():
            yield
    except UsageError as error:
        if environment_size(os.environ)[0] > 1:
            raise  # the job's hook says it once
        print(f"mpips: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
