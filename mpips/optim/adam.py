"""Adam and its kin: the first and second moments of the gradient, corrected for their start from 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, ClassVar

import numpy as np

from mpips.optim.base import Optimizer


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1); t is the number of folds of the block.

        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        w <- w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        beta1: share of the first moment that is kept, in [0, 1).
        beta2: share of the second moment that is kept, in [0, 1).
        eps: keeps the denominator from 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"beta1": (0.0, 1.0), "beta2": (0.0, 1.0)}

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (beta1, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps)."""
        b1, b2 = self.beta1, self.beta2
        return b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**step), 1 / sqrt(1 - b2**step), self.eps

    @staticmethod
    def rule(w: Any, g: Any, m: Any, v: Any, b1: Any, c1: Any, b2: Any, c2: Any, lr: Any, r: Any,
             eps: Any) -> tuple[Any, ...]:
        """Return (w, m, v)."""
        m = b1 * m + c1 * g
        v = b2 * v + c2 * (g * g)
        return w - lr * m / (np.sqrt(v) * r + eps), m, v


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019, algorithm 2), times lr as in PyTorch.

        w <- (1 - lr weight_decay) w, then as Adam

    Args:
        weight_decay: times the learning rate, what a weight loses at each step.
    """

    weight_decay: float = field(default=0.01, kw_only=True)

    decoupled: ClassVar[bool] = True

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return Adam's, then 1 - lr weight_decay."""
        return *super().scalars(step, lr), 1 - lr * self.weight_decay

    @staticmethod
    def rule(w: Any, g: Any, m: Any, v: Any, b1: Any, c1: Any, b2: Any, c2: Any, lr: Any,  # type: ignore[override]
             r: Any, eps: Any, keep: Any) -> tuple[Any, ...]:
        """Return (w, m, v)."""
        m = b1 * m + c1 * g
        v = b2 * v + c2 * (g * g)
        return w * keep - lr * m / (np.sqrt(v) * r + eps), m, v


@dataclass(frozen=True)
class AMSGrad(Adam):
    """AMSGrad (Reddi, Kale and Kumar, ICLR 2018, algorithm 2), with Adam's correction of the moments as in PyTorch.

        m, v as Adam
        x <- max(x, v)
        w <- w - lr m / (1 - beta1^t) / (sqrt(x / (1 - beta2^t)) + eps)
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v", "vmax")

    @staticmethod
    def rule(w: Any, g: Any, m: Any, v: Any, x: Any, b1: Any, c1: Any, b2: Any, c2: Any,  # type: ignore[override]
             lr: Any, r: Any, eps: Any) -> tuple[Any, ...]:
        """Return (w, m, v, vmax)."""
        m = b1 * m + c1 * g
        v = b2 * v + c2 * (g * g)
        x = np.maximum(x, v)
        return w - lr * m / (np.sqrt(x) * r + eps), m, v, x
