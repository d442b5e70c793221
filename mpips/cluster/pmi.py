"""MPICH's MPI_Init under `srun --mpi=pmi2`: requests that Slurm can read.

Ranks of different nodes find each other by `cmd=put kvsname=... key=... value=...` lines to Slurm. Its plugin says that a value may
have 1024 bytes, and takes what one read of 1024 bytes gives for a whole line. MPICH cuts its address, in hexadecimal, into values
of 1022: with the line's head that is too long, and the job ends in MPI_Init. Zeros are written shorter, so it depends on what the
memory after the address holds, of which MPICH (5.0, UCX) sends the rest of 4096 bytes: on all that a program did before. (PMI2 and
PMIx say how long a request is, but MPICH's wheel is built without them.)

So while MPI starts a helper stands between a rank and Slurm, and says that a value may have 900 bytes. All ranks must hear the
same, for MPICH counts in values of that length; afterwards the rank has Slurm's own socket again.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from select import select

LIMIT = 5.0  # seconds
LONGEST = b"900"  # even, or MPICH puts and gets other lengths; the rest of a line has at most 100 bytes


@contextmanager
def short_requests(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """The block is the first to import mpi4py.MPI; without Slurm's pmi2, or once MPI has started, nothing is done."""
    number = environ.get("PMI_FD", "")
    if ("SLURM_STEP_ID" not in environ or "mpi4py.MPI" in sys.modules or not sys.executable  # Python inside another program
            or not number.isdecimal() or not _socket(int(number))):
        yield
        return
    slurm = os.dup(int(number))
    ours, theirs = socket.socketpair()
    fds = (theirs.fileno(), slurm)
    # Not a fork: numpy and others have threads. -I and -S: it needs none of the user's modules, and starts at once.
    command = [sys.executable, "-IS", __file__, *map(str, fds)]
    with ours, theirs, subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL) as helper:
        os.dup2(ours.fileno(), int(number))
        ours.close()
        theirs.close()
        try:
            yield
        finally:
            os.dup2(slurm, int(number))  # the helper reads the end of its socket, and ends
            os.close(slurm)
            try:
                helper.wait(LIMIT)
            except subprocess.TimeoutExpired:  # what MPI has started holds the socket
                helper.kill()


def _socket(number: int) -> bool:
    """Whether that is one: what a rank has started has its environment, but often not its files."""
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


def relay(rank: socket.socket, slurm: socket.socket) -> None:
    """Pass on what either says, but for the length of a value, until one ends."""
    other = {rank: slurm, slurm: rank}
    while True:
        for ready in select(list(other), [], [])[0]:
            said = ready.recv(1 << 16)
            if not said:
                return
            other[ready].sendall(re.sub(rb"^(cmd=maxes .*\bvallen_max=)1024\b", rb"\g<1>" + LONGEST, said))


if __name__ == "__main__":
    relay(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
