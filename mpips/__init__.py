"""A parameter server on MPI one-sided windows.

    import mpips

    tables = [mpips.Dense("w", shape=(64, 10), optimizer=mpips.optim.SGD(lr=0.1))]

    def work(ps):
        for x, y in batches(ps.index, ps.workers):
            w = ps.pull("w")
            ps.push("w", gradient(w, x, y))
            ps.clock()
        return float(loss(ps.pull("w")))

    losses = mpips.run(work, tables, servers=1)

Importing this package imports neither MPI nor CuPy: login nodes have neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mpips import errors, init
from mpips.cluster import early
from mpips.table import Dense, Rows

if TYPE_CHECKING:
    from mpips import models, nn, optim, sampling, train
    from mpips.checkpoint import Checkpoints
    from mpips.checkpoint.read import Saved
    from mpips.cluster.run import run
    from mpips.train.fit import fit
    from mpips.worker import Reader, Worker

__version__ = "0.1.0"

early.install()

__all__ = [
    "Checkpoints", "Dense", "Reader", "Rows", "Saved", "Worker", "__version__", "errors", "fit", "init", "models", "nn", "optim",
    "run", "sampling", "train",
]

_LATER = {  # name -> module it is found in, imported when it is first asked for
    "Checkpoints": "mpips.checkpoint",
    "Reader": "mpips.worker",
    "Saved": "mpips.checkpoint.read",
    "Worker": "mpips.worker",
    "fit": "mpips.train.fit",
    "run": "mpips.cluster.run",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in ("models", "nn", "optim", "sampling", "train"):
        return importlib.import_module(f"mpips.{name}")
    raise AttributeError(f"module 'mpips' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
