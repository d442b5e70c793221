"""Lion: steps of one size, along the sign of a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mpips.optim.base import Optimizer


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion (Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, algorithm 2).

        c  = beta1 m + (1 - beta1) g
        w <- (1 - lr weight_decay) w - lr sign(c)
        m <- beta2 m + (1 - beta2) g

    Args:
        beta1: share of the moment in the step, in [0, 1).
        beta2: share of the moment that is kept, in [0, 1).
        weight_decay: times the learning rate, what a weight loses at each step.
    """

    beta1: float = 0.9
    beta2: float = 0.99

    slots: ClassVar[tuple[str, ...]] = ("m",)
    decoupled: ClassVar[bool] = True
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"beta1": (0.0, 1.0), "beta2": (0.0, 1.0)}

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (beta1, 1 - beta1, beta2, 1 - beta2, lr, 1 - lr weight_decay, 0)."""
        return self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2, lr, 1 - lr * self.weight_decay, 0.0

    @staticmethod
    def rule(w: Any, g: Any, m: Any, b1: Any, c1: Any, b2: Any, c2: Any, lr: Any,
             keep: Any, zero: Any) -> tuple[Any, ...]:
        """Return (w, m); of -0.0 numba's sign is -0.0 and NumPy's 0.0, + 0 leaves no -0.0."""
        return w * keep - lr * np.sign(b1 * m + c1 * g + zero), b2 * m + c2 * g
