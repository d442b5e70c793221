"""MPI_Init and MPI_Finalize, which wait for all ranks and have no limit.

mpi4py calls both with the GIL held, so no thread of Python can end them: only `faulthandler` can. It prints where this rank waits.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from mpips.cluster.pmi import short_requests
from mpips.cluster.world import environment_size

COME = 1800.0  # seconds that ranks may come one after the other: thousands read their modules from one file system
LEAVE = 300.0  # seconds between the first rank that has nothing more to do and the last


def start(environ: Mapping[str, str] = os.environ) -> None:
    """Import mpi4py.MPI, which starts MPI; a process that waits for other ranks longer than `COME` seconds ends.

    Raises:
        ImportError, RuntimeError: there is no mpi4py, or it finds no MPI library.
    """
    if "mpi4py.MPI" in sys.modules:
        return
    alone = environment_size(environ)[0] <= 1  # it waits for nobody, and `faulthandler` has only one limit, which may be the user's
    with short_requests(environ), nullcontext() if alone else _at_most(COME):
        from mpi4py import MPI  # noqa: F401


def end(environ: Mapping[str, str] = os.environ) -> None:
    """End MPI where every rank ends now: a process that waits for others longer than `LEAVE` seconds ends with 1.

    Not for `run`: what a user's program does after it, on one rank alone, may take any time.
    """
    if environment_size(environ)[0] <= 1:
        return
    from mpi4py import MPI

    with _at_most(LEAVE):
        MPI.Finalize()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer."""
    if sys.__stderr__ is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
