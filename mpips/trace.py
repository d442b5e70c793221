"""Traces: what every rank did when, in one file that https://ui.perfetto.dev or chrome://tracing shows.

The file is JSON in the Trace Event Format: one process for each rank, called as in every message ("server 0", "worker 1"), and
one complete event ("ph": "X") for each span. Times are microseconds on one clock, rank 0's, that is 0 where its trace begins.

| span       | of a     | what it covers                                                                                  |
|------------|----------|-------------------------------------------------------------------------------------------------|
| pull       | client   | reading the tables, once they are new enough; in `mpips.fit` it may lie inside compute          |
| pull early | worker   | the same of blocks that are new enough before others                                            |
| wait       | client   | any wait for servers or other workers; it may lie inside a pull                                 |
| push       | worker   | writing the gradients, up to the commit; in `mpips.fit` it may lie inside compute               |
| compute    | worker   | in `mpips.fit`: loss and gradients                                                              |
| evaluate   | client   | in `mpips.fit`: the held-out samples                                                            |
| fold       | server   | blocks of one update, published at its end                                                      |
| fold ahead | server   | the same before the push is committed, unpublished                                              |
| publish    | server   | publishing a block that was folded ahead                                                        |
| checkpoint | server   | one slice of writing a shard, or of completing the checkpoint                                   |

What goes on beside a worker's compute (`mpips.worker.background`) has a line of its own.

`with ps.span(name):` adds spans of one's own. All are kept in memory and written when the job has come to its end: one that fails
leaves no trace.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from mpips.errors import MpipsError, UsageError

LIMIT = 1_000_000  # spans of one rank; about 200 bytes each


class Reading(NamedTuple):
    """At `here` on this rank's clock, rank 0's clock was `offset` seconds ahead of it, give or take `error`."""

    here: float
    offset: float
    error: float = 0.0


class Trace:
    """The spans of one rank.

    Args:
        name: how messages call the rank.
        limit: of the spans that are kept; later ones are only counted.
    """

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self.name = name
        self.limit = limit
        self.dropped = 0
        self.begin = time.perf_counter()
        self.spans: list[tuple[str, float, float, int, str, int, int, int]] = []
        self._thread = threading.get_ident()

    def add(self, name: str, begin: float, *, clock: int = -1, what: str = "", block: int = -1, blocks: int = 1) -> None:
        """Add a span that ends now.

        Args:
            begin: `time.perf_counter()` at its begin.
            clock: that it belongs to, shown beside it like `what` (tables, or what is waited for), `block`, and how many `blocks`
                from there on if they are more than one.
        """
        if len(self.spans) < self.limit:
            beside = int(threading.get_ident() != self._thread)
            self.spans.append((name, begin, time.perf_counter(), clock, what, block, blocks, beside))
        else:
            self.dropped += 1

    def part(self, number: int, zero: float = 0.0, first: Reading | None = None, last: Reading | None = None) -> str:
        """Return this rank's events as the inside of a JSON list.

        Args:
            number: of the process in the file.
            zero: where rank 0's clock begins.
            first: how this rank's clock stood to rank 0's when the job began, and `last` when it ended: two hosts' clocks run
                apart by some microseconds a second. None on rank 0's host, whose processes have one clock.
        """
        first = first or Reading(0.0, 0.0)
        last = last or first
        slope = (last.offset - first.offset) / (last.here - first.here) if last.here > first.here else 0.0
        labels = [f"clock to {max(first.error, last.error) * 1e6:.0f} us"] if first.error else []
        labels += [f"{self.dropped} later spans left out"] if self.dropped else []
        lines = [_meta(number, "process_name", name=self.name), _meta(number, "process_sort_index", sort_index=number),
                 _meta(number, "thread_name", name=self.name)]
        if any(span[-1] for span in self.spans):
            lines.append(_meta(number, "thread_name", tid=1, name=f"{self.name}, background"))
        if labels:
            lines.append(_meta(number, "process_labels", labels=", ".join(labels)))

        def at(here: float) -> int:
            return round((here + first.offset + slope * (here - first.here) - zero) * 1e9)

        for name, begin, end, clock, what, block, blocks, beside in sorted(self.spans, key=lambda span: (span[1], -span[2])):
            start = at(begin)
            found = {"clock": clock, "what": what, "block": block, "blocks": blocks if blocks > 1 else -1}
            args = {key: value for key, value in found.items() if value not in (-1, "")}
            lines.append(json.dumps({"ph": "X", "name": name, "pid": number, "tid": beside, "ts": start / 1000,
                                     "dur": (at(end) - start) / 1000, "args": args}))
        return ",\n".join(lines)


def span(trace: Trace | None, name: str) -> AbstractContextManager[None]:
    """Return a context that is a span of `trace`, if there is one."""
    return nullcontext() if trace is None else _span(trace, name)


def check(path: str | os.PathLike[str]) -> None:
    """Raise UsageError if a trace could not be written to `path`; nothing is left there."""
    if not isinstance(path, (str, os.PathLike)) or not Path(path).name:
        raise UsageError(f"trace: {path!r} is not a path of a file")
    path, probe = Path(path), _fresh(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "is not a file")  # /dev/null would be no device any more
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"trace: {path} cannot be written: {error.strerror or error}") from None


def write(path: str | os.PathLike[str], parts: Iterable[str]) -> None:
    """Write the ranks' parts, taken one after the other, as one trace; it is whole when it appears under its name.

    Raises:
        MpipsError: the disk refuses.
    """
    fresh = _fresh(path)
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [')
            for number, part in enumerate(parts):
                file.write(",\n" if number else "\n")
                file.write(part)
            file.write("\n]}\n")
        fresh.replace(path)
    except OSError as error:  # of a full disk it does not name the file
        with suppress(OSError):
            fresh.unlink()
        raise MpipsError(f"trace: {path} cannot be written: {error.strerror}") from error


@contextmanager
def _span(trace: Trace, name: str) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        yield
    finally:
        trace.add(name, begin)


def _meta(number: int, kind: str, tid: int = 0, **args: object) -> str:
    return json.dumps({"ph": "M", "name": kind, "pid": number, "tid": tid, "args": args})


def _fresh(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_name(path.name + ".tmp")
