"""`mpips doctor`: try what a run will need and print what a bug report needs; alone or under mpirun or srun."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from mpips.errors import FAILED, OK


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("doctor", help="try what a run needs, print what a bug report needs",
                                 description="Try what a run needs and print it; paste it into a bug report. "
                                             "Under mpirun or srun it tries the windows between the ranks too.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report on rank 0; 1 if there is no MPI or its windows do not work."""
    from mpips.cluster import doctor, mpi

    here = doctor.machine()
    there: dict[str, Any] = {}
    rank, missing = 0, ""
    try:
        mpi.start()
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter when it finds no libmpi
        missing = " ".join(str(error).split())
    else:
        from mpi4py import MPI

        from mpips.cluster import abort

        rank = MPI.COMM_WORLD.rank
        with abort.installed(MPI.COMM_WORLD):
            there = doctor.world(MPI.COMM_WORLD)
    facts = {"machine": here, "world": there, "hints": doctor.hints(here, there)}
    if missing:
        facts["world"] = {"MPI": f"not usable: {missing}"}
    if rank == 0:
        print(json.dumps(facts, indent=2) if args.json else "\n".join(lines(facts)), flush=True)
    return FAILED if doctor.broken(facts) else OK


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """Write the report as text, one fact a line."""
    for title in ("machine", "world"):
        yield title
        for name, value in facts[title].items():
            yield from _fact(name, value)
    if facts["hints"]:
        yield "hints"
        yield from (f"  - {hint}" for hint in facts["hints"])


def _fact(name: str, value: Any) -> Iterator[str]:
    if name == "versions":
        yield f"  {name:<14} " + ", ".join(f"{k} {v}" for k, v in value.items() if v != "-")
        absent = [k for k, v in value.items() if v == "-"]
        if absent:
            yield f"  {'not installed':<14} " + ", ".join(absent)
    elif name == "nodes":
        for node in value:
            devices = f", CUDA_VISIBLE_DEVICES={node['cuda']}" if node["cuda"] else ""
            yield f"  {'node':<14} {node['host']}: {node['ranks']} ranks, {node['cores']} cores{devices}"
    elif name == "threads" and isinstance(value, dict):
        yield f"  {name:<14} " + ", ".join(f"{k} {v}" for k, v in value.items())
    elif name == "shm leftovers":
        from mpips.cluster.memory import mega

        yield f"  {name:<14} {value[0]} files, {mega(value[1])}"
    elif name == "windows":
        for kind, said in value.items():
            yield f"  {'window':<14} {kind}: {said}"
    else:
        yield f"  {name:<14} {value}"
