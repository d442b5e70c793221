"""Rules that follow the gradient itself: SGD with and without momentum, and plain addition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mpips.optim.base import Optimizer, Schedule


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent (Robbins and Monro, Ann. Math. Statist. 1951).

        w <- w - lr g
    """

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (lr,)."""
        return (lr,)

    @staticmethod
    def rule(w: Any, g: Any, lr: Any) -> tuple[Any, ...]:
        """Return (w,)."""
        return (w - lr * g,)


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Heavy ball (Polyak 1964), in the form of Sutskever et al. (ICML 2013) as PyTorch writes it.

        m <- momentum m + g
        w <- w - lr m

    Args:
        momentum: share of the last step that is kept, in [0, 1).
    """

    momentum: float = 0.9

    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"momentum": (0.0, 1.0)}

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (lr, momentum)."""
        return lr, self.momentum

    @staticmethod
    def rule(w: Any, g: Any, m: Any, lr: Any, mu: Any) -> tuple[Any, ...]:
        """Return (w, momentum)."""
        m = mu * m + g
        return w - lr * m, m


@dataclass(frozen=True)
class Nesterov(Momentum):
    """Nesterov's accelerated gradient (Nesterov 1983; Sutskever et al., ICML 2013) as PyTorch writes it.

        m <- momentum m + g
        w <- w - lr (g + momentum m)

    Args:
        momentum: share of the last step that is kept, in [0, 1).
    """

    @staticmethod
    def rule(w: Any, g: Any, m: Any, lr: Any, mu: Any) -> tuple[Any, ...]:
        """Return (w, momentum)."""
        m = mu * m + g
        return w - lr * (g + mu * m), m


@dataclass(frozen=True)
class Add(Optimizer):
    """Addition: for counters, sums, and workers that push finished updates.

        w <- w + g

    Args:
        lr: not used.
    """

    lr: float | Schedule = field(default=1.0)

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return nothing."""
        return ()

    @staticmethod
    def rule(w: Any, g: Any) -> tuple[Any, ...]:
        """Return (w,)."""
        return (w + g,)
