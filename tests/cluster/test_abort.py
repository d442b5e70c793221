from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpips.cluster.abort import Deadline, exit_code, message, note, where
from mpips.errors import CheckpointError, MpipsError, UsageError, WaitTimeout
from tests.mpirun import Done, environment, launcher, mpirun, vendor

# Rank 1 of 3 fails in `boom`, the others poll for ever.
JOB = """
import os, sys, threading, time
from mpi4py import MPI
from mpips.cluster import abort
from mpips.errors import MpipsError, UsageError, WaitTimeout

comm = MPI.COMM_WORLD

def boom():
    {boom}

def work():
    print(f"rank {{comm.rank}} works")
    if comm.rank == 1:
        boom()
    while True:
        comm.Iprobe()
        time.sleep(1e-3)

with abort.installed(comm):
    abort.describe(lambda: f"worker {{comm.rank - 1}}, clock 7")
    work()
"""


def run(tmp_path: Path, boom: str, job: str = JOB, n: int = 3) -> Done:
    script = tmp_path / "demo.py"
    script.write_text(job.format(boom=boom))
    return mpirun(n, script, timeout=30)


def test_an_exception_ends_the_job_with_its_traceback_once(tmp_path: Path) -> None:
    done = run(tmp_path, "1 / 0")
    assert done.code == 1, done
    assert done.err.count("Traceback (most recent call last)") == 1, done
    assert done.err.count("\nZeroDivisionError: division by zero") == 1, done
    assert done.err.count("mpips: worker 0, clock 7, rank 1 of 3 on ") == 1, done
    assert "the job ends with exit code 1: ZeroDivisionError: division by zero\n" in done.err
    # The outer frames are there too, from the script's first line on, and what was printed before is not lost.
    for frame in ("in <module>", "in work", "in boom"):
        assert done.err.count(frame) == 1, done
    assert done.out.count("rank 1 works") == 1, done


def test_wrong_usage_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "raise UsageError('table x: no\\nsuch table')")
    assert done.code == 2, done
    line = "mpips: error: table x: no such table (worker 0, clock 7, rank 1, demo.py line 10)\n"
    assert done.err.count(line) == 1, done
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("boom", "code", "line"), [
    ("raise WaitTimeout('waited')", 75, "the job ends with exit code 75: mpips.errors.WaitTimeout: waited\n"),
    ("sys.exit(3)", 3, "mpips: sys.exit(3) inside run, while other ranks work (worker 0, clock 7, rank 1 of 3 on "),
    ("sys.exit()", 1, "mpips: sys.exit(None) inside run, while other ranks work (worker 0, clock 7, rank 1 of 3 on "),
    ("sys.exit('no data')", 1, "mpips: sys.exit('no data') inside run"),
    ("raise KeyboardInterrupt", 130, "mpips: interrupted (worker 0, clock 7, rank 1 of 3 on "),
    ("threading.Thread(target=lambda: 1 / 0, name='saver').start()", 1, " failed in thread saver; the job ends with"),
])
def test_every_way_out_ends_the_job(tmp_path: Path, boom: str, code: int, line: str) -> None:
    done = run(tmp_path, boom)
    assert done.code == code, done
    assert done.err.count(line) == 1, done
    assert done.err.count("Traceback") == (code == 75 or "thread" in line), done


AFTER = """
import sys, time
from mpi4py import MPI
from mpips.cluster import abort
with abort.installed(MPI.COMM_WORLD):
    pass
if MPI.COMM_WORLD.rank == 1:
    {boom}
while True:
    MPI.COMM_WORLD.Iprobe()
    time.sleep(1e-3)
"""


def test_an_uncaught_exception_after_the_run_ends_the_job_too(tmp_path: Path) -> None:
    done = run(tmp_path, "raise ValueError('later')", AFTER)
    assert done.code == 1, done
    assert done.err.count("mpips: rank 1 of 3 on ") == 1, done
    assert done.err.count("ValueError: later") == 2, done


ALIKE = """
import sys
from mpi4py import MPI
from mpips.cluster import abort
from mpips.errors import UsageError
comm = MPI.COMM_WORLD
with abort.installed(comm):
    problem = UsageError("readers=9 leave no worker") if {boom} else None
    abort.settle(comm, problem)
"""


