"""The `mpips` command: one module a subcommand, each with `add_parser(subparsers)` and `run(args) -> exit code`.

Only the module of the subcommand that was asked for is imported: a thousand ranks should not load what they do not use.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

from mpips import __version__
from mpips.errors import FAILED, INTERRUPTED, UsageError

UNREAD = 128 + signal.SIGPIPE  # whoever read stdout has gone, as `| head` does
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # without the name of a file it is stdout's
COMMANDS = ("train", "predict", "ckpt", "doctor", "plan", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `mpips` command and return its exit code; wrong input is one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    try:
        args = _parse(argv)
        code = int(args.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _forget_output()
        return UNREAD
    except OSError as error:
        if _others() or error.filename is not None or error.errno not in FULL:
            raise
        _forget_output()
        print(f"mpips: error: stdout: {error.strerror}", file=sys.stderr, flush=True)
        return FAILED
    except KeyboardInterrupt:
        if _others():  # `cluster.abort` ends them, or `cluster.early`
            raise
        print("mpips: interrupted (Ctrl-C)", file=sys.stderr, flush=True)
        return INTERRUPTED
    except UsageError as error:
        if not _told(error):
            print(f"mpips: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if "mpi4py.MPI" in sys.modules:  # a launcher that ends the other ranks now may lose the code
            from mpips.cluster.abort import note

            note(error.exit_code)
        return error.exit_code


def _others() -> bool:
    """Whether a launcher has started other ranks, too."""
    from mpips.cluster.world import environment_size

    return environment_size(os.environ)[0] > 1


def _forget_output() -> None:
    """Let what is left in stdout's buffer go nowhere at Python's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors like all others: one line, told once."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, with the subcommand's `run` among them."""
    parser = Parser(prog="mpips", description="A parameter server on MPI one-sided windows.")
    parser.add_argument("--version", action="version", version=f"mpips {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in [word for word in argv[:1] if word in COMMANDS] or COMMANDS:
        import_module(f"mpips.cli.{name}").add_parser(commands)
    if argv[:1] in ([], ["predict"], ["ckpt"], ["doctor"], ["plan"], ["--help"], ["-h"], ["--version"]):
        return parser.parse_args(argv)
    from mpips.train.start import starting

    with starting():  # the ranks of a job were all given the same words
        return parser.parse_args(argv)


def _told(error: UsageError) -> bool:
    """Whether rank 0 tells this error, for all ranks have it. It comes to that: MPI lets nobody end before all do."""
    mpi = sys.modules.get("mpi4py.MPI")
    return getattr(error, "alike", False) and mpi is not None and mpi.COMM_WORLD.Get_rank() > 0
