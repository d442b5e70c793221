"""A rule as numba runs it: one loop over w, g and all slots, compiled from the rule's own source.

Without `fastmath` LLVM neither contracts into fused multiply-adds nor reorders, and `error_model="numpy"` divides by
zero as NumPy does, so the bits are NumPy's. numba is imported when the first loop is asked for, in about a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

Loop = Callable[[Any, Any, Sequence[Any], Sequence[Any], Any, Sequence[Any]], None]


def compiled(rule: Callable[..., tuple[Any, ...]], slots: int, scalars: int, dtype: np.dtype[Any]) -> Loop:
    """Return a rule's loop for arrays of `dtype`, called like a `program.Program`; raises ImportError without numba.

    The arrays are 1-D, contiguous, of one length; scratch is not used. The loop runs without the GIL.
    """
    import numba

    template = _TEMPLATES[slots]
    code = rule.__code__
    # A copy of the template for each rule, named after the rule's code: numba's cache on disk tells functions apart by
    # name and file, and would not notice that a rule in another file has changed.
    digest = zlib.crc32(repr((code.co_code, code.co_consts, code.co_names)).encode())
    name = f"{template.__name__}_{rule.__qualname__.replace('.', '_')}_{digest:08x}"
    world = {**template.__globals__, "_rule": numba.njit(error_model="numpy")(rule)}
    copy = FunctionType(template.__code__, world, name)
    copy.__qualname__ = name
    empty, scalar = np.empty(0, dtype), dtype.type(0)
    try:
        loop = numba.njit(error_model="numpy", nogil=True, cache=True)(copy)
        loop(empty, empty, *[empty] * slots, empty, (scalar,) * scalars)  # compile now, not in the first fold
    except (OSError, RuntimeError):  # no place for the cache: read-only, or over quota
        loop = numba.njit(error_model="numpy", nogil=True)(copy)
        loop(empty, empty, *[empty] * slots, empty, (scalar,) * scalars)

    def run(w: Any, g: Any, slots: Sequence[Any], scalars: Sequence[Any], out: Any,
            scratch: Sequence[Any] = ()) -> None:
        loop(w, g, *slots, out, tuple(scalars))

    return run


def _rule(*args: Any) -> tuple[Any, ...]:
    """Replaced in each copy of a template."""
    raise NotImplementedError


def _loop0(w: Any, g: Any, out: Any, scalars: Any) -> None:
    for i in range(w.size):
        (out[i],) = _rule(w[i], g[i], *scalars)


def _loop1(w: Any, g: Any, a: Any, out: Any, scalars: Any) -> None:
    for i in range(w.size):
        out[i], a[i] = _rule(w[i], g[i], a[i], *scalars)


def _loop2(w: Any, g: Any, a: Any, b: Any, out: Any, scalars: Any) -> None:
    for i in range(w.size):
        out[i], a[i], b[i] = _rule(w[i], g[i], a[i], b[i], *scalars)


def _loop3(w: Any, g: Any, a: Any, b: Any, c: Any, out: Any, scalars: Any) -> None:
    for i in range(w.size):
        out[i], a[i], b[i], c[i] = _rule(w[i], g[i], a[i], b[i], c[i], *scalars)


_TEMPLATES = (_loop0, _loop1, _loop2, _loop3)
