"""How a job ends when one rank fails: the reason is printed once, then all ranks are ended.

An uncaught exception hangs both Open MPI and MPICH: the rank waits in MPI_Finalize for others that wait for it. So
inside `run` every exception ends the job at once, and afterwards every uncaught one does; only an error that is known
to be raised on all ranks alike can be caught and survived.

| ended by                   | printed                                       | exit code                          |
|----------------------------|-----------------------------------------------|------------------------------------|
| UsageError                 | one line                                      | 2                                  |
| StartAgain                 | one line                                      | 75                                 |
| another MpipsError         | who, where, and the traceback                 | its `exit_code`                    |
| any other exception        | the same                                      | 1                                  |
| sys.exit(n) inside `run`   | one line, with the place                      | n; 1 for n = 0 (others still work) |
| Ctrl-C                     | one line; nothing by Open MPI's mpirun, which | 130; 1 by Open MPI's mpirun        |
|                            | keeps it from the ranks and ends them         |                                    |
| a signal                   | what the launcher prints, and the stacks of a | the launcher's (143 or 15 for      |
|                            | crash (faulthandler)                          | SIGTERM)                           |

SIGTERM keeps its default action: a rank that is told to end ends, even inside MPI, where no Python handler runs.
"""

from __future__ import annotations

import array
import faulthandler
import fcntl
import os
import socket
import stat
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from mpips.cluster import early
from mpips.cluster.agree import LIMIT, alike, meet
from mpips.errors import FAILED, INTERRUPTED, MpipsError, StartAgain, UsageError, WaitTimeout

if TYPE_CHECKING:
    from mpi4py import MPI

PACKAGE = Path(__file__).resolve().parent.parent
WITH = contextmanager.__code__.co_filename  # stands between us and the user where a context manager of ours raises
DRAIN = 1.0  # seconds that a launcher has to read what was written before the job ends
REASON = 500  # characters of an exception in the first line: the traceback after it may be long
TEXT = 4096  # bytes of a message that is passed to all ranks


class Hook:
    """What happens to an exception that nobody catches, for a job on `comm`."""

    def __init__(self, comm: MPI.Comm, before: Any, before_thread: Any) -> None:
        self.comm = comm
        self.describe: Callable[[], str] = str
        self.before = before
        self.before_thread = before_thread
        self.pid = os.getpid()
        self.lock = threading.Lock()

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Be `sys.excepthook`."""
        if self.ours():
            self.end(error, trace)
        if os.getpid() == self.pid and isinstance(error, MpipsError) and not hasattr(sys, "ps1"):
            code = exit_code(error)
            say(message(error, trace, who=self.who(), rank=0, size=1, code=code))
            raise SystemExit(code)
        self.before(kind, error, trace)

    def thread(self, args: threading.ExceptHookArgs) -> None:
        """Be `threading.excepthook`."""
        if self.ours() and args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            self.end(args.exc_value, args.exc_traceback, args.thread.name if args.thread else "that has ended")
        self.before_thread(args)

    def ours(self) -> bool:
        """Whether there is a job to end: not in a forked child, not after MPI's end, not in a world of one."""
        from mpi4py import MPI

        return os.getpid() == self.pid and not MPI.Is_finalized() and self.comm.size > 1

    def end(self, error: BaseException, trace: TracebackType | None, thread: str = "") -> None:
        """Print why, once, and end all ranks. Does not return."""
        with self.lock:  # two threads may fail at once
            code = exit_code(error)
            try:
                if self.comm.rank if getattr(error, "alike", False) else not early.speaks_first():
                    time.sleep(early.FIRST_SPEAKS)  # in which the first, or rank 0 after an error that all raise, ends the job
                say(message(error, trace, who=self.who(), rank=self.comm.rank, size=self.comm.size, thread=thread,
                            code=code))
                note(code)
            finally:
                self.comm.Abort(code)
                os._exit(code)

    def who(self) -> str:
        """Role and step; a failure in here must not hide the one that is reported."""
        try:
            return self.describe()
        except Exception as error:  # noqa: BLE001
            return f"(describe: {error!r})"


