"""Rules that divide by the size of past gradients: Adagrad, also with one accumulator per row, RMSProp, Adadelta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mpips.optim.base import Optimizer, Schedule


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, JMLR 12, 2011), diagonal form, eps outside the root as in PyTorch.

        a <- a + g^2
        w <- w - lr g / (sqrt(a) + eps)

    Args:
        eps: keeps the denominator from 0.
        initial_accumulator: what `a` starts from.
    """

    eps: float = 1e-10
    initial_accumulator: float = 0.0

    slots: ClassVar[tuple[str, ...]] = ("accumulator",)

    def initial(self, slot: str) -> float:
        """Return `initial_accumulator`."""
        return self.initial_accumulator

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (lr, eps)."""
        return lr, self.eps

    @staticmethod
    def rule(w: Any, g: Any, a: Any, lr: Any, eps: Any) -> tuple[Any, ...]:
        """Return (w, accumulator)."""
        a = a + g * g
        return w - lr * g / (np.sqrt(a) + eps), a


@dataclass(frozen=True)
class RowAdagrad(Adagrad):
    """Adagrad with one accumulator for each row of a table of rows, the mean over its elements.

    From Gupta, Bengio and Weston ("Training highly multiclass classifiers", JMLR 15, 2014), as DLRM (Naumov et al.,
    arXiv:1906.00091, 2019) and FBGEMM (EXACT_ROWWISE_ADAGRAD) have it. A quarter or less of Adagrad's memory traffic.

        a <- a + mean(g^2)      over the row
        w <- w - lr g / (sqrt(a) + eps)
    """

    row_slots: ClassVar[tuple[str, ...]] = ("accumulator",)

    def per_row(self, g: Any, slots: Sequence[Any], scalars: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return ((accumulator,), (lr, sqrt(accumulator) + eps))."""
        (a,), (lr, eps) = slots, scalars
        a = a + np.add.reduce(g * g, axis=1) / g.dtype.type(g.shape[1])
        return (a,), (lr, np.sqrt(a) + eps)

    @staticmethod
    def rule(w: Any, g: Any, lr: Any, root: Any) -> tuple[Any, ...]:  # type: ignore[override]
        """Return (w,)."""
        return (w - lr * g / root,)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton, Coursera lecture 6.5, 2012); PyTorch's with momentum=0, centered=False.

        v <- rho v + (1 - rho) g^2
        w <- w - lr g / (sqrt(v) + eps)

    Args:
        rho: share of the mean square that is kept (PyTorch: alpha), in [0, 1).
        eps: keeps the denominator from 0.
    """

    rho: float = 0.99
    eps: float = 1e-8

    slots: ClassVar[tuple[str, ...]] = ("v",)
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"rho": (0.0, 1.0)}

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (lr, rho, 1 - rho, eps)."""
        return lr, self.rho, 1 - self.rho, self.eps

    @staticmethod
    def rule(w: Any, g: Any, v: Any, lr: Any, rho: Any, rest: Any, eps: Any) -> tuple[Any, ...]:
        """Return (w, v)."""
        v = rho * v + rest * (g * g)
        return w - lr * g / (np.sqrt(v) + eps), v


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Adadelta (Zeiler, arXiv:1212.5701, 2012, algorithm 1), its step times `lr` as in PyTorch.

        v <- rho v + (1 - rho) g^2
        d  = sqrt(a + eps) / sqrt(v + eps) g
        a <- rho a + (1 - rho) d^2
        w <- w - lr d

    Args:
        rho: share of both mean squares that is kept, in [0, 1).
        eps: starts the steps and keeps the denominator from 0.
    """

    lr: float | Schedule = field(default=1.0)
    rho: float = 0.9
    eps: float = 1e-6

    slots: ClassVar[tuple[str, ...]] = ("v", "accumulator")
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"rho": (0.0, 1.0)}

    def scalars(self, step: int, lr: float) -> tuple[float, ...]:
        """Return (lr, rho, 1 - rho, eps)."""
        return lr, self.rho, 1 - self.rho, self.eps

    @staticmethod
    def rule(w: Any, g: Any, v: Any, a: Any, lr: Any, rho: Any, rest: Any,
             eps: Any) -> tuple[Any, ...]:
        """Return (w, v, accumulator)."""
        v = rho * v + rest * (g * g)
        d = np.sqrt(a + eps) / np.sqrt(v + eps) * g
        a = rho * a + rest * (d * d)
        return w - lr * d, v, a
