"""`mpips plan FILE`: how much memory a job will need, on which server, before anything is started. No MPI.

Of a script all is run that comes before its `mpips.run(...)` or `mpips.fit(...)`, which says what there is to plan.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from mpips.errors import OK, UsageError
from mpips.table import Rows, Table

BATCH = 10_000  # ids whose traffic is looked at


@dataclass(frozen=True)
class Job:
    """What is planned: the arguments of `mpips.run` that matter."""

    tables: Sequence[Table]
    servers: Any
    readers: int
    reserve: int
    mailboxes: int | None
    combine: str | None


class Planned(BaseException):
    """In place of running a job; unlike an Exception it is not for the script to handle."""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("plan", help="say how much memory a job needs, and where",
                                 description="Say how many bytes each server and each worker of a job will need.")
    parser.add_argument("file", metavar="FILE", help="a training's FILE.toml, or a Python script FILE.py, which is run up to its "
                        "mpips.run(...)")
    parser.add_argument("--args", metavar="WORDS", default="", help="the script's arguments, as one word")
    parser.add_argument("--servers", type=int, metavar="N", help="how many servers (default: the file's)")
    parser.add_argument("--workers", type=int, metavar="N", help="how many workers (default: 1)")
    parser.add_argument("--ranks", type=int, metavar="N", help="how many ranks in all, in place of --workers")
    parser.add_argument("--nodes", type=int, metavar="N", default=1, help='for servers = "per-node" (default: 1)')
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="change one key of the file, such as dtype=float16; may be repeated")
    parser.add_argument("--trace", metavar="PATH", help="nothing; so that the words of `mpips train` can be tried as they are")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    try:
        arguments = shlex.split(args.args)
    except ValueError as error:
        raise UsageError(f"--args {args.args!r:.60}: {error}") from None
    found = plan(args.file, args.settings, servers=args.servers, workers=args.workers, ranks=args.ranks, nodes=args.nodes,
                 arguments=arguments)
    print(json.dumps(found, indent=2) if args.json else "\n".join(lines(found)))
    return OK


def plan(file: str, settings: Sequence[str] = (), *, servers: int | None = None, workers: int | None = None,
         ranks: int | None = None, nodes: int = 1, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Return bytes by server and kind, what one worker holds, and how even the servers are, as JSON values.

    Raises UsageError when the file is wrong or the numbers leave no worker.
    """
    from mpips.cluster.memory import slot_bytes
    from mpips.cluster.roles import assign, count
    from mpips.transport.plan import make_plan
    from mpips.worker.neighbours import Desk

    job = _of_script(file, settings, arguments) if file.endswith(".py") else _of_training(file, settings)
    if servers is None:
        servers = count(job.servers, nodes)
    if ranks is not None:
        if workers is not None:
            raise UsageError("--ranks and --workers: give one of them")
        workers = len(assign([0] * ranks, servers, job.readers).workers)
    workers = 1 if workers is None else workers
    for name, n in (("--servers", servers), ("--workers", workers), ("--nodes", nodes)):
        if n < 1:
            raise UsageError(f"{name} {n}: at least one is needed")
    tables = job.tables
    made = make_plan(tables, servers=servers, workers=workers, readers=job.readers, reserve=job.reserve, mailboxes=job.mailboxes,
                     far=nodes > 1)
    desk = Desk(tables)
    shared = desk.size if desk.places else 0
    rows, loads = [], []
    for index, window in enumerate(made.maps):
        row = {
            "control words": window.copy(0),
            "copies": window.mailbox(0, 0) - window.copy(0),
            "mailboxes": window.logs(0) - window.mailbox(0, 0),
            "rows": window.size - window.logs(0),
            "slots": slot_bytes(made, index),
        }
        rows.append({**row, "window": window.size, "total": window.size + row["slots"],
                     "tables": made.layout.nbytes[index], "blocks": made.layout.slots[index]})
        loads.append(made.layout.nbytes[index] + sum(place.rows * place.width for place in window.rows.values()))
    held = sum(table.nbytes for table in tables if not isinstance(table, Rows))
    return {
        "tables": len(tables), "parameters": sum(table.size for table in tables), "bytes": sum(table.nbytes for table in tables),
        "servers": rows, "workers": workers, "readers": job.readers,
        "worker": {"parameters": held, "gradients": held},
        "balance": balance(loads),
        "rows": {table.name: {"rows": [window.rows[number].rows for window in made.maps], "bytes": table.row_bytes,
                              "traffic": traffic(table, servers)}
                 for number, table in enumerate(tables) if isinstance(table, Rows)},
        "windows": sum(row["window"] for row in rows),
        "shared": shared if job.combine else 0,  # of each worker that is not alone on its node
    }


