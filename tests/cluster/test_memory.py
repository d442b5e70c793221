from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpips import Dense, optim
from mpips.cluster.memory import MARGIN, Need, cgroups, check, check_plan, free, mega, slot_bytes
from mpips.errors import UsageError
from mpips.optim import Fold
from mpips.transport.plan import make_plan
from tests.mpirun import Done, environment, mpirun, start, vendor

MB, GB = 10**6, 10**9


def machine(root: Path, *, available: int = 8 * GB, cgroup: str = "", files: dict[str, object] | None = None) -> Path:
    """Write the files that the kernel shows, in its own form, under `root`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  99999 kB\nMemAvailable:   {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "dev").mkdir()
    (root / "dev/shm").symlink_to("/dev/shm")
    for name, value in (files or {}).items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


V2 = "0::/system.slice/job\n"
V1 = "9:name=systemd:/x\n4:memory:/slurm/job_7\n3:cpu,cpuacct:/\n0::/\n"


def test_the_tightest_group_above_this_process_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup=V2, files={
        "memory.max": "max", "memory.current": 5 * GB,
        "system.slice/memory.max": 4 * GB, "system.slice/memory.current": 3 * GB,
        "system.slice/memory.stat": f"anon 1\ninactive_file {GB}\nactive_file 5",
        "system.slice/job/memory.max": 3 * GB, "system.slice/job/memory.current": 500 * MB,
    })
    found = free(root)
    assert (found.memory, found.limit) == (2 * GB, str(root / "sys/fs/cgroup/system.slice/memory.max"))


def test_version_1_and_no_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup=V1, files={
        "memory/memory.limit_in_bytes": 9223372036854771712, "memory/memory.usage_in_bytes": GB,
        "memory/slurm/job_7/memory.limit_in_bytes": GB, "memory/slurm/job_7/memory.usage_in_bytes": 900 * MB,
        "memory/slurm/job_7/memory.stat": f"cache 0\ntotal_inactive_file {200 * MB}\ninactive_file 7\n",
    })
    assert list(cgroups(root)) == [(300 * MB, str(root / "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes"))]


def test_in_a_container_the_own_group_is_mounted_at_the_top(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/docker/0a1b2c\n", files={"memory.max": GB, "memory.current": 2 * GB})
    assert free(root).memory == 0


def test_without_any_file_nothing_is_known_and_nothing_refused(tmp_path: Path) -> None:
    assert (free(tmp_path).shared, free(tmp_path).memory) == (None, None)
    check(Need(1 << 60, 1 << 60), "servers", tmp_path)


def test_this_machine_has_some_memory_free() -> None:
    found = free()
    assert found.memory is not None
    assert found.memory > 0
    check(Need(1, 1), "server 0")


def test_one_line_with_the_numbers_and_what_to_do(tmp_path: Path) -> None:
    root = machine(tmp_path, available=GB)
    check(Need(0, GB - MB), "server 0", root)
    with pytest.raises(UsageError) as caught:
        check(Need(MB, 1200 * MB), "server 0 on n3", root)
    assert str(caught.value) == (
        "server 0 on n3: 1 MB of windows and 1.2 GB of private memory do not fit, MemAvailable leaves 1 GB: "
        "have fewer workers for each server, or servers on more nodes, or raise the limit")


def test_shared_memory_is_compared_with_dev_shm() -> None:
    room = shutil.disk_usage("/dev/shm").free
    with pytest.raises(UsageError) as caught:
        check(Need(shared=2 * room), "servers 0, 1 on n3")
    line = str(caught.value)
    assert line.startswith(f"servers 0, 1 on n3: windows of {mega(2 * room)} do not fit into /dev/shm, ")
    assert "docker run --shm-size=" in line
    assert "\n" not in line


def test_a_plan_needs_windows_and_slots(tmp_path: Path) -> None:
    tables = [Dense("w", shape=(1000, 1000), optimizer=optim.Adam(lr=0.1)),
              Dense("h", shape=(4000,), dtype="float16", optimizer=optim.SGD(lr=0.1)),
              Dense("d", shape=(3,), dtype="float64", optimizer=optim.Adam(lr=0.1))]
    plan = make_plan(tables, servers=2, workers=2)
    expected = sum(len(Fold(t.optimizer, t).names) * t.size * t.compute_dtype.itemsize for t in tables)
    assert sum(slot_bytes(plan, s) for s in range(2)) == expected
    root = machine(tmp_path, available=8 * MB)
    check_plan(plan, [], shared=True, root=root)
    with pytest.raises(UsageError, match=r"^servers 0, 1 on \S+: .* of windows and 8.02 MB of private memory"):
        check_plan(plan, [0, 1], shared=True, root=root)
    with pytest.raises(UsageError, match=r"^server 0 on \S+: 0 bytes of windows and .* MB of private memory"):
        check_plan(plan, [0], shared=False, root=root)


def test_workers_that_add_up_on_their_node_need_memory_there(tmp_path: Path) -> None:
    tables = [Dense("w", shape=(1000, 1000), optimizer=optim.SGD(lr=0.1))]
    plan = make_plan(tables, servers=1, workers=3)
    root = machine(tmp_path, available=20 * MB)
    check_plan(plan, [], shared=True, root=root, workers=[0, 2])
    with pytest.raises(UsageError, match=r"^workers 0, 1, 2 on \S+: 24 MB of windows and 0 bytes of private memory"):
        check_plan(plan, [], shared=True, root=root, workers=[0, 1, 2])
    with pytest.raises(UsageError, match=r"^server 0 and workers 0, 1 on \S+: 48\.\d MB of windows"):
        check_plan(plan, [0], shared=True, root=root, workers=[0, 1])


def test_sizes_as_people_read_them() -> None:
    assert [mega(n) for n in (0, 999, 12_345, 64 * MB)] == ["0 bytes", "999 bytes", "12.3 kB", "64 MB"]
    assert mega(1_500_000_000) == "1.5 GB"
    assert MARGIN < 64 * MB


def small_shm(command: list[str]) -> Done:
    """Run a command with a /dev/shm of 16 MB, as in a container, or skip."""
    mount = "mount -t tmpfs -o size=16m tmpfs /dev/shm && "
    if shutil.which("unshare") is None or os.getuid() != 0 or subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{mount} true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace here: not root, or no CAP_SYS_ADMIN")
    inside = ["unshare", "--mount", "sh", "-c", f'{mount} exec "$@"', "sh"]
    return start([*inside, *command], timeout=60, env=environment())


def test_a_dev_shm_that_is_too_small_for_real() -> None:
    code = "from mpips.cluster.memory import *; check(Need(shared=20_000_000), 'server 0 on n1')"
    done = small_shm([sys.executable, "-c", code])
    assert done.code == 1
    assert "server 0 on n1: windows of 20 MB do not fit into /dev/shm, 16.8 MB free" in done.err


def test_a_job_that_does_not_fit_says_so_and_starts_nothing(tmp_path: Path) -> None:
    script = tmp_path / "large.py"
    script.write_text("import mpips\n"
                      "tables = [mpips.Dense('w', shape=(4_000_000,), optimizer=mpips.optim.SGD(lr=1.0))]\n"
                      "mpips.run(lambda ps: None, tables, servers=1)\n")
    if vendor() == "MPICH":
        pytest.skip("MPICH's own segments need more than 16 MB for three ranks")
    done = small_shm([str(Path(sys.executable).parent / "mpirun"), "-n", "3", sys.executable, str(script)])
    assert done.code == 2, done
    assert done.err.count("mpips: error: server 0 on ") == 1, done
    assert "docker run --shm-size=" in done.err


def test_windows_do_lie_in_dev_shm() -> None:
    done = mpirun(2, """
import os
from mpi4py import MPI
window = MPI.Win.Allocate_shared(50_000_000 if MPI.COMM_WORLD.rank == 0 else 0, comm=MPI.COMM_WORLD)
maps = [line.split()[0] for line in open("/proc/self/maps") if "/dev/shm/" in line]
ends = [[int(end, 16) for end in name.split("-")] for name in maps]
print(max(b - a for a, b in ends) >= 50_000_000)
window.Free()
""")
    assert (done.code, done.out.split()) == (0, ["True", "True"]), done