def install(comm: MPI.Comm) -> Hook:
    """From now on an exception that nobody catches, in any thread, ends the job of `comm`. A second call replaces the first one."""
    before, before_thread = sys.excepthook, threading.excepthook
    if isinstance(before, Hook):
        before, before_thread = before.before, before.before_thread
    elif before is early.end_job:  # it would end the job for a forked child, too
        before = sys.__excepthook__
    hook = Hook(comm, before, before_thread)
    sys.excepthook = hook
    threading.excepthook = hook.thread
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # SIGBUS is how a full /dev/shm shows itself
    return hook


def describe(what: Callable[[], str]) -> None:
    """Change what the installed hook says about this rank's role and step, such as "worker 1, clock 7"."""
    if isinstance(sys.excepthook, Hook):
        sys.excepthook.describe = what


@contextmanager
def installed(comm: MPI.Comm) -> Iterator[None]:
    """`install`, and end the job on any exception that leaves the block, unless all ranks raise it (`settle`, `agree`).

    Catching such an exception could do no good: the other ranks wait for this one. In a world of one all of them go
    their way.
    """
    outer = sys.excepthook
    if isinstance(outer, Hook) and outer.describe is not str and outer.ours():  # it would meet nobody, as the servers are busy
        raise UsageError(f"run: called inside the run in which this rank is {outer.who()}; call it after that one has returned")
    hook = install(comm)
    try:
        yield
    except BaseException as error:
        if hook.ours() and not getattr(error, "alike", False):
            trace = error.__traceback__
            hook.end(error, trace.tb_next if trace else None)  # the first frame is this generator's
        raise
    finally:
        hook.describe = str


class Deadline:
    """Ends the job while this rank is in calls of MPI that wait for others and have no limit of their own.

    Calling it says what is waited for, and for how many seconds at most; `over` that it has come.

    >>> with Deadline() as deadline:                                                  # doctest: +SKIP
    ...     deadline("the other ranks", 300.0)
    ...     comm.Barrier()
    ...     deadline.over()
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._thread = threading.get_ident()

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, *_: object) -> None:
        self.over()

    def __call__(self, what: str, limit: float) -> None:
        """Begin to wait for something else."""
        self.over()
        self._timer = threading.Timer(min(limit, threading.TIMEOUT_MAX), self._late, (what, limit))
        self._timer.daemon = True
        self._timer.start()

    def over(self) -> None:
        """Nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()

    def _late(self, what: str, limit: float) -> None:
        frame = sys._current_frames().get(self._thread)
        _too_late(f"waited {limit:g} s{f' in {frame.f_code.co_name}()' if frame else ''} for {what}")


@contextmanager
def watched(late: Callable[[], str], every: float) -> Iterator[None]:
    """Ask `late()` each so many seconds, beside the block, and end the job with what it says, if anything."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            if text := late():
                _too_late(text)

    threading.Thread(target=look, name="mpips-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _too_late(text: str) -> None:
    """End the job from another thread than the one that waits."""
    hook = sys.excepthook
    if isinstance(hook, Hook) and hook.ours():
        hook.end(alike(WaitTimeout(text)), None)


def settle(comm: MPI.Comm, problem: UsageError | None, limit: float = LIMIT) -> None:
    """Raise on every rank if any rank has a problem: its text is the first such rank's. Collective."""
    if comm.size == 1:
        if problem is not None:
            raise problem
        return
    text = " ".join(str(problem or "").split()).encode()[:TEXT]
    length = np.array([len(text) + 1 if problem else 0], "<u4").view(np.uint8)
    lengths = meet(comm, length, limit).view("<u4").reshape(-1)
    if not lengths.any():
        return
    first = int(np.flatnonzero(lengths)[0])
    row = np.zeros(TEXT, np.uint8)
    row[: len(text)] = np.frombuffer(text, np.uint8)
    said = meet(comm, row, limit)[first, : int(lengths[first]) - 1].tobytes().decode(errors="replace")
    if problem is not None and comm.rank == first:
        raise alike(problem)
    everywhere = bool(lengths.all())
    raise alike(UsageError(said if everywhere else f"{said} (on rank {first})"))


