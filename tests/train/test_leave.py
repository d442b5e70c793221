"""SIGUSR2 near a job's time limit: a checkpoint of that moment, exit code 75, and the next life goes on from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.errors import TRY_AGAIN
from tests.mpirun import environment, family, launcher

FILE = """
epochs = 400
batch = 8
staleness = {staleness}
[data]
source = "linear"
[model]
name = "linear"
task = "regression"
[optimizer]
name = "sgd"
lr = 0.001
[checkpoint]
directory = "ckpt"
"""


@pytest.mark.parametrize("staleness", ["0", "2"])
def test_a_job_that_is_told_saves_and_goes_on_in_its_next_life(tmp_path: Path, staleness: str) -> None:
    (tmp_path / "job.toml").write_text(FILE.format(staleness=staleness))
    command = [launcher(), "-n", "3", sys.executable, "-m", "mpips", "train", "job.toml", "--resume", "auto"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        log, end = tmp_path / "ckpt" / "log" / "metrics.jsonl", time.monotonic() + 60
        while time.monotonic() < end and not (log.exists() and log.read_text().count("\n") > 2):
            time.sleep(0.05)
        ranks = [pid for pid in family(process.pid)
                 if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode() + b"\0-m\0mpips")]
        assert len(ranks) == 3
        for pid in ranks:
            os.kill(pid, signal.SIGUSR2)
        out, err = process.communicate(timeout=60)
    assert process.returncode == TRY_AGAIN, (process.returncode, out, err)
    assert err.count("told to leave (SIGUSR2): a checkpoint is complete") == 1, err
    assert "Traceback" not in err
    saved = max(json.loads(p.read_text())["clock"] for p in (tmp_path / "ckpt").glob("step-*/manifest.json"))
    assert saved > 0
    again = subprocess.run([*command[:-2], "--resume", "latest", "--set", "epochs=1"], cwd=tmp_path, env=environment(),
                           capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again
