"""How good rankings of items are."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]


def recall_at(scores: Array, seen: Array, held: Array, k: int) -> Array:
    """Return for each user which part of the held-out items is among the k of highest score that it has not been trained on.

    That part is hits / min(k, held-out items), as in Liang et al. ("Variational autoencoders for collaborative filtering",
    WWW 2018); NaN for a user without held-out items.

    Args:
        scores: (users, items); not changed.
        seen, held: booleans of that shape.

    >>> recall_at(np.array([[9.0, 3.0, 2.0, 1.0]]), np.array([[1, 0, 0, 0]]) == 1, np.array([[0, 1, 0, 1]]) == 1, k=2).tolist()
    [0.5]
    """
    if scores.ndim != 2 or seen.shape != scores.shape or held.shape != scores.shape:
        raise UsageError(f"recall: scores {scores.shape}, seen {seen.shape} and held {held.shape} are not all (users, items)")
    if not 1 <= k <= scores.shape[1]:
        raise UsageError(f"recall: k {k} is not from 1 to {scores.shape[1]}, the number of items")
    open_to = np.where(seen, -np.inf, scores)
    top = np.argpartition(open_to, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k:]
    hits = np.take_along_axis(held, top, axis=1).sum(axis=1)
    wanted = np.minimum(held.sum(axis=1), k)
    return np.where(wanted > 0, hits / np.maximum(wanted, 1), np.nan)
