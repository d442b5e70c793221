"""Models by name, for configuration files and checkpoints.

| name     | options, with `inputs`, `outputs`, `task` for each |
|----------|-----------------------------------------------------|
| `linear` | `bias`                                              |
| `mlp`    | `hidden`, `activation`                              |

`mpips.models.dlrm` and `mpips.models.towers` are for tables of rows; they are used from code (`scripts/clicks.py`,
`scripts/content.py`) and have no name here.

>>> model = make("mlp", inputs=64, outputs=10, hidden=[32])
>>> model.describe()["hidden"], make(**model.describe()) == model
([32], True)
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from mpips.errors import UsageError
from mpips.models.base import TASKS, Layered, Model, NetModel
from mpips.models.linear import Linear
from mpips.models.mlp import MLP

MODELS: dict[str, type[NetModel]] = {"linear": Linear, "mlp": MLP}

__all__ = ["MLP", "MODELS", "TASKS", "Layered", "Linear", "Model", "NetModel", "make"]


def make(name: str, **options: Any) -> NetModel:
    """Return the model of that name.

    Args:
        name: one of `MODELS`.
        options: see the table above and the classes; `inputs` and `outputs` are required.

    Raises:
        UsageError: an unknown name, an unknown, missing or wrong option; it lists what is known.
    """
    if name not in MODELS:
        raise UsageError(f"model {name!r} is not known; there are {', '.join(MODELS)}")
    kind = MODELS[name]
    known = {f.name: f for f in fields(kind)}
    for key in options:
        if key not in known:
            raise UsageError(f"model {name}: unknown option '{key}'; there are {', '.join(known)}")
    for key, field in known.items():
        if key not in options and field.default is MISSING:
            raise UsageError(f"model {name}: option '{key}' is missing")
    return kind(**options)
