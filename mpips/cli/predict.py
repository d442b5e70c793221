"""`mpips predict CHECKPOINT --input X.npy --output Y.npy`: what a trained model says, without MPI."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mpips.errors import OK, UsageError


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("predict", help="predict with a checkpoint of mpips train, without MPI",
                                 description="Predict with a checkpoint of mpips train or mpips.fit, without MPI.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="directory of one checkpoint")
    parser.add_argument("--input", required=True, metavar="X.npy",
                        help="samples along the first axis, as before standardising")
    parser.add_argument("--output", required=True, metavar="Y.npy", help="logits (n, classes) or values (n, outputs)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict; the output has its name only once it is whole."""
    import numpy as np

    from mpips.train.predict import predictor

    output = Path(args.output)
    if output.exists() and not output.is_file():  # of /dev/null root would make a file
        raise UsageError(f"--output {output}: is {'a directory' if output.is_dir() else 'no file'}")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--output {output}: {output.parent} is no directory that can be written to")
    try:
        x = np.load(args.input, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"--input {args.input}: {error.strerror or error}") from None
    except (ValueError, EOFError):  # NumPy's words are about pickle
        raise UsageError(f"--input {args.input}: not an array of numbers as np.save writes it") from None
    if not isinstance(x, np.ndarray) or not x.ndim:
        raise UsageError(f"--input {args.input}: not one array of samples")
    ask = predictor(args.checkpoint, args.device)
    try:
        y = ask(x)
    except UsageError as error:
        raise UsageError(f"--input {args.input}: {str(error).removeprefix('input: ')}") from None
    partial = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            np.save(file, y)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {y.shape[0]} predictions of shape {y.shape[1:]}, {y.dtype}")
    return OK
