"""Ratings files in the three formats of MovieLens (Harper and Konstan, ACM TiiS 5, 2015).

| file          | a line                                                                      |
|---------------|-----------------------------------------------------------------------------|
| `ratings.csv` | userId,movieId,rating,timestamp; the first line says so in these very words  |
| `ratings.dat` | user::movie::rating::timestamp                                              |
| `u.data`      | the same with tabs                                                          |

Which one it is shows in the first line, whatever the file is called.
"""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.train.interactions import Interactions

Array = np.ndarray[Any, np.dtype[Any]]

HEADER = "userId,movieId,rating,timestamp"
ROW = np.dtype([("user", "i8"), ("item", "i8"), ("rating", "f8"), ("time", "f8")])


def read_ratings(path: str | Path) -> tuple[Array, Array, Array]:
    """Return (user ids, item ids, ratings) of a file; UsageError names the file and the line if it is not as it should be."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not text in UTF-8") from None
    first, _, rest = text.partition("\n")
    head = 0
    if first.strip() == HEADER:
        text, mark, head = rest, ",", 1
    elif "::" in first:
        text, mark = text.replace("::", ":"), ":"
    elif "\t" in first:
        mark = "\t"
    else:
        raise UsageError(f"{path}: line 1 {first[:60]!r} is neither '{HEADER}' nor four values between '::' or tabs")
    if not text.strip():
        raise UsageError(f"{path}: no ratings")
    try:
        table = np.loadtxt(StringIO(text), ROW, delimiter=mark, comments=None, ndmin=1)
    except ValueError as error:
        raise UsageError(f"{path}: {_located(str(error), text, head)}") from None
    wrong = np.flatnonzero(~np.isfinite(table["rating"]))
    if wrong.size:
        raise UsageError(f"{path}: line {_line(text, int(wrong[0])) + head}: rating {table['rating'][wrong[0]]}")
    return table["user"], table["item"], table["rating"]


def ratings(path: str | Path, *, least: float = 0.0, per_user: int = 5, per_item: int = 5) -> Interactions:
    """Return who has rated what with `least` or more, as implicit feedback."""
    users, items, values = read_ratings(path)
    good = values >= least
    return Interactions.of(users[good], items[good], str(path), per_user=per_user, per_item=per_item)


def _located(error: str, text: str, head: int) -> str:
    """Return NumPy's message with the line of the file instead of the row of the table."""
    at = re.search(r" at row (\d+)(, column \d+)?\.?", error)
    if at is None:
        return error
    # NumPy counts rows from 1 where their lengths differ, and from 0 where a value is wrong.
    row = int(at[1]) - (at[2] is None)
    return f"line {_line(text, row) + head}: {error[:at.start()].split(';')[0]}{(at[2] or '').rstrip('.')}"


def _line(text: str, row: int) -> int:
    """Return which line, from 1, holds a row of the table: empty lines are none."""
    lines = np.array([bool(line.strip()) for line in text.split("\n")])
    return int(np.flatnonzero(lines)[row]) + 1
