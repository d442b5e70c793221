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


def auc(scores: Array, labels: Array) -> float:
    """Return how often a sample of label 1 scores above one of label 0, where ties count half: the area under the ROC curve.

    Exact: pairs are counted as whole numbers (Hanley and McNeil, Radiology 143, 1982). NaN if a class has no samples, or a
    score is NaN.

    >>> import numpy as np
    >>> auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0]))
    0.875
    """
    xp = namespace(scores, labels)
    if len(scores.shape) != 1 or tuple(labels.shape) != tuple(scores.shape):
        raise UsageError(f"labels: shape {tuple(labels.shape)}, scores: shape {tuple(scores.shape)}; expected (n,) for both")
    if bool(xp.any((labels != 0) & (labels != 1))):
        raise UsageError("labels: not all of them are 0 or 1")
    above, below = xp.sort(scores[labels == 1]), xp.sort(scores[labels == 0])
    pairs = int(above.shape[0]) * int(below.shape[0])
    if not pairs or bool(xp.any(scores != scores)):
        return nan
    less = xp.sum(xp.astype(xp.searchsorted(below, above, side="left"), xp.int64))
    most = xp.sum(xp.astype(xp.searchsorted(below, above, side="right"), xp.int64))
    return (int(less) + int(most)) / (2 * pairs)
