"""A rule as numba runs it: one loop over w, the gradients and all slots, compiled from the rule's own source.

Without `fastmath` LLVM neither contracts into fused multiply-adds nor reorders, and `error_model="numpy"` divides by
zero as NumPy does, so the bits are NumPy's. numba is imported when the first loop is asked for, in about a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

Loop = Callable[..., None]
Change = tuple[bool, bool, bool]  # whether the sum of the gradients is scaled, clipped, and has weight decay added


def compiled(rule: Callable[..., tuple[Any, ...]], slots: int, scalars: int, dtype: np.dtype[Any],
             change: Change = (False, False, False), counts: Sequence[int] = (1,)) -> Loop:
    """Return a loop over arrays of `dtype`: w, gradients, slots, scalars, new w, and the scalars of `change` (`optim.combine`).

    The arrays are 1-D, contiguous, of one length. The loop runs without the GIL.

    Args:
        counts: numbers of gradients to compile for now; for others it is done when they first come, in about a second.

    Raises ImportError without numba.
    """
    import numba

    template = _TEMPLATES[slots]
    code = rule.__code__
    # A copy of the template for each rule, named after the rule's code: numba's cache on disk tells functions apart by
    # name and file, and would not notice that a rule in another file has changed.
    digest = zlib.crc32(repr((code.co_code, code.co_consts, code.co_names)).encode())
    kind = "".join(letter for letter, wanted in zip("scd", change, strict=True) if wanted)
    name = f"{template.__name__}{kind}_{rule.__qualname__.replace('.', '_')}_{digest:08x}"
    world = {**template.__globals__, "_rule": numba.njit(error_model="numpy")(rule),
             "_sum": numba.njit(error_model="numpy")(_combine(*change))}
    copy = FunctionType(template.__code__, world, name)
    copy.__qualname__ = name
    empty, scalar = np.empty(0, dtype), dtype.type(0)

    def compile_now(cache: bool) -> Any:
        loop = numba.njit(error_model="numpy", nogil=True, cache=cache)(copy)
        for count in counts:  # now, not in the first fold
            loop(empty, (empty,) * count, *[empty] * slots, empty, (scalar,) * scalars, (scalar,) * 3)
        return loop

    try:
        loop = compile_now(cache=True)
    except (OSError, RuntimeError):  # no place for the cache: read-only, or over quota
        loop = compile_now(cache=False)

    def run(w: Any, grads: Sequence[Any], slots: Sequence[Any], scalars: Sequence[Any], out: Any,
            more: Sequence[Any] = (scalar,) * 3) -> None:
        loop(w, tuple(grads), *slots, out, tuple(scalars), tuple(more))

    return run


def _combine(scaled: bool, clipped: bool, decayed: bool) -> Callable[..., Any]:
    """Return what `optim.combine` does, for one element; numba leaves out what is not wanted."""
    def combine(grads: Any, i: int, w: Any, more: Any) -> Any:
        g = grads[0][i]
        for k in range(1, len(grads)):
            g += grads[k][i]
        if scaled:
            g = g * more[0]
        if clipped:
            g = np.minimum(np.maximum(g, -more[1]), more[1])
        if decayed:
            g = g + w * more[2]
        return g

    return combine


def _rule(*args: Any) -> tuple[Any, ...]:
    """Replaced in each copy of a template."""
    raise NotImplementedError


def _sum(grads: Any, i: int, w: Any, more: Any) -> Any:
    """Replaced in each copy of a template."""
    raise NotImplementedError


def _loop0(w: Any, g: Any, out: Any, scalars: Any, more: Any) -> None:
    for i in range(w.size):
        (out[i],) = _rule(w[i], _sum(g, i, w[i], more), *scalars)


def _loop1(w: Any, g: Any, a: Any, out: Any, scalars: Any, more: Any) -> None:
    for i in range(w.size):
        out[i], a[i] = _rule(w[i], _sum(g, i, w[i], more), a[i], *scalars)


def _loop2(w: Any, g: Any, a: Any, b: Any, out: Any, scalars: Any, more: Any) -> None:
    for i in range(w.size):
        out[i], a[i], b[i] = _rule(w[i], _sum(g, i, w[i], more), a[i], b[i], *scalars)


def _loop3(w: Any, g: Any, a: Any, b: Any, c: Any, out: Any, scalars: Any, more: Any) -> None:
    for i in range(w.size):
        out[i], a[i], b[i], c[i] = _rule(w[i], _sum(g, i, w[i], more), a[i], b[i], c[i], *scalars)


_TEMPLATES = (_loop0, _loop1, _loop2, _loop3)
