"""Start a real mpirun: the one beside this Python, so that its MPI is the one that mpi4py was installed for.

Every test that needs ranks goes through `mpirun`; it never hangs, and what a run printed is in the failure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# What Open MPI 5 needs beyond a plain `mpirun -n 3 python demo.py`; `mpips doctor` tells a user the same.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # only as root
MORE_RANKS_THAN_CORES = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}  # or the flag --oversubscribe
QUIET = {"OMPI_MCA_osc": "sm,rdma"}  # no "OSC UCX component priority" line for every rank and window
# A core is shared by many ranks here: none may be tied to one, and no BLAS may start threads of its own.
SHARED_CORES = {"PRTE_MCA_hwloc_default_binding_policy": "none", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Done:
    """How a run ended: its exit code, and everything that its ranks wrote."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class TimedOut(AssertionError):
    """A run was killed at its limit; the text has its output and the stacks of its ranks."""


def launcher() -> str:
    """Return the path of mpirun, or "" if there is none."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun") or ""


@cache
def vendor() -> str:
    """Return whose mpirun that is: "Open MPI", "MPICH" or "Intel MPI"; "" without one."""
    path = launcher()
    if not path:
        return ""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    known = {"Open MPI": "Open MPI", "OpenRTE": "Open MPI", "HYDRA": "MPICH", "Intel": "Intel MPI"}
    return next((name for word, name in known.items() if word in said), "")


def environment() -> dict[str, str]:
    """Return this process's environment and what ranks need in it.

    Nothing of a launcher that runs this test, and no unbuffered Python: it writes a line and its end apart, and a
    launcher may put another rank's line between them.
    """
    out = ("OMPI_COMM_", "PMI_", "PMIX_", "SLURM_", "PYTHONUNBUFFERED")
    ours = {k: v for k, v in os.environ.items() if not k.startswith(out)}
    path = os.pathsep.join([str(ROOT), *filter(None, [ours.get("PYTHONPATH")])])
    return {**ours, **AS_ROOT, **MORE_RANKS_THAN_CORES, **QUIET, **SHARED_CORES, "PYTHONPATH": path,
            "PYTHONFAULTHANDLER": "1"}


def mpirun(n: int, program: str | Path | Sequence[str], *, timeout: float = 60, env: Mapping[str, str] | None = None,
           extra: Sequence[str] = (), cwd: Path | None = None) -> Done:
    """Run a program on n ranks and wait for its end.

    Args:
        n: how many ranks.
        program: a script's path, or source code (a str with more than one line), or the arguments of python.
        timeout: seconds; then all of its processes are killed and TimedOut is raised.
        env: added to `environment()`.
        extra: options of mpirun, such as ("--with-ft", "ulfm").
        cwd: where it runs.

    >>> mpirun(2, ["-c", "print('hello')"]).out.split()
    ['hello', 'hello']
    """
    if isinstance(program, str) and "\n" in program:
        arguments = ["-c", program]
    elif isinstance(program, (str, Path)):
        arguments = [str(program)]
    else:
        arguments = list(program)
    return start([launcher(), *extra, "-n", str(n), sys.executable, *arguments], timeout=timeout,
                 env={**environment(), **(env or {})}, cwd=cwd)


def told(n: int, program: Path, options: object, *, timeout: float) -> list[Any]:
    """Run a script that takes its options as JSON; it must end well, and each line that it prints be JSON: return those."""
    done = mpirun(n, [str(program), json.dumps(options)], timeout=timeout)
    assert done.code == 0, done
    return [json.loads(line) for line in done.out.splitlines()]


def start(command: Sequence[str], *, timeout: float, env: Mapping[str, str], cwd: Path | None = None) -> Done:
    """Run any command in a session of its own and wait for its end; see `mpirun`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(env), cwd=cwd,
                                   start_new_session=True)

        def done() -> Done:
            code = process.returncode
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            return Done(128 - code if code < 0 else code, texts[0], texts[1])

        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise TimedOut(f"{' '.join(command)}\nran longer than {timeout} s; {done()}") from None
        except BaseException:
            _kill(process)
            raise
        return done()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Let the ranks write their stacks (SIGABRT and faulthandler), then kill everything the process started."""
    mine = family(process.pid)
    for pid in mine:
        if "python" in _program(pid):
            _send(pid, signal.SIGABRT)
    time.sleep(0.5)
    for pid in {*mine, *family(process.pid)}:
        _send(pid, signal.SIGKILL)
    process.wait()


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (FileNotFoundError, ProcessLookupError):  # it has ended by itself
        return ""


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended by itself
        return


def family(pid: int) -> list[int]:
    """Return `pid`, its descendants and everything else in its session (mpirun's daemons leave their parents)."""
    parents: dict[int, int] = {}
    found = {pid}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()
        parents[int(entry.name)] = int(fields[1])
        if int(fields[3]) == pid:
            found.add(int(entry.name))
    more = True
    while more:
        children = {child for child, parent in parents.items() if parent in found}
        more = not children <= found
        found |= children
    return sorted(found)
