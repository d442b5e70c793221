"""FTRL-proximal: sparse weights for linear models on very many features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mpips.errors import UsageError
from mpips.optim.base import Optimizer, Schedule


@dataclass(frozen=True)
class FTRL(Optimizer):
    """FTRL-proximal (McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013, algorithm 1).

        s  = (sqrt(n + g^2) - sqrt(n)) / lr
        z <- z + g - s w
        n <- n + g^2
        w <- 0                                                    where |z| <= l1
             -(z - sign(z) l1) / ((beta + sqrt(n)) / lr + l2)     elsewhere

    The weights follow from z and n alone, which start at 0: give such a table `init=zeros()`, other values do not last.

    Args:
        lr: the paper's alpha; above 0, and not a schedule (z has been summed for one alpha).
        beta: smooths the first steps.
        l1: a weight is 0 until its |z| is above this.
        l2: pulls the weights to 0.
    """

    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0

    slots: ClassVar[tuple[str, ...]] = ("z", "n")

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (lr, beta, l1, -l1, l2, 0)."""
        return lr, self.beta, self.l1, -self.l1, self.l2, 0.0

    @staticmethod
    def rule(w: Any, g: Any, z: Any, n: Any, lr: Any, beta: Any, l1: Any, low: Any, l2: Any,
             zero: Any) -> tuple[Any, ...]:
        """Return (w, z, n); z cut to [-l1, l1] less z is both cases of the formula, + 0 settles the sign of a zero."""
        grown = n + g * g
        root = np.sqrt(grown)
        z = z + g - (root - np.sqrt(n)) / lr * w
        return (np.minimum(np.maximum(z, low), l1) - z + zero) / ((beta + root) / lr + l2), z, grown

    def check(self) -> None:
        """Raise UsageError on a hyperparameter outside its range."""
        super().check()
        if isinstance(self.lr, Schedule):
            raise UsageError(f"optimizer {self.name}: lr is a schedule; this rule needs one number")
        if not self.lr:
            raise UsageError(f"optimizer {self.name}: lr 0.0 is not above 0")
