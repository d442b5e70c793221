"""How good predictions are, as plain numbers."""

from __future__ import annotations

from math import nan

from mpips.arrays import Array, namespace
from mpips.errors import UsageError


def accuracy(logits: Array, labels: Array) -> float:
    """Return the fraction of rows of `logits` (n, classes) whose largest element is at the label; NaN for no rows."""
    xp = namespace(logits, labels)
    if len(logits.shape) != 2 or tuple(labels.shape) != tuple(logits.shape[:1]):
        raise UsageError(f"labels: shape {tuple(labels.shape)}, logits: shape {tuple(logits.shape)}; "
                         "expected (n,) and (n, classes)")
    if labels.shape[0] == 0:
        return nan
    hits = xp.argmax(logits, axis=1) == xp.astype(labels, xp.int64)
    return int(xp.sum(xp.astype(hits, xp.int64))) / int(labels.shape[0])
