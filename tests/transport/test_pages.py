"""A window's memory in large pages, where the kernel has them; with real shared memory, and what is refused."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpips.transport import pages
from mpips.transport.pages import Pages
from tests.mpirun import mpirun

LARGE = 2 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is mapped again on Linux only")


def kernel_joins() -> bool:
    """Whether this kernel joins pages of shared memory at all, asked where a large page fits by itself."""
    if sys.platform != "linux" or pages._large() != LARGE:
        return False
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    room = np.frombuffer(mmap.mmap(-1, 2 * LARGE), np.uint8)  # whose pages are given up for those of the file
    start = -(-room.ctypes.data // LARGE) * LARGE
    file = os.memfd_create("trial")
    os.ftruncate(file, LARGE)
    shared, fixed = mmap.MAP_SHARED, 0x10
    libc.mmap(ctypes.c_void_p(start), ctypes.c_size_t(LARGE), 3, shared | fixed, file, ctypes.c_long(0))
    os.close(file)
    room[start - room.ctypes.data] = 1
    return bool(libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(LARGE), 25) == 0)


joins = pytest.mark.skipif(not kernel_joins(), reason="this kernel joins no pages of shared memory")


@pytest.fixture
def shared() -> Iterator[mmap.mmap]:
    """Memory of 9 MB that is shared, at an address where no large page fits."""
    file = os.memfd_create("window")
    os.ftruncate(file, 9 << 20)
    with mmap.mmap(file, 9 << 20) as memory:
        os.close(file)
        yield memory
        gc.collect()


def joined() -> int:
    """Bytes of shared memory that this process has in large pages."""
    return sum(int(line.split()[1]) for line in Path("/proc/self/smaps").read_text().splitlines() if "ShmemPmdMapped" in line) << 10


@joins
def test_memory_that_is_shared_comes_in_large_pages_and_keeps_what_it_holds(shared: mmap.mmap) -> None:
    shared[5 << 20] = 7
    before, found = joined(), Pages(memoryview(shared)[64:], (9 << 20) - 200)
    found.populate(0, found.memory.size)
    found.memory[:64] = 1
    assert joined() - before == 8 << 20, "the last one is not whole"
    assert found.memory[(5 << 20) - 64] == 7
    assert shared[64:128] == bytes([1] * 64)
    assert shared[:64] == bytes(64)
    assert len(found.memory) == (9 << 20) - 200


@joins
@pytest.mark.parametrize(("start", "stop", "large"), [(0, 0, 0), (3 << 20, (3 << 20) + 1, 1), ((2 << 20) - 1, (4 << 20) + 1, 3),
                                                      (0, 9 << 20, 4), ((8 << 20) + 9, (8 << 20) + 10, 0)])
def test_only_the_pages_that_are_asked_for_take_memory(shared: mmap.mmap, start: int, stop: int, large: int) -> None:
    found, before = Pages(shared, 9 << 20), joined()
    found.populate(start, stop)
    found.memory[start:stop].max(initial=0)
    assert joined() - before == large * LARGE


def test_an_array_that_is_kept_is_there_after_the_window(shared: mmap.mmap) -> None:
    kept = Pages(shared, 9 << 20).memory[100:200].view(np.float32)
    kept[:] = 5
    address = kept.ctypes.data
    held = [line for line in Path("/proc/self/maps").read_text().splitlines() if within(line, address)]
    shared.close()
    assert (kept == 5).all()
    assert len(held) == 1
    del kept
    gc.collect()
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if within(line, address) and "window" in line]


def test_an_array_that_goes_after_the_modules_is_given_back(shared: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Pages(shared, 9 << 20).memory
    address = kept.ctypes.data
    monkeypatch.setattr(pages, "ctypes", None)  # as at the end of a program
    del kept
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if within(line, address) and "window" in line]


def within(line: str, address: int) -> bool:
    """Whether a line of /proc/PID/maps is of what lies at an address."""
    start, end = (int(number, 16) for number in line.split()[0].split("-"))
    return start <= address < end


@pytest.mark.parametrize("what", ["private", "the kernel refuses", "nothing", "a limit of addresses"])
def test_memory_that_cannot_be_mapped_again_is_used_as_it_is(what: str, shared: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, size = shared, 9 << 20
    if what == "private":
        buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if what == "the kernel refuses":
        monkeypatch.setattr(pages, "MAYMOVE", 0)  # EINVAL
    if what == "nothing":
        size = 0
    if what == "a limit of addresses":
        monkeypatch.setattr(pages.resource, "getrlimit", lambda kind: (8 << 30, resource.RLIM_INFINITY))
    found = Pages(buffer, size)
    found.populate(0, size)
    assert found.memory.ctypes.data == np.frombuffer(buffer, np.uint8).ctypes.data
    assert found.memory.size == size
    found.memory[-1:] = 3
    assert buffer[size - 1] == 3 * bool(size)


@pytest.mark.parametrize("large", ["none", "512 MB"])
def test_without_large_pages_memory_is_mapped_again_all_the_same(large: str, shared: mmap.mmap, monkeypatch: pytest.MonkeyPatch,
                                                                 tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "LARGE", tmp_path / "hpage_pmd_size")
    if large == "512 MB":
        (tmp_path / "hpage_pmd_size").write_text(f"{512 << 20}\n")
    found, before = Pages(memoryview(shared)[4096:], 9000), joined()
    found.populate(0, 9000)
    found.memory[:] = 9
    assert joined() == before
    assert shared[4096 : 4096 + 9000] == bytes([9] * 9000)
    assert shared[4096 + 9000] == 0


@joins
def test_pages_that_the_kernel_does_not_join_stay_as_they_are(shared: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "COLLAPSE", 9999)  # EINVAL, as of kernels before 6.1
    found, before = Pages(shared, 9 << 20), joined()
    found.populate(0, 9 << 20)
    found.memory[:] = 1
    assert joined() == before
    assert shared[:] == bytes([1] * (9 << 20))


JOB = """
import numpy as np
import mpips
from tests.transport.test_pages import joined

