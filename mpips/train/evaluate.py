"""How good parameters are on samples: accuracy of a classifier, mean squared error of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpips.arrays import namespace
from mpips.nn import accuracy

if TYPE_CHECKING:
    from mpips.models import Model

CHUNK = 4096  # samples that are predicted at once: bounds the memory, whatever the size of the test set


def score(model: Model, params: Mapping[str, Any], x: Any, y: Any) -> dict[str, float]:
    """Return {"accuracy": ...} or {"mse": ...} of the model's predictions for `x`, {} for no samples."""
    total = 0.0
    for start in range(0, len(x), CHUNK):
        some_x, some_y = x[start:start + CHUNK], y[start:start + CHUNK]
        out = model.predict(dict(params), some_x)
        if model.task == "classification":
            total += accuracy(out, some_y) * len(some_x)
        else:
            xp = namespace(out, some_y)
            apart = xp.astype(out, xp.float64) - xp.reshape(xp.astype(some_y, xp.float64), out.shape)
            total += float(xp.mean(apart * apart)) * len(some_x)
    return {"accuracy" if model.task == "classification" else "mse": total / len(x)} if len(x) else {}