def balance(loads: Sequence[int]) -> float:
    """Return how much more than the mean the largest is.

    >>> balance([30, 10]), balance([0, 0])
    (1.5, 1.0)
    """
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0


def traffic(table: Rows, servers: int) -> float:
    """Return the balance of the different ids of one batch, drawn by Zipf's law (the k-th has a probability of about 1/k)."""
    import numpy as np

    from mpips.worker.rows import parts_of

    ids = np.unique((float(table.shape[0]) ** np.random.default_rng(0).random(BATCH)).astype(np.int64) - 1)
    parts = parts_of(table, ids, servers) if table.shape[0] else []
    return balance([len(part.index) for part in parts] + [0] * (servers - len(parts)))


def _of_training(file: str, settings: Sequence[str]) -> Job:
    """What a training's file describes."""
    from mpips.train.config import load
    from mpips.train.setup import prepare

    config = load(file, settings)
    return Job(prepare(config, file).tables, config.server_ranks, config.readers, 0, config.mailboxes, config.combine_on)


def _of_script(file: str, settings: Sequence[str], arguments: Sequence[str]) -> Job:
    """What a script gives to `run`; what it prints before that goes to stderr."""
    import runpy

    from mpips.cluster import run as module

    found: list[Job] = []
    words, real, path = sys.argv, module.run, sys.path

    def planned(*args: Any, **keywords: Any) -> None:
        given = signature(real).bind(*args, **keywords)
        given.apply_defaults()
        job = module.checked(**given.arguments)
        found.append(Job(job.tables, job.servers, job.readers, job.reserve, job.mailboxes, job.combine))
        raise Planned

    if settings:
        raise UsageError(f"{file}: --set changes keys of a FILE.toml; --args are a script's words")
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such file")
    try:
        sys.argv, module.run, sys.path = [file, *arguments], planned, [str(Path(file).parent), *path]
        with redirect_stdout(sys.stderr):
            runpy.run_path(file, run_name="__main__")
    except SystemExit as end:
        if end.code and not found:  # it has said what is wrong
            raise
    except (Planned, Exception):
        if not found:
            raise
    finally:
        sys.argv, module.run, sys.path = words, real, path
    if not found:
        raise UsageError(f"{file}: it ended without mpips.run(...), so there is nothing to plan")
    return found[0]  # whatever the script made of the exception


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Write a plan as text, one server a line."""
    from mpips.cluster.memory import mega

    yield (f"{found['tables']} tables, {found['parameters']} parameters, {mega(found['bytes'])}; "
           f"{len(found['servers'])} servers, {found['workers']} workers, {found['readers']} readers")
    columns = ("control words", "copies", "mailboxes", "rows", "slots", "total")
    yield "server  blocks  " + "  ".join(f"{name:>13}" for name in columns)
    for index, row in enumerate(found["servers"]):
        yield f"{index:6}  {row['blocks']:6}  " + "  ".join(f"{mega(row[name]):>13}" for name in columns)
    yield f"balance: the fullest server holds {found['balance']:.2f} times the mean"
    for name, rows in found["rows"].items():
        least, most = min(rows["rows"]), max(rows["rows"])
        yield (f"table '{name}': {least if least == most else f'{least} to {most}'} rows of {mega(rows['bytes'])} on a server; of "
               f"{BATCH} ids by Zipf's law the busiest server gets {rows['traffic']:.2f} times the mean")
    worker = found["worker"]
    yield f"a worker holds {mega(worker['parameters'])} of parameters and {mega(worker['gradients'])} of gradients"
    yield f"/dev/shm must have {mega(found['windows'])} on a node that has all servers"
    if found["shared"]:
        yield f"and {mega(found['shared'])} for each worker of a node that has several (combine_on = \"node\")"
