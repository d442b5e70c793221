"""One rank fails, anywhere: the job is over within seconds, says why once, and its exit code is not 0."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mpips.errors import FAILED, TRY_AGAIN, USAGE
from mpips.server import cuts
from tests.mpirun import Done, mpirun

JOB = Path(__file__).parent / "failing_job.py"


def job(**how: Any) -> tuple[Done, float]:
    """Run it on 4 ranks; return how it ended and the seconds from the failure to the end."""
    done = mpirun(4, [str(JOB), json.dumps(how)], timeout=60)
    marks = [json.loads(line)["at"] for line in done.out.splitlines() if line.startswith('{"what"')]
    return done, time.time() - min(marks, default=0.0)


@pytest.mark.parametrize("nodes", ["real", "single"])
@pytest.mark.parametrize("where", ["before", "worker", "server", "reader", "after"])
def test_a_rank_that_raises_ends_the_job_with_its_traceback_once(where: str, nodes: str) -> None:
    done, seconds = job(where=where, nodes=nodes)
    assert done.code not in (0, USAGE), done
    assert done.err.count("Deliberate: " + where) == 1 + (where != "before"), done  # inside run in the first line, too
    assert done.err.count("Traceback (most recent call last)") == 1, done
    assert seconds < 5, done


@pytest.mark.parametrize(("where", "says"), [
    ("shape", "table 'w': a push takes an array of shape (10,) and dtype float32, not (3,) of float32"),
    ("dtype", "table 'w': a push takes an array of shape (10,) and dtype float32, not (10,) of float64"),
    ("unknown", "unknown table 'v'; the tables are: w"),
    ("nan", "table 'w': the gradient pushed by worker 1 in clock 5 has NaN or Inf"),
    ("result", "result of worker"),
    ("nested", "run: called inside the run in which this rank is worker 1, clock 5; call it after that one has returned (worker 1, "
               "clock 5, rank 2, failing_job.py line "),
    ("differs", "; table 'w' shape: [10] on ranks 0-1, 3 and [11] on rank 2"),
])
def test_wrong_input_is_one_line_and_exit_code_2(where: str, says: str) -> None:
    done, seconds = job(where=where)
    assert done.code == USAGE, done
    lines = [line for line in done.err.splitlines() if line.startswith("mpips: error:")]
    assert len(lines) == 1, done
    assert says in lines[0]
    assert "Traceback" not in done.err, done
    assert where == "differs" or seconds < 5, done


def test_servers_that_differ_in_what_is_saved_are_told_before_anything_starts(tmp_path: Path) -> None:
    """Those that write one at the end would wait for a shard that the others do not write."""
    done = mpirun(3, f"""
import os
import mpips
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
mpips.run(lambda ps: ps.clock(), [mpips.Dense("w", (3,), mpips.optim.Add())], servers=2, timeout=5.0, device="cpu",
          checkpoint=mpips.Checkpoints({str(tmp_path)!r}, at_end=rank == 0))
""", timeout=60)
    assert done.code == USAGE, done
    assert "the ranks differ in checkpoint: " in done.err, done


def test_a_wait_over_its_limit_says_who_waits_for_whom() -> None:
    done, _ = job(where="sleep", timeout=2.0)
    assert done.code == TRY_AGAIN, done
    assert "waited 2 s for worker 0, clock 6: a pull of table 'w': worker 1 is at clock 5" in done.err, done


def test_sys_exit_inside_a_worker_ends_the_job_with_its_code() -> None:
    done, seconds = job(where="exit")
    assert done.code == 7, done
    assert seconds < 5, done


def test_too_few_ranks_is_said_before_anything_starts() -> None:
    done, _ = job(where="nowhere", servers=3)
    assert done.code == USAGE, done
    assert "4 ranks" in done.err, done
    assert done.code != FAILED


def test_skip_counts_what_it_leaves_out() -> None:
    done, _ = job(where="nan", nonfinite="skip")
    assert done.code == 0, done


STOPPED = """
import os, signal
import numpy as np
import mpips
from mpips.cluster import together

together.LEAST = together.FILL = 2.0
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])

def stops(f):
    return lambda *given, **named: (os.kill(os.getpid(), signal.SIGSTOP), f(*given, **named))[1]

where = {where!r}
if rank == {rank}:
    owner = {{"Rma": together, "server": together.Job, "close": together.Rma, "step": together.Server}}[where]
    setattr(owner, where, stops(getattr(owner, where)))
SIZE = {size}

def work(ps):
    if SIZE > 1:
        ps.push("w", np.ones(SIZE, np.float32))
    if where == "step":
        ps.clock()
    ps.pull("w")

