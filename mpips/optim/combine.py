"""From the gradients of a clock to the one that the rule sees: summed in order, scaled, clipped, decayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def combine(grads: Sequence[Array], w: Array, scale: Any, clip: Any, decay: Any, total: Array, spare: Array) -> Array:
    """Return `cut(scale * sum(grads)) + decay * w`, (n,), in the compute dtype: `total`, or the one gradient itself.

    Args:
        grads: (n,) each, of the compute dtype or a narrower one, not changed; none are a gradient of zeros.
        w: the weights, (n,).
        scale, clip, decay: scalars of the compute dtype; None where there is nothing to do. NaN is not clipped.
        total, spare: (n,) of the compute dtype, overwritten.
    """
    g = _sum(grads, total, spare)
    if scale is not None:
        g = np.multiply(g, scale, out=total)
    if clip is not None:
        g = np.minimum(np.maximum(g, -clip, out=total), clip, out=total)
    if decay is not None:
        g = np.add(g, np.multiply(w, decay, out=spare), out=total)
    return g


def _sum(grads: Sequence[Array], total: Array, spare: Array) -> Array:
    """Return the sum, first to last, in `total`; a single gradient of that dtype is returned itself."""
    if not grads:
        total.fill(0)
        return total
    g = _widen(grads[0], total)
    for more in grads[1:]:
        g = np.add(g, _widen(more, spare), out=total)
    return g


def _widen(a: Array, into: Array) -> Array:
    """Return `a` if it has the dtype of `into`, else `into` filled with its values."""
    if a.dtype == into.dtype:
        return a
    np.copyto(into, a)
    return into
