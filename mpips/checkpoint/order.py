"""Which of a directory's checkpoints was completed last.

The one of the highest serial number. Not of the highest clock: a run that began anew in the directory of an older one has smaller
clocks for a while, and its checkpoints are the newer ones all the same. And not the one with the newest manifest: `cp -r` or a
restored backup gives files times in any order. Times only tell where one stands whose beginning is damaged, or that an older mpips
has written.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from mpips.checkpoint.schema import LINE, MANIFEST, steps

HEAD = 200  # bytes of a manifest in which its number stands
_SERIAL = re.compile(LINE.pattern + rb'"format":"[^"]*","version":\d+,(?:"serial":(\d+),)?"clock":')


def complete(directory: Path) -> list[Path]:
    """Return the complete checkpoints in the order in which they were completed, that of their serial numbers."""
    return [step for *_, step in _standing(directory)]


def last_serial(directory: Path) -> int:
    """Return the highest serial number of a complete checkpoint, 0 if there is none."""
    return max((serial for serial, *_ in _standing(directory)), default=0)


def _standing(directory: Path) -> list[tuple[int, int, int, Path]]:
    """Return serial number, time, clock and directory of every complete checkpoint, in their order."""
    found = []
    for clock, step in steps(directory):
        with suppress(FileNotFoundError), (step / MANIFEST).open("rb") as file:  # not complete, or it is being removed
            found.append((os.fstat(file.fileno()).st_mtime_ns, clock, step, _serial(file.read(HEAD))))
    out, last = [], 0
    for time, clock, step, serial in sorted(found):
        last = max(last, serial or 0)
        out.append((last if serial is None else serial, time, clock, step))
    return sorted(out)


def _serial(head: bytes) -> int | None:
    """Return the serial number in the beginning of a manifest, 0 if it has none, None if it is damaged."""
    line = _SERIAL.match(head)
    return int(line[2] or 0) if line else None