@pytest.mark.parametrize(("who", "line"), [
    ("True", "mpips: error: readers=9 leave no worker (rank 0, demo.py line 9)\n"),
    ("comm.rank > 0", "mpips: error: readers=9 leave no worker (on rank 1) (rank 0, demo.py line 9)\n"),
])
def test_an_error_that_all_ranks_raise_is_printed_once(tmp_path: Path, who: str, line: str) -> None:
    done = run(tmp_path, who, ALIKE)
    assert done.code == 2, done
    assert done.err.count("mpips: error:") == 1, done
    assert line in done.err, done


CAUGHT = """
from mpi4py import MPI
from mpips.cluster import abort
from mpips.errors import UsageError
comm = MPI.COMM_WORLD
for k in range(2):
    try:
        with abort.installed(comm):
            abort.settle(comm, UsageError("mine") if {boom} else None)
    except UsageError as error:
        print(error)
    comm.Barrier()
"""


def test_an_error_that_all_ranks_raise_may_be_caught(tmp_path: Path) -> None:
    done = run(tmp_path, "comm.rank == 2", CAUGHT)
    assert done.code == 0, done
    assert sorted(done.out.splitlines()) == sorted(["mine"] * 2 + ["mine (on rank 2)"] * 4), done


ALONE = """
from mpi4py import MPI
from mpips.cluster import abort
from mpips.errors import UsageError
try:
    with abort.installed(MPI.COMM_WORLD):
        abort.settle(MPI.COMM_WORLD, UsageError("caught"))
except UsageError as error:
    print(error)
raise {boom}
"""


@pytest.mark.parametrize(("boom", "code", "err"), [
    ("UsageError('table x')", 2, "mpips: error: table x (rank 0, demo.py line 10)\n"),
    ("SystemExit(5)", 5, ""),
])
def test_a_world_of_one_goes_pythons_way(tmp_path: Path, boom: str, code: int, err: str) -> None:
    script = tmp_path / "demo.py"
    script.write_text(ALONE.format(boom=boom))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False,
                          env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (code, "caught\n", err)


FORK = """
import os, time
from mpi4py import MPI
from mpips.cluster import abort
comm = MPI.COMM_WORLD
abort.install(comm)
if comm.rank == 1:
    child = os.fork()
    if child == 0:
        {boom}
    os.waitpid(child, 0)
comm.Barrier()
print("whole")
"""


def test_a_forked_child_does_not_end_the_job(tmp_path: Path) -> None:
    # The child must not run MPI's own end of the process either.
    done = run(tmp_path, "import sys, threading; sys.excepthook(OSError, OSError('child'), None); os._exit(1)", FORK)
    assert done.code == 0, done
    assert done.out.split() == ["whole"] * 3
    assert "OSError: child" in done.err


