"""A real Slurm for the tests of this folder; they are skipped, with the reason, where it cannot start."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mpirun import ROOT, Done, environment, start

UP = Path(__file__).with_name("slurm-up")
STATE = Path(f"/tmp/mpips-slurm.{os.getuid()}")  # short: a socket's path has at most 107 characters
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


@dataclass(frozen=True)
class Job:
    """A job of the cluster."""

    cluster: Cluster
    number: int
    log: Path

    def field(self, name: str) -> str:
        """Return what Slurm says about the job, such as "JobState" or "Restarts"."""
        said = self.cluster.run(["scontrol", "show", "job", "--oneliner", str(self.number)]).out.split("\n")[0]
        return next(word.partition("=")[2] for word in said.split() if word.startswith(f"{name}="))

    def wait(self, limit: float = 150) -> str:
        """Return the state in which the job has ended, and its exit code, as "FAILED 2"."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            state = self.field("JobState")
            if state in ENDED:
                return f"{state} {self.field('ExitCode').split(':')[0]}"
            time.sleep(0.5)
        raise AssertionError(f"job {self.number} is {self.field('JobState')} after {limit} s: {self}")

    def pids(self) -> dict[int, int]:
        """Return the processes of the training by rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                values = dict(word.partition(b"=")[::2] for word in (entry / "environ").read_bytes().split(b"\0"))
            except OSError:  # it has ended
                continue
            here = values.get(b"SLURM_JOB_ID") == str(self.number).encode()
            if here and command[1:4] == [b"-m", b"mpips", b"train"]:
                found[int(values.get(b"SLURM_PROCID", b"0"))] = int(entry.name)
        return found

    def __str__(self) -> str:
        return self.log.read_text() if self.log.exists() else "(no log)"


class Cluster:
    """The cluster, and a folder for its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**environment(), "SLURM_CONF": str(STATE / "slurm.conf")}

    def run(self, command: Sequence[str], timeout: float = 60) -> Done:
        """Run a command that finds this cluster, such as srun."""
        return start(command, timeout=timeout, env=self.environment, cwd=self.folder)

    def sbatch(self, *arguments: str, **variables: str) -> Job:
        """Submit a job."""
        done = start(["sbatch", "--parsable", f"--output={self.folder}/job-%j.log", *arguments], timeout=30,
                     env={**self.environment, **variables}, cwd=self.folder)
        assert done.code == 0, done
        number = int(done.out)
        return Job(self, number, self.folder / f"job-{number}.log")


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """Start the cluster, and stop it at the end."""
    done = subprocess.run(["bash", str(UP), "up"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"no Slurm here: {done.stderr.strip()}")
    yield
    subprocess.run(["bash", str(UP), "down"], check=True, timeout=120)


@pytest.fixture
def cluster(slurm: None, tmp_path: Path) -> Iterator[Cluster]:
    """Give the cluster to one test; its jobs end with it."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.run(["scancel", "--quiet", "--user=root"])
    cluster.run(["bash", str(UP), "up"])  # a node that a test has lost comes back


@pytest.fixture
def scripts() -> Path:
    """Return the folder of the job scripts."""
    return ROOT / "slurm"
