"""Time against size, the limits as lines and the others as points on lines, one picture for each number of workers and servers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mpips.bench.report import Row
from mpips.errors import UsageError

LIMITS = ("copy", "update sgd", "update of W sgd")
SHOWN = ("two-sided", "allreduce", "gloo", "push sgd 0", "pull sgd 0", "round sgd 0", "round in place sgd 0", "view sgd 0")


def check() -> None:
    """Raise UsageError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'mpips[bench]'")


def plot(results: Sequence[Row], file: str) -> None:
    """Write a PNG, or raise UsageError."""
    check()
    figure_of: Any = import_module("matplotlib.figure").Figure
    canvas: Any = import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    places = sorted({(row["workers"], row["servers"]) for row in results}) or [(0, 0)]
    figure = figure_of(figsize=(7 * len(places), 5), layout="constrained")
    canvas(figure)
    for axes, (workers, servers) in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        here = [row for row in results if (row["workers"], row["servers"]) == (workers, servers)]
        for name in (*LIMITS, *SHOWN):
            points = sorted((row["size"], row["median"]) for row in here if _name(row) == name)
            if points:
                style = {"color": "0.5", "linestyle": "--" if name == "copy" else ":"} if name in LIMITS else {"marker": "o"}
                axes.plot(*zip(*points, strict=True), label=name, **style)
        axes.set(xscale="log", yscale="log", xlabel="elements of float32", ylabel="seconds, median",
                 title=f"{workers} workers, {servers} servers")
        axes.grid(True, which="major", alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    try:
        figure.savefig(file, format="png", dpi=100)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from error


def _name(row: Row) -> str:
    return " ".join(filter(None, (row["what"], row["optimizer"], row["staleness"])))
