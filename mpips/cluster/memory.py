"""Whether what is about to be allocated fits, asked before it is allocated.

Too little memory shows itself late and badly: a full /dev/shm (64 MB in many containers) is a SIGBUS without a word,
or Open MPI spinning for ever in `Win.Allocate_shared`; a full cgroup is a SIGKILL. Three limits are looked at:

| limit                                             | holds for                                            |
|---------------------------------------------------|------------------------------------------------------|
| /dev/shm: what statvfs says                       | windows (both Open MPI and MPICH keep them there)    |
| MemAvailable of /proc/meminfo                     | windows and private memory                           |
| cgroup v2 memory.max, v1 memory.limit_in_bytes,   | the same; the kernel can drop file cache, so         |
| of this process's group and all above it          | inactive_file does not count as used                 |
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpips.errors import UsageError
from mpips.table import Rows, Table
from mpips.transport.words import WORD
from mpips.worker.neighbours import shared_bytes

if TYPE_CHECKING:
    from mpips.transport.plan import Plan

ROOT = Path("/")
# A window takes whole pages and a little of /dev/shm is the MPI's own (measured: 0.1 MB for 6 ranks of Open MPI 5,
# which takes it before this is asked; MPICH's 5 MB for each rank are there already too).
MARGIN = 4 << 20


@dataclass(frozen=True)
class Need:
    """Bytes that one node will need.

    Attributes:
        shared: in windows that several processes map.
        private: in the processes themselves.
    """

    shared: int = 0
    private: int = 0


@dataclass(frozen=True)
class Free:
    """Bytes that are free here, and for a limit the name of what sets it; None is "no limit known"."""

    shared: int | None
    memory: int | None
    limit: str = ""


def free(root: Path = ROOT) -> Free:
    """Return what is free on this node for this process; `root` is where /proc, /sys and /dev are found."""
    limits = [(_available(root), "MemAvailable"), *cgroups(root)]
    known = [(n, name) for n, name in limits if n is not None]
    memory, name = min(known, default=(None, ""))
    return Free(_shm(root), memory, name)


def check(need: Need, where: str, root: Path = ROOT) -> None:
    """Raise UsageError, one line with the numbers and what to do, if `need` does not fit.

    `where` begins the line, such as "servers 0, 1 on n3".
    """
    here = free(root)
    if need.shared and here.shared is not None and need.shared + MARGIN > here.shared:
        size = -(-(need.shared + MARGIN) // (1 << 30)) + 1
        raise UsageError(f"{where}: windows of {mega(need.shared)} do not fit into /dev/shm, {mega(here.shared)} free: "
                         f"start the container with `docker run --shm-size={size}g` (or --ipc=host), "
                         f"or have fewer workers for each server, or servers on more nodes")
    total = need.shared + need.private
    if here.memory is not None and total > here.memory:
        raise UsageError(f"{where}: {mega(need.shared)} of windows and {mega(need.private)} of private memory "
                         f"do not fit, {here.limit} leaves {mega(here.memory)}: "
                         f"have fewer workers for each server, or servers on more nodes, or raise the limit")


def check_plan(plan: Plan, here: Sequence[int], shared: bool, root: Path = ROOT, workers: Sequence[int] = ()) -> None:
    """`check` for the servers `here` (indices) of this node; `shared`: in windows, not in one process's own memory.

    `workers` are those of this node that add up their gradients in memory of their own, see `run(combine="node")`.
    """
    sums = shared_bytes(plan.layout.tables, len(workers))
    if not here and not sums:
        return
    windows = sum(plan.maps[s].size for s in here)
    slots = sum(slot_bytes(plan, s) for s in here)
    parts = [f"{kind}{'s' * (len(those) > 1)} {', '.join(map(str, those))}"
             for kind, those in (("server", here), ("worker", workers if sums else ())) if those]
    names = f"{' and '.join(parts)} on {os.uname().nodename}"
    check(Need(windows + sums, slots) if shared else Need(0, windows + slots), names, root)


def slot_bytes(plan: Plan, server: int) -> int:
    """Return the bytes of all optimizer slots of a server, the float32 master of half tables and the sums of rings too."""
    total = 0
    for block in plan.layout.on(server):
        table = plan.layout.tables[block.table]
        arrays = len(table.optimizer.slots) + (table.half and table.master) + plan.rings
        total += (block.stop - block.start) * arrays * table.compute_dtype.itemsize
    for number, place in plan.maps[server].rows.items():
        total += place.rows * row_slot_bytes(plan.layout.tables[number], plan.workers)
    return total


def row_slot_bytes(table: Table, workers: int) -> int:
    """Return what a server keeps of one row beside its window: the optimizer's slots, and where it finds it.

    Several workers' pushes are added up by position, which takes a word. A row whose id is not known beforehand is found in a
    directory that is at most half full and has two words in a cell, a power of two of them; 17 bytes tell whether it lives and
    since when, and sightings take four counters of two bytes, in tables four to eight times as wide as there are rows.
    """
    assert isinstance(table, Rows)
    decay = WORD if table.decay else 0
    single = len(getattr(table.optimizer, "row_slots", ()))
    slots = ((len(table.optimizer.slots) - single) * table.dim + single) * table.np_dtype.itemsize
    added = WORD if workers > 1 and table.staleness == 0 else 0
    found = 0 if table.rows is not None else 8 * WORD + 17
    sighted = 0 if isinstance(table.admit, float) or table.admit == 1 else 4 * 2 * 8
    return slots + decay + added + found + sighted


def mega(n: int) -> str:
    """Return bytes as a person reads them: 64 MB, 1.5 GB (powers of ten)."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= 0.9995 * size:  # what rounds up to "1e+03 MB" is 1 GB
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"


def cgroups(root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Yield (free bytes, file that sets the limit) for every memory cgroup with a limit that this process is in."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no cgroups in this kernel
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            tops = [mount, mount / "unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            tops = sorted({mount / controllers, mount / "memory"})
        else:
            continue
        for top in tops:
            # In a container the path is often the host's, and the container's own group is mounted at the top.
            folder = top / path.lstrip("/")
            for group in (folder, *folder.parents):
                if top == group or top in group.parents:
                    left = _left(group, *names)
                    if left is not None:
                        yield left, str(group / names[0])


def _left(group: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    limit, used = _number(group / limit_name), _number(group / used_name)
    if limit is None or used is None or limit >= 1 << 60:  # v1 writes "no limit" as a huge number
        return None
    cache = 0
    try:
        for line in (group / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == cache_name:
                cache = int(value)
    except OSError:  # the root group of v2 has none
        pass
    return max(0, limit - used + cache)


def _available(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # /proc is not mounted
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _shm(root: Path) -> int | None:
    try:
        found = os.statvfs(root / "dev/shm")
    except OSError:  # not there: an MPI falls back to files in TMPDIR
        return None
    return found.f_bavail * found.f_frsize


def _number(path: Path) -> int | None:
    """Return the number in a file; None if it is not there or says "max"."""
    try:
        text = path.read_text().strip()
    except OSError:  # not every group has every file
        return None
    return int(text) if text.isdecimal() else None
