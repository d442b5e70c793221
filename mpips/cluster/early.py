"""An exception between `import mpips` and `run`: the other ranks wait for this one in MPI_Init, and some launchers let them.

(Measured: Open MPI's mpirun ends a job of which one process has failed before MPI_Init, MPICH's does not.) So in a process that a
launcher started together with others an uncaught exception is printed as ever, by the first of a node that has one, and then MPI is
started only to end the job.

A process that just ends before `run`, or never comes there, nobody speaks for: `mpips.cluster.mpi` has the limit for it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from mpips.cluster.world import environment_size
from mpips.errors import FAILED, INTERRUPTED, MpipsError, UsageError

LIMIT = 10  # seconds for MPI_Init: the others may have ended without it
FIRST_SPEAKS = 3.0  # seconds in which the first rank that fails ends the job


def install(environ: Mapping[str, str] = os.environ) -> None:
    """Take the place of Python's own hook, if a launcher started several processes; `run` installs a better one."""
    if sys.excepthook is sys.__excepthook__ and environment_size(environ)[0] > 1:
        sys.excepthook = end_job


def end_job(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception and end the whole job with its exit code."""
    first = speaks_first()
    if first:
        _say(kind, error, trace)
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

    if not first:
        time.sleep(FIRST_SPEAKS)
        _say(kind, error, trace)
    MPI.COMM_WORLD.Abort(code)


def speaks_first() -> bool:
    """Whether no other rank of this node has failed before: the same mistake in all of them is told by one of them.

    The first binds a name, by the launcher's process, which all of them have as their parent; it is gone when they are. Who cannot
    find out speaks.
    """
    try:
        name = socket.socket(socket.AF_UNIX)
        name.bind(f"\0mpips failed {os.getuid()} {os.getppid()}")
    except OSError as error:  # it may be what has failed: too many open files
        return error.errno != errno.EADDRINUSE
    name.detach()  # it is kept until this process ends
    return True


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, UsageError):
        print(f"mpips: error: {' '.join(str(error).split())}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("mpips: interrupted before the job has begun", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
