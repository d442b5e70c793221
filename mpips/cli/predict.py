"""`mpips predict CHECKPOINT --input X.npy --output Y.npy`: what a trained model says, without MPI."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
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
    partial = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        if output.exists() and not output.is_file():  # of /dev/null root would make a file
            raise UsageError(f"--output {output}: is {'a directory' if output.is_dir() else 'no file'}")
        if not os.access(output.parent, os.W_OK | os.X_OK):
            raise UsageError(f"--output {output}: {output.parent} is no directory that can be written to")
        with suppress(FileNotFoundError):
            partial.lstat()  # its name may be too long; `exists` raises nothing from Python 3.14 on
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from None
    try:
        with Path(args.input).open("rb") as file:
            x = np.load(file, allow_pickle=False)
    except (OSError, MemoryError) as error:
        raise UsageError(f"--input {args.input}: {getattr(error, 'strerror', None) or error}") from None
    except Exception:  # noqa: BLE001 - of zip files, tokens, numbers: a file may be anything; NumPy's words are about pickle
        raise UsageError(f"--input {args.input}: not an array of numbers as np.save writes it") from None
    if not isinstance(x, np.ndarray) or not x.ndim:
        raise UsageError(f"--input {args.input}: not one array of samples")
    ask = predictor(args.checkpoint, args.device)
    try:
        y = ask(x)
    except UsageError as error:
        raise UsageError(f"--input {args.input}: {str(error).removeprefix('input: ')}") from None
    try:
        with partial.open("wb") as file:
            np.save(file, y)
        partial.replace(output)
    except OSError as error:  # NumPy tells of a full disk by how much was written
        raise UsageError(f"--output {output}: cannot be written: {error.strerror or 'the disk takes no more'}") from None
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {y.shape[0]} predictions of shape {y.shape[1:]}, {y.dtype}")
    return OK