mpips.run(work, [mpips.Dense("w", (SIZE,), mpips.optim.Add())], device="cpu", timeout=2.0, nodes={nodes!r})
"""


@pytest.mark.parametrize(("where", "rank", "nodes", "says", "size"), [
    ("Rma", 1, "real", "for the other ranks, to make the windows", 1),
    ("server", 0, "real", "", 1),  # the servers fill their windows: rank 0, which knows who is missing, may be the one
    ("step", 0, "single", "for server 0, which neither takes nor gives data", 1),  # a flush to it would wait for ever
    ("step", 0, "single", "for server 0, which neither takes nor gives data", 20_000_000),  # and so would some Puts of Open MPI
    ("step", 0, "real", "clock 1: a pull of table 'w': every worker has come so far, but server 0 has not folded yet", 1),
    ("close", 2, "real", "for the other ranks, to give the windows back", 1),
])
def test_nobody_waits_in_silence_for_a_rank_that_stands_still(where: str, rank: int, nodes: str, says: str, size: int) -> None:
    """On a disk that hangs, or in a stopped container."""
    done = mpirun(3, STOPPED.format(where=where, rank=rank, nodes=nodes, size=size), timeout=60)
    assert done.code == TRY_AGAIN, done
    assert "waited 2 s" in done.err, done
    assert says in done.err, done


LATE = """
import time
import numpy as np
import mpips
import mpips.cluster.together as together

together.PATIENCE = {patience}

def work(ps):
    ps.push("w", np.ones(3, np.float32))
    ps.clock()
    if ps.index == {worker}:
        time.sleep({seconds})
    return ps.index

def read(ps):
    while not ps.done:
        pass
    if {worker} < 0:
        time.sleep({seconds})

results = mpips.run(work, [mpips.Dense("w", (3,), mpips.optim.Add())], readers=1, read=read, timeout=2.0)
assert results in (None, [0, 1]), results
"""


@pytest.mark.parametrize("worker", [-1, 0, 1])
def test_who_has_ended_has_patience_with_who_still_works(worker: int) -> None:
    """A last evaluation, or what a worker makes of its results: a training that is over must not be done again for that."""
    done = mpirun(4, LATE.format(patience=12, worker=worker, seconds=5), timeout=60)
    assert done.code == 0, done


@pytest.mark.parametrize(("worker", "says"), [(-1, "reader 0"), (1, "worker 1")])
def test_but_not_for_ever(worker: int, says: str) -> None:
    done = mpirun(4, LATE.format(patience=2, worker=worker, seconds=600), timeout=60)
    assert done.code == TRY_AGAIN, done
    assert f"still at work: {says}" in done.err, done


SLOW = """
import time
import numpy as np
import mpips
import mpips.checkpoint.saver as saver
import mpips.server.cuts as cuts

cuts.PATIENCE = {patience}
part = saver.{part}

def slowly(*given, **named):
    for _ in range({steps}):
        time.sleep({nap})
        yield
    yield from part(*given, **named)

saver.{part} = slowly

def work(ps):
    for _ in range(2):
        ps.pull("w")
        ps.push("w", np.ones(3, np.float32))
        ps.clock()
    return ps.pull("w")[0]

saves = mpips.Checkpoints({directory!r}, every={every})
results = mpips.run(work, [mpips.Dense("w", (3,), mpips.optim.Add(), staleness={staleness})], timeout=2.0, checkpoint=saves,
                    device="cpu", nodes={nodes!r})
assert results in (None, [2.0]), results
"""


@pytest.mark.parametrize(("part", "every", "staleness", "nodes"), [
    ("write_shard", 1, 0, "real"), ("write_shard", None, 0, "single"), ("write_shard", 1, None, "real"),
    ("publish", None, 0, "real")])
def test_a_checkpoint_may_take_longer_than_the_limit_while_it_grows(tmp_path: Path, part: str, every: int | None,
                                                                    staleness: int | None, nodes: str) -> None:
    """Ended at the limit, a job would be started again and never get beyond the same checkpoint."""
    done = mpirun(2, SLOW.format(part=part, steps=35, nap=0.1, directory=str(tmp_path), every=every, staleness=staleness,
                                 nodes=nodes, patience=cuts.PATIENCE), timeout=60)
    assert done.code == 0, done


@pytest.mark.parametrize(("every", "nap", "says"), [
    (1, "_ * 600", "clock 2: a pull of table 'w': server 0 is writing a checkpoint"),
    (1, "0.1", "clock 2: a pull of table 'w': server 0 is writing a checkpoint"),  # an fsync: the server looks on and on
    (None, "_ * 600", "for the end of all ranks: still at work: server 0, which is writing a checkpoint")])
def test_a_disk_that_hangs_is_what_the_others_name(tmp_path: Path, every: int | None, nap: str, says: str) -> None:
    done = mpirun(2, SLOW.format(part="write_shard", steps=6000, nap=nap, directory=str(tmp_path), every=every, staleness=0,
                                 nodes="real", patience=1.0), timeout=60)
    assert done.code == TRY_AGAIN, done
    assert "waited 2 s" in done.err, done
    assert says in done.err, done
