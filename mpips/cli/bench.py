"""`mpips bench`: measure this package beside the limits of the machine and beside its rivals; started by mpirun."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpips.errors import FAILED, OK, UsageError

if TYPE_CHECKING:
    from mpips.bench import Options, Report

UNITS = {"k": 1000, "M": 1_000_000, "G": 1_000_000_000}


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("bench", help="measure speed beside the machine's limits and beside rivals",
                                 description="Measure speed beside the machine's limits and beside rivals; start it with mpirun.")
    parser.add_argument("--servers", type=int, default=1, metavar="S", help="ranks that serve, the others work (default: 1)")
    parser.add_argument("--sizes", default="1k,1M,10M", metavar="N,...", help="elements of the tables (default: 1k,1M,10M)")
    parser.add_argument("--rows", default="1M", metavar="N", help="rows of the large table, of 64 elements (default: 1M)")
    parser.add_argument("--what", default="all", metavar="GROUP,...", help="parts of the bench; 'list' names them (default: all)")
    parser.add_argument("--repeat", type=int, default=5, metavar="R", help="rounds (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="keep the report")
    parser.add_argument("--plot", metavar="FILE.png", help="draw time against size")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--summary", action="store_true", help="print a short table for a README: SGD, staleness 0, medians")
    parser.add_argument("--check", action="store_true", help="say what falls short of the targets; exit code 1 if something does")
    parser.add_argument("--from", dest="files", nargs="+", metavar="FILE.json", help="measure nothing, show these reports")
    parser.add_argument("--quiet", action="store_true", help="do not say what is being measured")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, or read, and show; on the first worker."""
    from mpips.bench import GROUPS, measure, read
    from mpips.train.start import starting

    if args.what == "list":
        print("\n".join(f"{name:<12} {text}" for name, text in GROUPS.items()))
        return OK
    if args.files:
        _check_outputs(args)
        return show([read(file) for file in args.files], args)
    with starting():  # all ranks find the same
        options = options_of(args)
        _check_outputs(args)
    from mpips.cluster import abort, mpi
    from mpips.cluster.world import refuse_singletons

    mpi.start()
    from mpi4py import MPI

    refuse_singletons(MPI.COMM_WORLD.size)
    with abort.installed(MPI.COMM_WORLD):
        report = measure(MPI.COMM_WORLD, options, _say if not args.quiet else lambda line: None)
        code = show([report], args) if report is not None else OK
        return int(MPI.COMM_WORLD.bcast(code, root=options.servers))


def options_of(args: argparse.Namespace) -> Options:
    """Check the arguments."""
    from mpips.bench import GROUPS, Options

    groups = list(GROUPS) if args.what == "all" else args.what.split(",")
    for name in groups:
        if name not in GROUPS:
            raise UsageError(f"--what {name}: is none of {', '.join(GROUPS)}")
    for name, n in (("--servers", args.servers), ("--repeat", args.repeat)):
        if n < 1:
            raise UsageError(f"{name} {n}: at least one is needed")
    return Options(sizes=sorted({size_of(text) for text in args.sizes.split(",")}), groups=groups, repeat=args.repeat,
                   servers=args.servers, rows=size_of(args.rows, "--rows"))


def size_of(text: str, name: str = "--sizes") -> int:
    """Read a number of elements: 1000, 1k, 10M."""
    digits, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    if not digits.isdecimal() or int(digits) < 1:
        raise UsageError(f"{name} {text!r}: a size is a number from 1, with k, M or G behind it or not")
    return int(digits) * unit


def show(reports: list[Report], args: argparse.Namespace) -> int:
    """Print the table, write the files, compare with the targets."""
    from mpips.bench.plot import plot
    from mpips.bench.report import merged, write
    from mpips.bench.targets import check
    from mpips.bench.text import lines, summary

    print("\n".join(summary(reports) if args.summary else lines(reports, args.markdown)), flush=True)
    if args.json and not args.files:
        write(reports[0], args.json)
    if args.plot:
        plot(merged(reports), args.plot)
    if not args.check:
        return OK
    verdicts = check(merged(reports))
    print("\n" + "\n".join(map(str, verdicts)), flush=True)
    return FAILED if any(verdict.short for verdict in verdicts) else OK


def _check_outputs(args: argparse.Namespace) -> None:
    """Raise UsageError now for what could not be written after a long run."""
    from mpips.bench import plot

    for name, file in (("--json", args.json), ("--plot", args.plot)):
        if file and not Path(file).absolute().parent.is_dir():
            raise UsageError(f"{name} {file}: there is no such directory")
    if args.json and args.files:
        raise UsageError("--json and --from: give one of them")
    if args.plot:
        plot.check()


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)
