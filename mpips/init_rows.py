"""Random values of rows that are named by ids: each value depends on seed, table, id and column alone.

The bits come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Its key is the seed
and its counter the place, so different places cannot share their bits:

| counter word | holds                                                                    |
|--------------|--------------------------------------------------------------------------|
| 0, 1         | the low and the high half of the id                                      |
| 2            | column // 4 for float32, column // 2 for float64 (two words for a value) |
| 3            | the stream: crc32 of the table's name                                    |

Normal values are those of Box and Muller (Ann. Math. Stat. 29, 1958). Logarithm, sine and cosine are sums of series here, with
nothing but operations that IEEE 754 rounds exactly: NumPy's own differ in the last bit from one machine's vectors to another's.

>>> import numpy as np
>>> fill(np.empty((2, 3), np.float32), np.array([5, -5]), seed=0, stream=1, law=(0.0, 1.0, None)).shape
(2, 3)
"""

from __future__ import annotations

from itertools import accumulate
from math import pi, sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Law = tuple[float, float, float | None]  # (low, high, None) is uniform, (0, 0, sigma) normal

LN2 = 0.6931471805599453
SLICE = 1 << 14  # counters a pass works on: its arrays stay in cache, and calling NumPy costs little beside the work
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def fill(out: Array, ids: Array, *, seed: int, stream: int, law: Law) -> Array:
    """Fill `out` (len(ids), dim), float32 or float64, with the values of `law` for int64 `ids`, and return it."""
    dim = out.shape[1]
    each = 16 // out.itemsize  # values of a counter
    groups = -(-dim // each)
    step = max(1, SLICE // max(1, groups))
    columns = np.arange(groups, dtype=np.uint64)
    names = np.asarray(ids, np.int64).view(np.uint64)[:, None]
    for at in range(0, len(names), step):
        part = names[at : at + step]
        words = np.empty((4, len(part), groups), np.uint64)
        words[0], words[1], words[2], words[3] = part & LOW, part >> HALF, columns, stream
        philox(words, seed)
        if out.dtype == np.float64:
            words[::2] <<= HALF
            words[::2] |= words[1::2]
            bits = words[::2]
        else:
            bits = words.astype(np.uint32)
        values = np.empty((len(part), groups, each), out.dtype)
        if law[2] is None:
            _uniform(bits, values, law[0], law[1])
        else:
            _normal(bits[::2], bits[1::2], values, law[2])
        out[at : at + step] = values.reshape(len(part), groups * each)[:, :dim]
    return out


def philox(words: Array, seed: int) -> None:
    """Encrypt counters in place by Philox4x32-10 with a 64-bit key: uint64 (4, ...), each below 2**32."""
    a, b, c, d = words
    first, second = np.empty_like(a), np.empty_like(a)
    key, other = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        np.multiply(a, np.uint64(0xD2511F53), out=first)
        np.multiply(c, np.uint64(0xCD9E8D57), out=second)
        np.right_shift(second, HALF, out=a)
        a ^= b
        a ^= np.uint64(key)
        np.bitwise_and(second, LOW, out=b)
        np.right_shift(first, HALF, out=c)
        c ^= d
        c ^= np.uint64(other)
        np.bitwise_and(first, LOW, out=d)
        key, other = (key + 0x9E3779B9) & 0xFFFFFFFF, (other + 0xBB67AE85) & 0xFFFFFFFF


def _uniform(bits: Array, values: Array, low: float, high: float) -> None:
    """Turn bits, (each, ...) of uint32 or uint64, into values (..., each) from `low`: 24 or 53 bits of each are used."""
    kind = values.dtype.type
    digits = np.finfo(kind).nmant + 1
    bits >>= bits.dtype.type(8 * values.itemsize - digits)
    for k, one in enumerate(bits):
        np.multiply(_signed(one), kind(0.5**digits), out=values[..., k], dtype=kind, casting="unsafe")
    values *= kind(high - low)
    values += kind(low)


def _normal(near: Array, turn: Array, values: Array, sigma: float) -> None:
    """Turn two sets of bits, (pairs, ...) of uint32 or uint64, into normal values (..., 2 * pairs).

    Of `near` the top bit is a sign and the rest a uniform number in (0, 1], so |value| <= 6.6 sigma for float32 and 9.4 for
    float64; `turn` is an angle from -pi/2 to pi/2.
    """
    kind = values.dtype.type
    top = 8 * values.itemsize - 1
    sign = near & near.dtype.type(1 << top)
    near ^= sign
    radius = _signed(near).astype(kind)
    radius += kind(1)
    radius *= kind(0.5**top)
    radius = _minus_two_log(radius)
    np.sqrt(radius, out=radius)
    radius *= kind(sigma)
    radius.view(near.dtype)[...] |= sign
    angle = _signed(turn).astype(kind)
    angle *= kind(0.5 ** (top + 1))
    square = angle * angle
    cosine = series(COS[kind], square)
    sine = series(SIN[kind], square)
    sine *= angle
    for k, one in enumerate(radius):
        np.multiply(one, cosine[k], out=values[..., 2 * k])
        np.multiply(one, sine[k], out=values[..., 2 * k + 1])


def _signed(bits: Array) -> Array:
    """Return unsigned `bits` as signed ones: the processor has an instruction that makes those a float."""
    return bits.view(np.dtype(f"i{bits.itemsize}"))


def _minus_two_log(x: Array) -> Array:
    """Return -2 ln(x) for normal numbers x > 0, which are overwritten.

    x = 2**e m with m from sqrt(1/2) to sqrt(2), and ln(m) = 2 artanh(s) with s = (m - 1) / (m + 1).
    """
    kind = x.dtype.type
    bits = _signed(x)
    digits = np.finfo(kind).nmant
    root = _signed(np.array(sqrt(0.5), kind))
    bits -= root
    power: Array = (bits >> digits).astype(kind)
    bits &= bits.dtype.type((1 << digits) - 1)
    bits += root
    s = x - kind(1)
    x += kind(1)
    s /= x
    power *= kind(-2 * LN2)
    s *= series(LOG[kind], np.multiply(s, s, out=x))
    power += s
    return power


def series(terms: tuple[Any, ...], x: Array) -> Array:
    """Return the sum of terms[k] * x**k by Horner's rule, as a new array."""
    total: Array = x * terms[-1]
    for term in terms[-2:0:-1]:
        total += term
        total *= x
    total += terms[0]
    return total


def _terms(kind: type[Any], n: int) -> tuple[list[Any], list[Any]]:
    """Return `n` terms of cos(pi x) and of sin(pi x) / x in powers of x**2 (no power function: libraries differ)."""
    factors = list(accumulate(range(1, 2 * n), lambda term, k: term * pi / k, initial=1.0))
    signs = [1 - 2 * (k % 2) for k in range(n)]
    return ([kind(sign * f) for sign, f in zip(signs, factors[0::2], strict=True)],
            [kind(sign * f) for sign, f in zip(signs, factors[1::2], strict=True)])


# What is left out is below 7e-9 for float32 and 2e-17 for float64.
COS: dict[type[Any], tuple[Any, ...]] = {}
SIN: dict[type[Any], tuple[Any, ...]] = {}
LOG: dict[type[Any], tuple[Any, ...]] = {}
for _kind, _n, _m in ((np.float32, 7, 5), (np.float64, 11, 11)):
    COS[_kind], SIN[_kind] = map(tuple, _terms(_kind, _n))
    LOG[_kind] = tuple(_kind(-4 / (2 * k + 1)) for k in range(_m))
