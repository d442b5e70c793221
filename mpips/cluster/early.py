"""An exception between `import mpips` and `run`: the other ranks wait for this one in MPI_Init, and some launchers let them.

(Measured: Open MPI's mpirun ends a job of which one process has failed before MPI_Init, MPICH's does not.) So in a process that a
launcher started together with others an uncaught exception is printed as ever, and then MPI is started only to end the job.

A process that just ends before `run`, or never comes there, nobody speaks for: `mpips.cluster.mpi` has the limit for it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from types import TracebackType

from mpips.cluster.world import environment_size
from mpips.errors import FAILED, INTERRUPTED, MpipsError, UsageError

LIMIT = 10  # seconds for MPI_Init: the others may have ended without it


def install(environ: Mapping[str, str] = os.environ) -> None:
    """Take the place of Python's own hook, if a launcher started several processes; `run` installs a better one."""
    if sys.excepthook is sys.__excepthook__ and environment_size(environ)[0] > 1:
        sys.excepthook = end_job


def end_job(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception and end the whole job with its exit code."""
    if isinstance(error, UsageError):
        print(f"mpips: error: {' '.join(str(error).split())}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("mpips: interrupted before the job has begun", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    signal.alarm(LIMIT)
    from mpips.cluster import mpi

    code = error.exit_code if isinstance(error, MpipsError) else INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    try:
        mpi.start()
    except (ImportError, RuntimeError) as missing:  # mpi4py raises the latter when it finds no libmpi; then nobody waits
        why = " ".join(str(missing).split())
        print(f"mpips: error: no MPI here ({why}): pip install 'mpips[local]', or load your cluster's MPI module", file=sys.stderr)
        raise SystemExit(code) from None
    from mpi4py import MPI

    MPI.COMM_WORLD.Abort(code)
