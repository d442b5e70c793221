"""What stands around a rule: the effective gradient (summed in order, scaled, clipped, decayed), and bounds of the new weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpips.optim.base import Optimizer

Array = np.ndarray[Any, np.dtype[Any]]
Limits = tuple[Any, Any, Any]  # low, high, and a zero


def constants(optimizer: Optimizer, dtype: np.dtype[Any]) -> tuple[Any, Any, Limits | None]:
    """Return clip, weight decay and bounds as scalars of `dtype`; None where there is nothing to do."""
    kind = dtype.type
    clip = kind(optimizer.clip) if optimizer.clip is not None else None
    decay = kind(optimizer.weight_decay) if optimizer.weight_decay and not optimizer.decoupled else None
    if optimizer.bounds is None:
        return clip, decay, None
    with np.errstate(over="ignore"):  # what float32 does not reach bounds nothing
        return clip, decay, (kind(optimizer.bounds[0]), kind(optimizer.bounds[1]), kind(0))


def filled(kind: Any, change: Sequence[Any], limits: Limits | None) -> list[Any]:
    """Return scale, clip, decay and limits as a compiled loop takes them: a number for each, any where there is nothing to do."""
    return [*[kind(1) if c is None else c for c in change], *(limits or [kind(0)] * 3)]


def bound(w: Array, limits: Limits) -> None:
    """Cut `w` in place; NaN stays. + 0 settles the sign of a zero: of 0.0 and -0.0 either may be the larger."""
    low, high, zero = limits
    np.clip(w, low, high, out=w)
    np.add(w, zero, out=w)


def effective(grads: Sequence[Array], w: Array, scale: Any, clip: Any, decay: Any, total: Array, spare: Array) -> Array:
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
