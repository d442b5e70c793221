"""A report: medians and spread of all samples, what limits each of them, and the file it is kept in.

    {"bench": 1, "machine": {...}, "options": {...}, "notes": [...],
     "results": [{"what": "pull", "size": 10000000, "optimizer": "sgd", "staleness": "0", "workers": 1, "servers": 1,
                  "median": 0.006, "low": 0.0058, "high": 0.0071, "samples": 25, "limit": "copy", "ratio": 1.1}, ...]}

Values are seconds unless `UNITS` says otherwise; `low` and `high` are the 10th and 90th percentile; `ratio` is the median
over that of the limit, null where nothing limits it or the limit was not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpips.bench.crew import Case, Samples
from mpips.errors import UsageError

VERSION = 1
UNITS = {  # what is not seconds
    "idle server": "of a core", "polling": "of the speed", "beside straggler": "of the speed", "random steps": "steps/s",
    "server memory": "of the shard", "planned memory": "of the shard", "numba on workers": "workers",
    "born by push": "rows/s",
    "train: accuracy": "right", "train two-sided: accuracy": "right", "train allreduce: accuracy": "right",
}
# What cannot take less time than what; names joined by "+" follow each other, by "|" go on at the same time.
LIMITS = {
    "put": "copy", "get": "copy", "pull": "copy", "pull fresh": "copy", "bytes": "", "update": "bytes", "update of W": "bytes",
    "update threads": "update", "copy beside": "copy", "update beside": "update",
    "push": "copy | update", "push in place": "update", "round in place": "update", "round": "copy | update + copy",
    "round prepared": "copy | update + copy", "round of tables": "copy | update + copy", "round by rings": "copy | update + copy",
    "two-sided": "copy | update + copy", "allreduce": "copy | update + copy", "gloo": "copy | update + copy",
    "push of rows": "copy | row update", "pull of rows": "take", "round of rows": "copy | row update + take",
    "push of named rows": "copy | row update", "pull of named rows": "take", "round of named rows": "copy | row update + take",
    "push of unsorted rows": "copy | row update", "pull of unsorted rows": "take unsorted",
    "round of unsorted rows": "copy | row update + take unsorted",
    "two-sided rows": "copy | row update + take", "two-sided unsorted rows": "copy | row update + take unsorted",
}
LIMITS |= {f"{what} {variant}": LIMITS[what] for variant in ("unchecked", "threads")
           for what in ("push", "round", "push in place", "round in place")}
KEYS = ("what", "size", "optimizer", "staleness", "workers", "servers", "median", "low", "high", "samples", "limit", "ratio")

Row = dict[str, Any]


@dataclass
class Report:
    """One run of the bench."""

    machine: dict[str, Any]
    options: dict[str, Any]
    results: list[Row]
    notes: list[str]


def rows(samples: Samples, workers: int, servers: int) -> list[Row]:
    """Make a row of each case."""
    out: list[Row] = []
    medians = {case: float(np.median(values)) for case, values in samples.items() if values}
    for case, median in medians.items():
        low, high = np.percentile(samples[case], [10, 90]).tolist()
        name, limit = limit_of(case, medians, workers)
        out.append({**case._asdict(), "workers": workers, "servers": servers, "median": median, "low": low, "high": high,
                    "samples": len(samples[case]), "limit": name, "ratio": median / limit if limit else None})
    return out


def limit_of(case: Case, medians: Mapping[Case, float], workers: int) -> tuple[str, float | None]:
    """Return the limit's name, and its seconds if all of it was measured; with several workers an update has all gradients.

    >>> limit_of(Case("pull", 8), {Case("copy", 8): 2.0}, 1)
    ('copy', 2.0)
    """
    text = LIMITS.get(case.what, "")
    whole = workers > 1 and case.staleness in ("0", "") and not case.what.startswith("update")
    optimizer = case.optimizer or "sgd"

    def seconds(name: str) -> float | None:
        if name in ("update", "row update"):
            return medians.get(Case("update of W" if whole and name == "update" else name, case.size, optimizer))
        return medians.get(Case(name, case.size))

    total = 0.0
    for part in filter(None, text.split(" + ")):
        found = [seconds(name) for name in part.split(" | ")]
        if None in found:
            return text, None
        total += max(value for value in found if value is not None)
    return text, total or None


def write(report: Report, file: str) -> None:
    """Write a report as JSON, or raise UsageError."""
    try:
        Path(file).write_text(json.dumps({"bench": VERSION, **asdict(report)}, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from error


def read(file: str) -> Report:
    """Return the report of a file, or raise UsageError."""
    try:
        found = json.loads(Path(file).read_text())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("bench") != VERSION:
        raise UsageError(f"{file}: is no report of mpips bench, or one of another version")
    try:
        report = Report(found["machine"], found["options"], found["results"], found["notes"])
        complete = all(set(KEYS) <= set(row) for row in report.results)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file}: is not a whole report: {error!r}") from error
    if not complete:
        raise UsageError(f"{file}: is not a whole report: a result lacks one of {', '.join(KEYS)}")
    return report


def merged(reports: Sequence[Report]) -> list[Row]:
    """Return the rows of several reports."""
    return [row for report in reports for row in report.results]
