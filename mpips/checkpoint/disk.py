"""How a file gets its name: temporary name, fsync, rename, fsync of the directory.

A process killed at any moment leaves a file of a temporary name, never half a file of a final one. The generators yield
while the disk works.

Two jobs with one directory, or the ranks of a node that was given up beside the job that began again, would write files of the same
names. So a job that begins leaves its token in `.owner`, and who finds another one there gives no file its name any more: the job
that began last goes on.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mpips.errors import MpipsError

POLL = 0.001  # seconds between two looks at a running fsync
IDLE = 3600.0  # seconds without a write after which a file of unknown owner is a leftover
OWNER = ".owner"
_TEMPORARY = re.compile(r".+\.tmp\.(?P<job>[\w-]+)\.(?P<restart>\d+)\.(?P<pid>\d+)")


@dataclass(frozen=True)
class Life:
    """One start of one job: its temporary files carry it, so that a later life knows them."""

    job: str = "local"
    restart: int = 0
    token: str = ""  # of this start alone, the same on all ranks; without one nobody is kept out

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Life:
        """Take Slurm's job id and restart count from `environment`; outside Slurm it is ("local", 0)."""
        job = re.sub(r"[^\w-]", "_", environment.get("SLURM_JOB_ID") or "local")
        count = environment.get("SLURM_RESTART_COUNT", "")
        return cls(job, int(count) if count.isdigit() else 0)

    def temporary(self, final: Path) -> Path:
        """Name under which this process writes `final`."""
        return final.with_name(f"{final.name}.tmp.{self.job}.{self.restart}.{os.getpid()}")

    def claim(self, directory: Path) -> None:
        """Take a directory of checkpoints over from whoever writes there."""
        if not self.token:
            return
        with replacing(directory / OWNER, self) as path:
            path.write_text(f"{self.token}\njob {self.job}, restart {self.restart}, on {socket.gethostname()}\n")
            path.replace(directory / OWNER)

    def check(self, directory: Path) -> None:
        """Raise MpipsError if another job has taken the directory over."""
        if not self.token:
            return
        try:
            token, _, who = (directory / OWNER).read_text().partition("\n")
        except FileNotFoundError:
            return  # somebody has tidied up
        if token != self.token:
            raise MpipsError(f"checkpoint directory {directory}: another job ({who.strip()}) has begun to write there since; this "
                             "one ends, or each would damage what the other writes")

    def outlived(self, path: Path) -> bool:
        """Whether `path` is certainly nobody's: of an earlier life of this job, or not written for `IDLE`."""
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and found["job"] == self.job:
            return int(found["restart"]) != self.restart or not _alive(int(found["pid"]))
        try:
            return time.time() - path.stat().st_mtime > IDLE
        except FileNotFoundError:
            return False  # another rank was faster


def is_temporary(name: str) -> bool:
    """Whether a file has a name of `Life.temporary`."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def replacing(final: Path, life: Life) -> Iterator[Path]:
    """Give the temporary name for `final`; whatever still has that name at the end is removed.

    Raises:
        MpipsError: for an error of the disk; it names the file and the machine.
    """
    path = life.temporary(final)
    try:
        yield path
    except (OSError, RuntimeError) as error:  # HDF5 cannot close what it could not write, which is a RuntimeError
        if final.name != OWNER:  # who takes a directory over removes what the one before has not finished
            life.check(final.parent.parent)
        first = error.__context__ if isinstance(error.__context__, OSError) else error
        number = getattr(first, "errno", None)
        what = os.strerror(number) if number else " ".join(str(first).split())
        raise MpipsError(f"checkpoint {final}: cannot be written on {socket.gethostname()}: {what}") from error
    finally:
        with suppress(OSError):  # of a disk that refuses this, too: the first error says more
            path.unlink(missing_ok=True)


def commit(temporary: Path, final: Path, life: Life) -> Iterator[None]:
    """Bring a closed file of a checkpoint to disk, then give it its name for good.

    The fsync runs in a thread, because it takes about half a second for 1 GiB and a server must not stand still.
    """
    fd = os.open(temporary, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(os.fsync, fd)
            while not wait([running], POLL).done:
                yield
            running.result()
    finally:
        os.close(fd)
    life.check(final.parent.parent)
    temporary.replace(final)
    sync_directory(final.parent)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and need not
            raise
    finally:
        os.close(fd)


def _alive(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
