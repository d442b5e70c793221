"""How good parameters are on samples: accuracy and cross-entropy of a classifier, mean squared error of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpips.arrays import namespace
from mpips.nn import SoftmaxCrossEntropy, accuracy

if TYPE_CHECKING:
    from mpips.models import Model

CHUNK = 4096  # samples that are predicted at once: bounds the memory, whatever the size of the test set


def score(model: Model, params: Mapping[str, Any], x: Any, y: Any) -> dict[str, float]:
    """Return the means over the samples {"accuracy": ..., "cross_entropy": ...} or {"mse": ...}, {} for no samples."""
    totals: dict[str, float] = {}
    for start in range(0, len(x), CHUNK):
        some_x, some_y = x[start:start + CHUNK], y[start:start + CHUNK]
        out = model.predict(dict(params), some_x)
        xp = namespace(out, some_y)
        wide = xp.astype(out, xp.float64)
        if model.task == "classification":
            found = {"accuracy": accuracy(out, some_y), "cross_entropy": float(SoftmaxCrossEntropy().forward(wide, some_y)[0])}
        else:
            apart = wide - xp.reshape(xp.astype(some_y, xp.float64), out.shape)
            found = {"mse": float(xp.mean(apart * apart))}
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + value * len(some_x)
    return {name: total / len(x) for name, total in totals.items()}
