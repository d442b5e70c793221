"""`mpips plan FILE.toml`: how much memory a training will need, on which server, before anything is started. No MPI."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mpips.errors import OK, UsageError


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("plan", help="say how much memory a training needs, and where",
                                 description="Say how many bytes each server and each worker of a training will need.")
    parser.add_argument("file", metavar="FILE.toml")
    parser.add_argument("--servers", type=int, metavar="N", help="how many servers (default: the file's)")
    parser.add_argument("--workers", type=int, metavar="N", help="how many workers (default: 1)")
    parser.add_argument("--ranks", type=int, metavar="N", help="how many ranks in all, in place of --workers")
    parser.add_argument("--nodes", type=int, metavar="N", default=1, help='for servers = "per-node" (default: 1)')
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="change one key of the file, such as dtype=float16; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    found = plan(args.file, args.settings, servers=args.servers, workers=args.workers, ranks=args.ranks,
                 nodes=args.nodes)
    print(json.dumps(found, indent=2) if args.json else "\n".join(lines(found)))
    return OK


def plan(file: str, settings: Sequence[str] = (), *, servers: int | None = None, workers: int | None = None,
         ranks: int | None = None, nodes: int = 1) -> dict[str, Any]:
    """Return bytes by server and kind, what one worker holds, and how even the servers are, as JSON values.

    Raises UsageError when the file is wrong or the numbers leave no worker.
    """
    from mpips.cluster.memory import slot_bytes
    from mpips.cluster.roles import assign
    from mpips.train.config import load
    from mpips.train.setup import prepare
    from mpips.transport.plan import make_plan
    from mpips.worker.neighbours import Desk

    config = load(file, settings)
    if servers is None:
        first = config.servers[0] if isinstance(config.servers, list) else config.servers
        servers = first if isinstance(first, int) else nodes
    if ranks is not None:
        if workers is not None:
            raise UsageError("--ranks and --workers: give one of them")
        workers = len(assign([0] * ranks, servers, config.readers).workers)
    workers = 1 if workers is None else workers
    for name, n in (("--servers", servers), ("--workers", workers), ("--nodes", nodes)):
        if n < 1:
            raise UsageError(f"{name} {n}: at least one is needed")
    tables = prepare(config, file).tables
    made = make_plan(tables, servers=servers, workers=workers, readers=config.readers, mailboxes=config.mailboxes)
    desk = Desk(tables)
    shared = desk.size if desk.places else 0
    rows = []
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
    held = sum(table.nbytes for table in tables)
    loads = made.layout.nbytes
    return {
        "tables": len(tables), "parameters": sum(table.size for table in tables), "bytes": held,
        "servers": rows, "workers": workers, "readers": config.readers,
        "worker": {"parameters": held, "gradients": held},
        "balance": max(loads) * servers / sum(loads) if sum(loads) else 1.0,
        "windows": sum(row["window"] for row in rows),
        "shared": shared if config.combine_on else 0,  # of each worker that is not alone on its node
    }


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
    worker = found["worker"]
    yield f"a worker holds {mega(worker['parameters'])} of parameters and {mega(worker['gradients'])} of gradients"
    yield f"/dev/shm must have {mega(found['windows'])} on a node that has all servers"
    if found["shared"]:
        yield f"and {mega(found['shared'])} for each worker of a node that has several (combine_on = \"node\")"
