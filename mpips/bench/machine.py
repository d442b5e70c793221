"""The machine that a report is of: what makes its numbers differ from those of another one; no names, no paths."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from mpips.cluster.doctor import versions
from mpips.cluster.memory import free, mega


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, versions and the date, as JSON values. Needs MPI."""
    from mpi4py import MPI

    room = free()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory free": mega(room.memory) if room.memory is not None else "unknown",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "MPI": "{} {}".format(MPI.get_vendor()[0], ".".join(map(str, MPI.get_vendor()[1]))),
        "versions": {name: version for name, version in versions().items() if version != "-"},
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, or the architecture where the system does not tell."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
