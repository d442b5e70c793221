"""Numbers as user code gives them: of Python, of NumPy, of a tensor library."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

from mpips.errors import UsageError


def whole(value: Any, least: int = 0, end: float = math.inf) -> int | None:
    """Return an integer of any kind as an int; None if it is a bool or no integer, or not from `least` and below `end`.

    >>> import numpy as np
    >>> whole(np.int64(3)), whole(3.0), whole(True), whole(0, least=1)
    (3, None, None, None)
    """
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        found = operator.index(value)
    except TypeError:
        return None
    return found if least <= found < end else None


def number(value: Any, what: str) -> float:
    """Return `value` as a float, or raise UsageError that starts with `what` if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError(f"{what} {value!r} is not a finite number")
    return float(value)
