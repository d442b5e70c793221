"""Element-wise functions and their slopes.

| name    | y                                              | dy/dx                  |
|---------|------------------------------------------------|------------------------|
| relu    | max(x, 0)                                      | 1 where x > 0, else 0  |
| gelu    | x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))  | see `GELU`             |
| tanh    | tanh x                                         | 1 - y^2                |
| sigmoid | 1 / (1 + exp(-x))                              | y (1 - y)              |
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

from mpips.arrays import Array, namespace
from mpips.nn.layer import Grads, Layer, Param, Params, Shape


class Activation:
    """Base of the layers without parameters that keep their input's shape."""

    def shapes(self, input_shape: Shape) -> dict[str, Param]:
        """Return no parameters."""
        return {}

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return tuple(input_shape)

    def forward(self, params: Params, x: Array) -> tuple[Array, Any]:
        """Return (y, what `slope` needs)."""
        raise NotImplementedError

    def backward(self, params: Params, cache: Any, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return dy times the slope, and no gradients."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ReLU(Activation):
    """max(x, 0); the slope at 0 is 0; NaN stays NaN."""

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        """Return max(x, 0) and where x is positive."""
        xp = namespace(x)
        return xp.maximum(x, xp.zeros_like(x)), x > 0

    def backward(self, params: Params, cache: Array, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return dy where x was positive, else 0."""
        xp = namespace(dy)
        return xp.where(cache, dy, xp.zeros_like(dy)), {}


class GELU(Activation):
    """The tanh form (Hendrycks and Gimpel, arXiv:1606.08415, section 2): the array API has no erf.

    With u = k (x + a x^3), k = sqrt(2/pi), a = 0.044715 the slope is
    (1 + tanh u) / 2 + x/2 (1 - tanh^2 u) k (1 + 3 a x^2); y differs from the exact form's by less than 5e-4.
    """

    a = 0.044715
    k = sqrt(2.0 / pi)

    def forward(self, params: Params, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """Return y, and (x, tanh u)."""
        t = namespace(x).tanh(self.k * (x + self.a * x * x * x))
        return 0.5 * x * (1.0 + t), (x, t)

    def backward(self, params: Params, cache: tuple[Array, Array], dy: Array, *,
                 need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return dy times the slope of the class's text."""
        x, t = cache
        return dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (self.k * (1.0 + 3.0 * self.a * x * x))), {}


class Tanh(Activation):
    """tanh x."""

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        """Return y, twice."""
        y = namespace(x).tanh(x)
        return y, y

    def backward(self, params: Params, cache: Array, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return dy (1 - y^2)."""
        return dy * (1.0 - cache * cache), {}


class Sigmoid(Activation):
    """1 / (1 + exp(-x)), computed as (1 + tanh(x/2)) / 2, which cannot overflow."""

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        """Return y, twice."""
        y = 0.5 * (1.0 + namespace(x).tanh(0.5 * x))
        return y, y

    def backward(self, params: Params, cache: Array, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return dy y (1 - y)."""
        return dy * cache * (1.0 - cache), {}


ACTIVATIONS: dict[str, Layer] = {"relu": ReLU(), "gelu": GELU(), "tanh": Tanh(), "sigmoid": Sigmoid()}
