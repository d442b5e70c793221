"""`mpips train FILE.toml`: train what a file describes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mpips.errors import OK

if TYPE_CHECKING:
    from mpips.train import Report


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("train", help="train what a TOML file describes",
                                 description="Train what a TOML file describes; start it with mpirun or srun.",
                                 epilog="The keys of the file: python -m pydoc mpips.train.Config; models: mpips.models; "
                                        "data: mpips.train.data; optimizers: mpips.optim, their lr: mpips.optim.schedules.")
    parser.add_argument("file", metavar="FILE.toml")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="change one key of the file, such as optimizer.lr=0.1; may be repeated")
    parser.add_argument("--resume", metavar="latest|auto|PATH",
                        help="start from the newest complete checkpoint (auto: if there is one), or from this one")
    parser.add_argument("--trace", metavar="PATH",
                        help="write what every rank did when, for ui.perfetto.dev or chrome://tracing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and say on worker 0 what has come of it."""
    from mpips.cluster import mpi
    from mpips.train.fit import fit

    keys = {} if args.trace is None else {"trace": args.trace}
    report = fit(args.file, settings=args.settings, resume=args.resume, **keys)
    if report is not None:
        print(summary(report), flush=True)
    mpi.end()
    return OK


def summary(report: Report) -> str:
    """Return the report in one line."""
    parts = [
        f"{report.steps} steps in {report.seconds:.1f} s",
        f"loss {report.loss:.4f}" if report.loss is not None else "",
        f"held-out accuracy {report.accuracy:.4f}" if report.accuracy is not None else "",
        f"cross-entropy {report.cross_entropy:.4f}" if report.cross_entropy is not None else "",
        f"held-out mse {report.mse:.4g}" if report.mse is not None else "",
        f"{report.skipped} gradients skipped" if report.skipped else "",
        f"checkpoint {report.checkpoint}" if report.checkpoint else "",
    ]
    return "done: " + ", ".join(filter(None, parts))
