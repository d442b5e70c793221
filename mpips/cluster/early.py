"""An exception between `import mpips` and `run`: the other ranks wait for this one in MPI_Init, and some launchers let them.

(Measured: Open MPI's mpirun ends a job of which one process has failed before MPI_Init, MPICH's does not.) So in a process that a
launcher started together with others an uncaught exception is printed as ever, and then MPI is started only to end the job.

A process that just ends before `run`, or never comes there, nobody speaks for. The others wait in MPI_Init, which holds the GIL:
only `faulthandler` has a limit then. It prints where they wait.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from mpips.cluster.world import environment_size
from mpips.errors import FAILED, MpipsError, UsageError

LIMIT = 10  # seconds for MPI_Init: the others may have ended without it
COME = 1800.0  # seconds that ranks may come one after the other: thousands read their modules from one file system


def install(environ: Mapping[str, str] = os.environ) -> None:
    """Take the place of Python's own hook, if a launcher started several processes; `run` installs a better one."""
    if sys.excepthook is sys.__excepthook__ and environment_size(environ)[0] > 1:
        sys.excepthook = end_job


@contextmanager
def waiting_for_all_ranks(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Start MPI inside; it ends this process if not all ranks come within `COME` seconds."""
    if environment_size(environ)[0] <= 1 or "mpi4py.MPI" in sys.modules or sys.__stderr__ is None:
        yield  # nobody is waited for, and `faulthandler` has only one limit, which may be the user's
        return
    faulthandler.dump_traceback_later(COME, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_job(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception and end the whole job with its exit code."""
    if isinstance(error, UsageError):
        print(f"mpips: error: {' '.join(str(error).split())}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    signal.alarm(LIMIT)
    from mpips.cluster.pmi import short_requests

    code = error.exit_code if isinstance(error, MpipsError) else FAILED
    try:
        with short_requests():
            from mpi4py import MPI
    except (ImportError, RuntimeError) as missing:  # mpi4py raises the latter when it finds no libmpi; then nobody waits
        why = " ".join(str(missing).split())
        print(f"mpips: error: no MPI here ({why}): pip install 'mpips[local]', or load your cluster's MPI module", file=sys.stderr)
        raise SystemExit(code) from None
    MPI.COMM_WORLD.Abort(code)
