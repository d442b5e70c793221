"""`mpips.init_rows.fill` compiled, for servers: several times as fast, the same bits.

What are passes over arrays there are loops over numbers here: every operation rounds alike and stands in the same order, and the
sum of a series is that module's own function. LLVM may vectorise this, but neither contract nor reorder.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from math import sqrt
from typing import Any

import numpy as np

from mpips.init_rows import COS, HALF, LN2, LOG, LOW, SIN, Law, series
from mpips.optim.compiled import Loop, jitted, replaced

Array = np.ndarray[Any, np.dtype[Any]]
SLICE = 1 << 10  # counters a pass works on; measured: 256 to 2048 are alike


def fill(out: Array, ids: Array, *, seed: int, stream: int, law: Law) -> Array:
    """Do what `init_rows.fill` does, without the GIL, for a contiguous `out`.

    What a dtype and a kind of law need is compiled when they first come, also without ids: in one to two seconds, later from disk.

    Raises ImportError without numba.
    """
    kind, (low, high, sigma) = out.dtype.type, law
    scale = high - low if sigma is None else sigma
    _loop(out.dtype, sigma is None)(out, np.ascontiguousarray(ids, np.int64), np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32),
                                    np.uint64(stream), kind(scale), kind(low))
    return out


@cache
def _loop(dtype: np.dtype[Any], uniform: bool) -> Loop:
    """Return the loop for one kind of law: out, ids, the halves of the seed, stream, scale and lower bound."""
    kind = dtype.type
    parts = {"_pair": _inner((_uniform if uniform else _normal)(kind)), "EACH": 16 // dtype.itemsize}
    example = np.empty((0, 1), kind), np.empty(0, np.int64), LOW, LOW, LOW, kind(0), kind(0)
    # numba's cache on disk would not notice that what comes from another file has changed, see `compiled`
    digest = zlib.crc32(repr((COS[kind], SIN[kind], LOG[kind], LN2, series.__code__.co_code, series.__code__.co_consts)).encode())
    loop: Loop = jitted(_fill, parts, [example], f"_fill_{'uniform' if uniform else 'normal'}_{dtype}_{digest:08x}")
    return loop


def _inner(function: Callable[..., Any]) -> Any:
    import numba

    return numba.njit(error_model="numpy")(function)


def _fill(out: Any, ids: Any, key: Any, other: Any, stream: Any, scale: Any, low: Any) -> None:
    dim = out.shape[1]
    groups = -(-dim // EACH)
    step = max(1, SLICE // max(1, groups))
    words = np.empty((4, step * groups), np.uint32)
    values = np.empty(step * groups * EACH, out.dtype)
    for at in range(0, ids.size, step):
        part = ids[at:at + step]
        a, b, c, d = words
        for i in range(part.size):
            lo = i * groups
            for k in range(groups):
                a[lo + k], b[lo + k], c[lo + k] = part[i], part[i] >> 32, k
        for t in range(part.size * groups):
            p, q, r, s = np.uint64(a[t]), np.uint64(b[t]), np.uint64(c[t]), stream
            one, two = key, other
            for _ in range(10):  # not a function of its own: that would not be vectorised
                first, second = p * np.uint64(0xD2511F53), r * np.uint64(0xCD9E8D57)
                p, q, r, s = second >> HALF ^ q ^ one, second & LOW, first >> HALF ^ s ^ two, first & LOW
                one, two = one + np.uint64(0x9E3779B9) & LOW, two + np.uint64(0xBB67AE85) & LOW
            a[t], b[t], c[t], d[t] = p, q, r, s
        for t in range(part.size * groups):
            to = np.uint64(t) * np.uint64(EACH)  # signed places could be negative for all numba knows, which are from the end
            if EACH == 4:
                values[to], values[to + ONE] = _pair(a[t], b[t], scale, low)
                values[to + TWO], values[to + THREE] = _pair(c[t], d[t], scale, low)
            else:
                values[to], values[to + ONE] = _pair(np.uint64(a[t]) << HALF | b[t], np.uint64(c[t]) << HALF | d[t], scale, low)
        for i in range(part.size):
            row, made = out[at + i], values[i * groups * EACH:(i + 1) * groups * EACH]
            for j in range(dim):
                row[j] = made[j]


_pair, EACH = replaced, 4
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)


def _uniform(kind: type[Any]) -> Callable[..., Any]:
    """Return what `init_rows._uniform` does, for a pair of numbers."""
    info = np.finfo(kind)
    signed, shift, unit = np.dtype(f"i{info.bits // 8}").type, info.bits - info.nmant - 1, kind(0.5 ** (info.nmant + 1))

    def pair(first: Any, second: Any, scale: Any, low: Any) -> Any:
        return kind(signed(first >> shift)) * unit * scale + low, kind(signed(second >> shift)) * unit * scale + low

    return pair


def _normal(kind: type[Any]) -> Callable[..., Any]:
    """Return what `init_rows._normal` does, for a pair of numbers."""
    info = np.finfo(kind)
    signed, unsigned = np.dtype(f"i{info.bits // 8}").type, np.dtype(f"u{info.bits // 8}").type
    one, unit, half = kind(1), kind(0.5 ** (info.bits - 1)), kind(0.5**info.bits)
    top, digits, mantissa = unsigned(1 << info.bits - 1), signed(info.nmant), signed((1 << info.nmant) - 1)
    root, two = kind(sqrt(0.5)).view(signed), kind(-2 * LN2)
    cosine, sine, log, total = COS[kind], SIN[kind], LOG[kind], _inner(series)

    def minus_two_log(x: Any) -> Any:
        bits = signed(kind(x).view(signed) - root)
        m = kind(signed((bits & mantissa) + root).view(kind))
        s = (m - one) / (m + one)
        return kind(signed(bits >> digits)) * two + s * total(log, s * s)

    minus_two_log = _inner(minus_two_log)

    def pair(near: Any, turn: Any, sigma: Any, low: Any) -> Any:
        sign = near & top
        radius = kind(np.sqrt(minus_two_log((kind(signed(near ^ sign)) + one) * unit)) * sigma)
        radius = kind(unsigned(radius.view(unsigned) | sign).view(kind))
        angle = kind(signed(turn)) * half
        square = angle * angle
        return radius * total(cosine, square), radius * (total(sine, square) * angle)

    return pair