def test_a_crash_leaves_its_stack(tmp_path: Path) -> None:
    script = tmp_path / "demo.py"
    script.write_text(JOB.format(boom="os.kill(os.getpid(), 11)"))
    env = {k: v for k, v in environment().items() if k != "PYTHONFAULTHANDLER"}
    done = subprocess.run([launcher(), "-n", "3", sys.executable, str(script)], env=env, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode != 0
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert 'demo.py", line 10 in boom' in done.stderr


def test_sigterm_ends_a_rank_and_so_the_job(tmp_path: Path) -> None:
    done = run(tmp_path, "os.kill(os.getpid(), 15)")
    assert done.code == {"Open MPI": 128 + signal.SIGTERM, "MPICH": signal.SIGTERM}[vendor()], done


def test_the_others_end_within_seconds(tmp_path: Path) -> None:
    job = JOB.replace("        boom()\n", "        open('failed', 'w').write(str(time.time()))\n        boom()\n")
    (tmp_path / "demo.py").write_text(job.format(boom="1 / 0"))
    done = mpirun(4, tmp_path / "demo.py", timeout=30, cwd=tmp_path)
    assert done.code == 1, done
    # The bound is of the promise, not of the machine: a hang would be found by the time-out above.
    assert time.time() - float((tmp_path / "failed").read_text()) < 20


def test_the_same_mistake_in_all_workers_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text("""
import mpips

def work(ps):
    ps.barrier()
    1 / 0

mpips.run(work, [])
""")
    begin = time.monotonic()
    done = mpirun(5, tmp_path / "demo.py", timeout=60)
    assert done.code == 1, done
    assert done.err.count("Traceback") == 1, done
    assert done.err.count("ZeroDivisionError: division by zero") == 2, done  # in the line and under the traceback
    assert time.monotonic() - begin < 20, done


def test_a_rank_that_has_too_many_files_open_says_so(tmp_path: Path) -> None:
    """It cannot find out whether another one has failed before: that takes a socket."""
    done = run(tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
                         "[os.dup(2) for _ in iter(int, 1)]")
    assert done.code == 1, done
    assert "mpips: worker 0, clock 7, rank 1 of 3 on " in done.err, done
    assert "Too many open files" in done.err, done


def late(done: Done) -> bool:
    """Whether the job has ended with the code of ranks that waited too long.

    MPICH's launcher sometimes gives that of a rank that it has killed for it (measured: 2 of 12 runs on a busy machine).
    """
    return done.code == 1 or (vendor(), done.code) == ("MPICH", signal.SIGKILL)


def test_a_rank_that_never_comes_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """The others wait in MPI_Init, where no Python runs."""
    (tmp_path / "demo.py").write_text("""
import os
import mpips
from mpips.cluster import mpi

mpi.COME = 3.0
if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) != "2":
    mpips.run(lambda ps: None, [])
""")
    done = mpirun(3, tmp_path / "demo.py", timeout=30)
    assert late(done), done
    assert "Timeout (0:00:03)!" in done.err, done
    assert "mpi.py" in done.err, done


def test_a_rank_that_never_ends_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """After a training every rank ends: the others wait in MPI_Finalize."""
    (tmp_path / "demo.py").write_text("""
import os, sys, time
from mpips.cli import main
from mpips.cluster import mpi

mpi.LEAVE = 3.0
if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "2":
    mpi.end = lambda: time.sleep(100)
main(["train", "digits.toml"])
""")
    (tmp_path / "digits.toml").write_text('data = "digits"\nmodel = {name = "linear"}\noptimizer = {name = "sgd", lr = 0.1}\n'
                                          "servers = 1\nepochs = 1\n")
    done = mpirun(3, tmp_path / "demo.py", timeout=60, cwd=tmp_path)
    assert late(done), done
    assert "done: " in done.out, done
    assert "Timeout (0:00:03)!" in done.err, done
    assert "in end" in done.err, done


def test_a_limit_may_be_infinite() -> None:
    with Deadline() as deadline:
        deadline("the other ranks", math.inf)
        assert deadline._timer is not None
        deadline._timer.join(0.3)
        assert deadline._timer.is_alive()


def test_a_limit_of_the_users_own_stays(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text("""
import faulthandler, time
import mpips

faulthandler.dump_traceback_later(4.0, exit=True)
print(mpips.run(lambda ps: ps.workers, []), flush=True)
time.sleep(60)
""")
    done = subprocess.run([sys.executable, str(tmp_path / "demo.py")], capture_output=True, text=True, timeout=40, check=False,
                          env=environment())
    assert (done.returncode, done.stdout) == (1, "[1]\n"), done
    assert "Timeout (0:00:04)!" in done.stderr, done


def test_the_exit_code_is_written_down_for_launchers_that_lose_it(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(JOB.format(boom="raise WaitTimeout('waited')"))
    done = mpirun(3, tmp_path / "demo.py", env={"MPIPS_EXIT_FILE": str(tmp_path / "code")})
    assert (done.code, (tmp_path / "code").read_text()) == (75, "75\n"), done


def test_a_place_that_cannot_be_written_does_not_change_how_the_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MPIPS_EXIT_FILE", str(tmp_path / "gone" / "code"))
    note(2)
    assert capsys.readouterr().err == f"mpips: MPIPS_EXIT_FILE {tmp_path}/gone/code: No such file or directory\n"


def test_exit_codes() -> None:
    errors = (ValueError(), UsageError(), CheckpointError(), MpipsError(), WaitTimeout())
    assert [exit_code(error) for error in errors] == [1, 2, 2, 1, 75]
    codes = [exit_code(SystemExit(c)) for c in (None, 0, 1, 75, 255, 256, -1, "text")]
    assert codes == [1, 1, 1, 75, 255, 1, 1, 1]
    assert exit_code(KeyboardInterrupt()) == 130


def test_the_message_names_the_users_file_not_ours() -> None:
    try:
        from mpips.cluster.roles import assign

        assign([0], 1)
    except UsageError as caught:
        error = caught
    assert where(error.__traceback__).startswith("test_abort.py line ")
    line = "mpips: error: 1 ranks: servers=1 and readers=0 leave no worker (rank 3)\n"
    assert message(error, None, who="", rank=3, size=4) == line
    assert os.uname().nodename in message(KeyError("k"), None, who="server 0", rank=0, size=2)
