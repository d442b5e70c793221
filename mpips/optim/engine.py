"""What runs the rules: NumPy, or loops that numba compiles; the results are the same bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mpips.errors import UsageError

ENGINES = ("auto", "numpy", "numba")
LARGE = 1 << 18  # elements from which importing numba pays

Loops = TypeVar("Loops")


def compiled_by(engine: str, elements: int, make: Callable[[], Loops]) -> Loops | None:
    """Return what `make` compiles, or None if NumPy runs the rule: "auto" takes numba if it can be imported and pays.

    Raises UsageError for an unknown engine, or "numba" where it cannot be imported.
    """
    if engine not in ENGINES:
        raise UsageError(f"fold engine {engine!r} is not one of {', '.join(ENGINES)}")
    if engine == "numpy" or (engine == "auto" and elements < LARGE):
        return None
    try:
        return make()
    except ImportError as error:  # not installed, or not for this NumPy
        if engine == "auto":
            return None
        raise UsageError(f"fold engine 'numba': {error}; pip install 'mpips[fast]'") from error
