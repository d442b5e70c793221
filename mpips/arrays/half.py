"""bfloat16 as 2-byte words and as float32.

CuPy has a bfloat16 dtype only from version 14 on (with ml_dtypes), so on a device a bfloat16 table is a float32 array:
widening is exact, and what crosses the bus is 2 bytes an element either way. These two are the ends of that bus. They
use nothing but integer arithmetic and `view`, which NumPy and CuPy share: tests on NumPy test what runs on a device.
"""

from __future__ import annotations

from mpips.arrays.namespace import Array, namespace


def from_words(words: Array) -> Array:
    """Return the float32 array that bfloat16 `words` (uint16, any shape) stand for; exact, NaN payloads included."""
    xp = namespace(words)
    flat = xp.astype(xp.reshape(words, (-1,)), xp.uint32) << 16
    return xp.reshape(flat.view(xp.float32), words.shape)


def to_words(x: Array) -> Array:
    """Return float32 `x` (any shape) rounded to bfloat16, as uint16 words.

    To nearest, ties to even (IEEE 754-2019, 4.3.1), like `ml_dtypes`: half a unit less one, plus the last bit that
    stays, carries exactly when it must. Too large a value becomes infinite, NaN the quiet NaN of its sign.
    """
    xp = namespace(x)
    flat = xp.reshape(x, (-1,))  # not 0-d: NumPy warns of the wrap-around below for scalars only
    bits = flat.view(xp.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # NaN may wrap around here; it is replaced
    quiet = ((bits >> 16) & 0x8000) | 0x7FC0
    return xp.reshape(xp.astype(xp.where(flat != flat, quiet, rounded), xp.uint16), x.shape)
