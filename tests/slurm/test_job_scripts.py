"""The job scripts of slurm/ on a real Slurm: they train, start again after a death or near the limit, and give up."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

TEXT = """
data = "digits"
model = {name = "mlp", hidden = [32]}
optimizer = {name = "adam", lr = 0.001}
servers = 2
epochs = EPOCHS
batch = 32
log_every = 100

[checkpoint]
directory = "saved"
every = 20
keep_last = 2
"""


def config(cluster: Any, epochs: int) -> str:
    (cluster.folder / "train.toml").write_text(TEXT.replace("EPOCHS", str(epochs)))
    return "train.toml"


def train(cluster: Any, scripts: Path, *arguments: str, **variables: str) -> Any:
    size = ("--nodes=2", "--ntasks-per-node=2", "--time=10")
    return cluster.sbatch(*size, str(scripts / "train.sbatch"), *arguments, PYTHON=sys.executable, **variables)


def saved(cluster: Any) -> list[Path]:
    return sorted((cluster.folder / "saved").glob("step-*/manifest*"))


def wait_for(what: Any, job: Any, limit: float = 90) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end, job
        time.sleep(0.05)


def kill_a_worker(cluster: Any, job: Any) -> None:
    """Kill rank 3, which is a worker, once there is a checkpoint to start again from."""
    wait_for(lambda: saved(cluster), job)
    os.kill(job.pids()[3], signal.SIGKILL)


def test_it_trains_over_two_nodes(cluster: Any, scripts: Path) -> None:
    job = train(cluster, scripts, config(cluster, 2))
    assert job.wait() == "COMPLETED 0", job
    text = str(job)
    assert re.search(r"^mpips: start 1 of job \d+ on n\[1-2\], srun --mpi=pmi", text, re.M), job
    assert "2 servers, 2 workers, 0 readers" in text
    assert text.count("\ndone: 46 steps") == 1, job
    assert saved(cluster)
    assert not list(cluster.folder.glob("*.exit"))


def test_a_killed_worker_costs_a_restart_from_the_last_checkpoint(cluster: Any, scripts: Path) -> None:
    job = train(cluster, scripts, config(cluster, 12))
    kill_a_worker(cluster, job)
    wait_for(lambda: "start 2 of job" in str(job), job)
    assert job.wait() == "COMPLETED 0", job
    text = str(job)
    assert job.field("Restarts") == "1", job
    assert "mpips: back to the queue, restart 1 of at most 10" in text
    done = re.search(r"^done: (\d+) steps", text, re.M)
    assert done, job
    assert 0 < int(done[1]) < 12 * 23, job  # the second life did not begin at zero


def test_restarts_are_bounded(cluster: Any, scripts: Path) -> None:
    job = train(cluster, scripts, config(cluster, 200), MPIPS_RESTARTS="0")
    kill_a_worker(cluster, job)
    state, code = job.wait().split()
    assert state == "FAILED", job
    assert code not in ("0", "1", "2"), job
    assert "back to the queue" not in str(job)


def test_near_the_time_limit_it_goes_back_to_the_queue(cluster: Any, scripts: Path) -> None:
    job = train(cluster, scripts, config(cluster, 12))
    wait_for(lambda: saved(cluster), job)
    cluster.run(["scancel", "--batch", "--signal=USR1", str(job.number)])  # what --signal=B:USR1@120 does
    wait_for(lambda: "start 2 of job" in str(job), job)
    assert job.wait() == "COMPLETED 0", job
    assert "(time limit near: yes)" in str(job)
    assert job.field("Restarts") == "1", job


def test_told_before_any_rank_has_started_it_goes_back_to_the_queue_too(cluster: Any, scripts: Path) -> None:
    slow = cluster.folder / "slow"
    slow.write_text(f'#!/bin/sh\ntouch "{cluster.folder}/begun"\n[ "$3" != plan ] || sleep 4\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    job = cluster.sbatch("--nodes=2", "--ntasks-per-node=2", "--time=10", str(scripts / "train.sbatch"), config(cluster, 2),
                         PYTHON=str(slow))
    wait_for((cluster.folder / "begun").exists, job)
    cluster.run(["scancel", "--batch", "--signal=USR1", str(job.number)])
    wait_for(lambda: "start 2 of job" in str(job), job)
    assert job.wait() == "COMPLETED 0", job


@pytest.mark.parametrize(("arguments", "line"), [
    (("--set", "color=red"), "color: unknown key"),
    (("--set", "servers=4"), "4 ranks: servers=4 and readers=0 leave no worker"),
])
def test_what_is_wrong_in_the_file_is_not_tried_twice(cluster: Any, scripts: Path, arguments: tuple[str, ...],
                                                      line: str) -> None:
    job = train(cluster, scripts, config(cluster, 2), *arguments)
    assert job.wait() == "FAILED 2", job
    assert line in str(job)
    assert job.field("Restarts") == "0", job


def test_servers_and_workers_on_different_kinds_of_nodes(cluster: Any, scripts: Path) -> None:
    job = cluster.sbatch(str(scripts / "hetero.sbatch"), config(cluster, 12), PYTHON=sys.executable)
    wait_for(lambda: saved(cluster), job)
    pids = job.pids()
    device = [b"CUDA_VISIBLE_DEVICES=0" in Path(f"/proc/{pids[r]}/environ").read_bytes() for r in range(6)]
    os.kill(pids[0], signal.SIGKILL)  # a server
    assert job.wait() == "COMPLETED 0", job
    text = str(job)
    assert "servers on n[1-2], workers on n[3-4]" in text
    assert "4 servers, 2 workers, 0 readers" in text
    assert device == [False] * 4 + [True] * 2, job
    assert re.search(r"^mpips: start 1 of at most 11 ended with exit code (75|137|143|9|14) ", text, re.M), job
    assert re.search(r"^mpips: start 2 of at most 11 ended with exit code 0 ", text, re.M), job
