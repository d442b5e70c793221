"""Clipping by norm: what a worker does to its own gradient before it pushes it.

The norm is summed in float64, block by block of the table's grid and in that order, so the same gradient gives the same
bits on every worker and in every run, however the table is spread over servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, TypeVar

import array_api_compat

from mpips.errors import UsageError
from mpips.given import number
from mpips.layout import grid

Grads = TypeVar("Grads")


def clip_by_norm(grads: Grads, max_norm: float) -> tuple[Grads, float]:
    """Scale a gradient down to norm `max_norm` if its norm is larger (Pascanu et al., ICML 2013, algorithm 1).

        g <- g max_norm / |g|    where |g| > max_norm; |g| is the 2-norm over all elements of all arrays

    Args:
        grads: an array of any namespace, or a dict, list, tuple or named tuple of arrays of one device; dicts are summed by name.
        max_norm: above 0.

    Returns:
        (clipped, norm): the same structure with new arrays, or `grads` itself where nothing is to do; the norm before.
        With a norm that is not finite nothing is clipped: the push will say where.

    >>> import numpy as np
    >>> clip_by_norm({"w": np.array([3.0, 0.0]), "b": np.array([4.0])}, 1.0)
    ({'w': array([0.6, 0. ]), 'b': array([0.8])}, 5.0)
    """
    if number(max_norm, "clip_by_norm: max_norm") <= 0:
        raise UsageError(f"clip_by_norm: max_norm {max_norm!r} is not above 0")
    arrays: Sequence[Any]
    if isinstance(grads, Mapping):
        arrays = [grads[k] for k in sorted(grads)]
    else:
        arrays = grads if isinstance(grads, (list, tuple)) else [grads]
    norm = _norm(arrays)
    if not max_norm < norm < float("inf"):
        return grads, norm
    factor = max_norm / norm
    out: Any
    if isinstance(grads, Mapping):
        out = {k: _times(g, factor) for k, g in grads.items()}
    elif isinstance(grads, (list, tuple)):
        clipped = [_times(g, factor) for g in grads]
        out = type(grads)(*clipped) if hasattr(grads, "_fields") else type(grads)(clipped)  # a named tuple takes them one by one
    else:
        out = _times(grads, factor)
    return out, norm


def _norm(arrays: Sequence[Any]) -> float:
    """Return the 2-norm over all arrays; one number leaves the device, at the end."""
    if not arrays:
        return 0.0
    total: Any = 0.0
    for g in arrays:
        xp = array_api_compat.array_namespace(g)
        flat = xp.reshape(g, (-1,))
        for start, stop in grid(flat.shape[0], _itemsize(g)):
            wide = xp.astype(flat[start:stop], xp.float64)
            total = xp.sum(wide * wide) + total
    return sqrt(total)


def _itemsize(g: Any) -> int:
    """Return the bytes of one element (bfloat16 has no `finfo`, array-api-strict no `itemsize`)."""
    size = getattr(g.dtype, "itemsize", None)
    return int(size) if size is not None else int(array_api_compat.array_namespace(g).finfo(g.dtype).bits) // 8


def _times(g: Any, factor: float) -> Any:
    """Return `g * factor` in g's dtype; 2-byte floats by way of float32, where the factor still has all its digits."""
    xp = array_api_compat.array_namespace(g)
    if _itemsize(g) >= 4:
        return g * factor
    return xp.astype(xp.astype(g, xp.float32) * factor, g.dtype)
