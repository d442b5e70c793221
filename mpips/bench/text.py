"""A report as a table to read, aligned or for a README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mpips.bench.report import LIMITS, UNITS, Report, Row

COLUMNS = ("workers", "servers", "elements", "what", "optimizer", "staleness", "median", "p10 - p90", "limit", "x limit")
LEFT = {"what", "optimizer", "staleness", "limit"}


def lines(reports: Sequence[Report], markdown: bool = False) -> Iterator[str]:
    """Write what was measured, the machine first."""
    seen: list[dict[str, Any]] = []
    for report in reports:
        if report.machine not in seen:
            seen.append(report.machine)
            yield from machine(report.machine)
    yield ""
    rows = [cells(row) for report in reports for row in ordered(report.results)]
    yield from table(rows, markdown)
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        yield f"not measured: {note}"


SUMMARY = {  # rows of a summary, and what they are called there
    "copy": "a copy of the array (`np.copyto`)",
    "two-sided": "two-sided mpi4py server: push and pull",
    "gloo": "PyTorch gloo: all-reduce and update",
    "allreduce": "MPI `Allreduce` and update",
    "round": "**mpips**: push, clock, pull",
    "round prepared": "mpips: the same by `prepare`",
    "round in place": "**mpips**, in place: `gradients`, clock, `view`",
    "round in place unchecked": "mpips, in place, `nonfinite=\"allow\"`",
    "push": "mpips: push until applied",
    "pull": "mpips: pull into an array",
    "view": "mpips: view",
    "round of tables": "mpips: push, clock, pull of 1000 tables",
}


def summary(reports: Sequence[Report]) -> Iterator[str]:
    """Write medians for SGD and staleness 0 as a Markdown table: a row for each case of `SUMMARY`, a column for each number of
    elements, workers and servers (one, if it is not said) that has been measured beside the two-sided server."""
    shown = [report for report in reports if any(row["what"] == "two-sided" for row in report.results)] or reports
    yield f"{next(machine(shown[0].machine))}:" if shown else "nothing measured"
    yield ""
    found = {(row["workers"], row["servers"], row["size"], row["what"]): row["median"] for report in reports
             for row in report.results if row["optimizer"] in ("", "sgd") and row["staleness"] in ("", "0") and row["size"]}
    columns = sorted({(workers, servers, size) for workers, servers, size, what in found if what == "two-sided"})
    heads = [f"{count(n)}, {w} worker{'s' * (w > 1)}" + (f", {s} servers" if s > 1 else "") for w, s, n in columns]
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(columns)
    for what, name in SUMMARY.items():
        times = [found.get((*column, what)) for column in columns]
        if any(time is not None for time in times):
            yield f"| {name} | " + " | ".join("" if time is None else value(time, "s") for time in times) + " |"


def machine(facts: dict[str, Any]) -> Iterator[str]:
    """Describe a machine in two lines."""
    yield (f"{facts['processor']}, {facts['cores']} cores, {facts['memory free']} of memory free; {facts['system']}; "
           f"{facts['MPI']}; {facts['date']}")
    yield ", ".join(f"{name} {version}" for name, version in facts["versions"].items())


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Sort by size, then as `LIMITS` names them, then what comes once."""
    names = ("copy", "bytes", "update", "update of W", "take", "take unsorted", "row update", "put", "get", "view", *LIMITS)
    place = {name: k for k, name in reversed(list(enumerate(names)))}
    return sorted(rows, key=lambda row: (row["what"] not in place, row["size"], place.get(row["what"], 0)))


def cells(row: Row) -> list[str]:
    """Return the cells of a row, in the order of `COLUMNS`."""
    unit = UNITS.get(row["what"], "s")
    return [str(row["workers"]), str(row["servers"]), count(row["size"]), row["what"], row["optimizer"], row["staleness"],
            value(row["median"], unit), f"{value(row['low'], unit, row['median'])} - {value(row['high'], unit, row['median'])}",
            row["limit"], f"{row['ratio']:.2f}" if row["ratio"] is not None else ""]


def table(rows: Sequence[Sequence[str]], markdown: bool) -> Iterator[str]:
    """Align cells under `COLUMNS`."""
    widths = [max(len(column), *(len(row[k]) for row in rows)) if rows else len(column) for k, column in enumerate(COLUMNS)]

    def line(texts: Sequence[str]) -> str:
        padded = [text.ljust(width) if column in LEFT else text.rjust(width)
                  for text, width, column in zip(texts, widths, COLUMNS, strict=True)]
        return "| " + " | ".join(padded) + " |" if markdown else "  ".join(padded).rstrip()

    yield line(COLUMNS)
    if markdown:
        yield "|" + "|".join("-" * (w + 2) if column in LEFT else "-" * (w + 1) + ":"
                             for w, column in zip(widths, COLUMNS, strict=True)) + "|"
    yield from map(line, rows)


def count(n: int) -> str:
    """Write a number of elements: 1 k, 10 M; nothing for 0.

    >>> count(1000), count(10_000_000), count(1234)
    ('1 k', '10 M', '1234')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n and n % size == 0:
            return f"{n // size} {unit}"
    return str(n or "")


def value(x: float, unit: str, like: float | None = None) -> str:
    """Write a value with three digits; seconds in the unit that suits `like` (default: itself), which also leaves the unit out.

    >>> value(0.0123, "s"), value(0.0123, "s", 0.01), value(0.5, "of a core")
    ('12.3 ms', '12.3', '0.5 of a core')
    """
    name, scale = unit, 1.0
    if unit == "s":
        size = abs(x if like is None else like)
        name, scale = ("s", 1.0) if size >= 1 else ("ms", 1e3) if size >= 1e-3 else ("us", 1e6)
    number = f"{x * scale:.0f}" if abs(x * scale) >= 1000 else f"{x * scale:.3g}"
    return number if like is not None else f"{number} {name}"
