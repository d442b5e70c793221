"""Gradients against finite differences: the check to run on a model of your own before it is trained."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from mpips.arrays import namespace
from mpips.errors import MpipsError
from mpips.nn.layer import Params

Function = Callable[[dict[str, Any]], tuple[Any, Params]]


def gradcheck(f: Function, params: Params, *, eps: float = 1e-6, tol: float = 1e-6, entries: int | None = None,
              seed: int = 0) -> dict[str, float]:
    """Compare the gradients of `f` with central differences in float64.

    Args:
        f: parameters to (loss, gradients by name); it is given float64 arrays of the library and device of `params`,
            must not change them, and must not hand them back as its gradients.
        params: by name; not changed.
        eps: half the width of a difference, (f(p + eps) - f(p - eps)) / 2 eps; its error is about eps^2 + 1e-16 / eps.
        tol: the largest error, |difference - gradient| / max(1, |difference|, |gradient|), that is let pass.
        entries: how many elements of each parameter to look at, drawn by `seed`; None for all.
        seed: of that draw.

    Returns:
        The largest error of each parameter.

    Raises:
        MpipsError: an error above `tol` (or NaN), a gradient that is missing or has another shape; names the parameter.

    >>> gradcheck(lambda p: ((p["w"] ** 2).sum(), {"w": 2 * p["w"]}), {"w": np.arange(3.0)})["w"] < 1e-6
    True
    """
    at: dict[str, Any] = {}
    for name, p in params.items():
        xp = namespace(p)
        at[name] = xp.astype(p, xp.float64, copy=True)
    _, grads = f(dict(at))
    draw = np.random.default_rng(seed)
    errors: dict[str, float] = {}
    for name, p in at.items():
        if name not in grads:
            raise MpipsError(f"gradient of '{name}' is missing; there are {', '.join(sorted(grads)) or 'none'}")
        if tuple(grads[name].shape) != tuple(p.shape):
            raise MpipsError(f"gradient of '{name}': shape {tuple(grads[name].shape)}, expected {tuple(p.shape)}")
        size = prod(p.shape)
        some = range(size) if entries is None or entries >= size else draw.choice(size, entries, replace=False)
        worst = 0.0
        for k in some:
            index = tuple(int(i) for i in np.unravel_index(int(k), p.shape))
            slope, gradient = _slope(f, at, p, index, eps), float(grads[name][index])
            error = abs(slope - gradient) / max(1.0, abs(slope), abs(gradient))
            if not error <= tol:
                raise MpipsError(f"gradient of '{name}' at {index}: {gradient:.9g}, by finite differences {slope:.9g}")
            worst = max(worst, error)
        errors[name] = worst
    return errors


def _slope(f: Function, at: dict[str, Any], p: Any, index: tuple[int, ...], eps: float) -> float:
    """Return the central difference by element `index` of `p`, which is one of `at` and is put back."""
    middle = float(p[index])
    p[index] = middle + eps
    above = float(f(dict(at))[0])
    p[index] = middle - eps
    below = float(f(dict(at))[0])
    p[index] = middle
    return (above - below) / (2.0 * eps)