def exit_code(error: BaseException) -> int:
    """Return the code that a job ends with for an exception."""
    if isinstance(error, MpipsError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit) and isinstance(error.code, int) and 0 < error.code < 256:
        return error.code
    return FAILED


def message(error: BaseException, trace: TracebackType | None, *, who: str, rank: int, size: int, thread: str = "",
            code: int = FAILED) -> str:
    """Return what is printed: one line for what the user did, else a line with the reason and the traceback, outer frames too."""
    who = f"{who}, " if who else ""
    place = where(trace)
    at = f", {place}" if place else ""
    if isinstance(error, StartAgain):
        return f"mpips: {error} ({who}rank {rank})\n"
    if isinstance(error, UsageError):
        return f"mpips: error: {' '.join(str(error).split())} ({who}rank {rank}{at})\n"
    on = f"{who}rank {rank} of {size} on {socket.gethostname()}"
    if isinstance(error, SystemExit):
        return f"mpips: sys.exit({error.code!r}) inside run, while other ranks work ({on}{at})\n"
    if isinstance(error, KeyboardInterrupt):
        return f"mpips: interrupted ({on}{at})\n"
    text = traceback.TracebackException(type(error), error, trace)
    if trace is not None and trace.tb_frame.f_back is not None and not thread:
        outer = traceback.extract_stack(trace.tb_frame.f_back)
        text.stack = traceback.StackSummary.from_list([*outer, *text.stack])
    inside = f" in thread {thread}" if thread else ""
    reason = " ".join("".join(text.format_exception_only()).split())[:REASON]
    return f"mpips: {on} failed{inside}; the job ends with exit code {code}: {reason}\n{''.join(text.format())}"


def where(trace: TracebackType | None) -> str:
    """Return "FILE line N" of the innermost frame outside this package, or "" if there is none."""
    if trace is None:
        return ""
    frames = list(traceback.walk_tb(trace))[::-1]
    if trace.tb_frame.f_back is not None:
        frames += traceback.walk_stack(trace.tb_frame.f_back)
    for name, line in ((frame.f_code.co_filename, line) for frame, line in frames):
        if not name.startswith("<frozen") and name != WITH and PACKAGE not in Path(name).resolve().parents:
            return f"{Path(name).name} line {line}"
    return ""


def say(text: str) -> None:
    """Write to stderr in one piece, after all that was printed before, and let the launcher read it."""
    for stream, what in ((sys.stdout, ""), (sys.stderr, text)):
        if stream is None:
            continue
        try:
            stream.write(what)
            stream.flush()
            _drain(stream.fileno())
        except (OSError, ValueError):  # closed, or nobody reads it: the job must end all the same
            continue


def note(code: int) -> None:
    """Write the exit code into the file that MPIPS_EXIT_FILE names, if any, for a launcher that loses it.

    `srun --mpi=pmi2` ends with 137 after every MPI_Abort; job scripts must know 2 (do not try again) from 75 (do).
    """
    name = os.environ.get("MPIPS_EXIT_FILE")
    if name:
        try:
            Path(name).write_text(f"{code}\n")
        except OSError as error:  # what has been said about the end is worth more
            say(f"mpips: MPIPS_EXIT_FILE {name}: {error.strerror}\n")


def _drain(fd: int) -> None:
    """Wait until nothing is left in a pipe: what a launcher has not read when the job ends may be lost."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    left = array.array("i", [0])
    end = time.perf_counter() + DRAIN
    while time.perf_counter() < end:
        fcntl.ioctl(fd, termios.FIONREAD, left)
        if not left[0]:
            return
        time.sleep(1e-3)