def work(ps):
    ps.push("w", np.ones(3 << 20, np.float32))
    ps.clock()
    assert (ps.pull("w") == -1).all()
    with ps.view("w") as view:
        assert (view == -1).all()
    return joined()

found = mpips.run(work, [mpips.Dense("w", (3 << 20,), mpips.optim.SGD(lr=0.5))], servers=1)
if found:
    print("joined", min(found) >> 20)
"""

KEPT = """
import numpy as np
import mpips

kept = []

def work(ps):
    ps.push("w", np.ones(1000, np.float32))
    ps.clock()
    with ps.view("w") as view:
        kept.append(view)

mpips.run(work, [mpips.Dense("w", (1000,), mpips.optim.SGD(lr=0.5))], servers=1)
for array in kept:
    print("kept", array.sum())
"""

AGAIN = """
import gc
from pathlib import Path
import numpy as np
import mpips

gc.disable()
kept, found = [], []

def work(ps):
    kept.append(ps)
    ps.push("w", np.ones(1000, np.float32))
    ps.clock()
    ps.pull("w")

def shared():
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    return sum(-int.__sub__(*(int(n, 16) for n in addresses.split("-"))) for addresses, kind, *_ in lines if kind == "rw-s")

tables = [mpips.Dense("w", (1000,), mpips.optim.SGD(lr=0.5)), mpips.Dense("large", (2 << 20,), mpips.optim.SGD(lr=0.5))]
for _ in range(3):
    mpips.run(work, tables, servers=1, combine=COMBINE)
    found.append(shared())
print("grown", found[-1] - found[0] >> 20)
"""


@joins
def test_workers_find_the_windows_of_their_node_in_large_pages(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    done = mpirun(3, tmp_path / "job.py")
    assert done.code == 0, done
    assert int(done.out.split()[-1]) >= 20, done


def test_a_view_that_is_kept_after_the_run_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(KEPT)
    done = mpirun(3, tmp_path / "job.py")
    assert done.code == 0, done
    assert done.out.count("kept -1000.0") == 2, done


@pytest.mark.parametrize("combine", [None, "node"])
def test_a_run_gives_its_memory_back_though_the_program_keeps_its_worker(combine: str | None, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(AGAIN.replace("COMBINE", repr(combine)))
    done = mpirun(3, tmp_path / "job.py")
    assert done.code == 0, done
    assert done.out.split() == ["grown", "0"] * 3, done


SPARE = """
from pathlib import Path
import numpy as np
import mpips

def taken():  # of windows; the smaps of a worker say what it has of them, and it looks at none but its own mailbox
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("ShmemPmdMapped")) >> 10

def work(ps):
    before = taken()
    ps.create(mpips.Dense("more", (4 << 20,), mpips.optim.SGD(lr=0.5)))
    ps.push("more", np.ones(4 << 20, np.float32))
    ps.clock()
    assert (ps.pull("more") == -1).all()
    return before, taken()

found = mpips.run(work, [mpips.Dense("w", (1 << 10,), mpips.optim.SGD(lr=0.5))], servers=1, reserve=64 << 20)
if found:
    print(max(before for before, _ in found), min(after for _, after in found))
"""


@joins
def test_spare_space_takes_memory_when_a_table_is_created_there(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(SPARE)
    done = mpirun(3, tmp_path / "job.py")
    assert done.code == 0, done
    before, after = map(int, done.out.split())
    assert before <= 8
    assert after >= 24
