"""From samples of any shape to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from mpips.arrays import Array, namespace
from mpips.nn.layer import Grads, Param, Params, Shape


@dataclass(frozen=True)
class Flatten:
    """Each sample becomes one vector, its elements in C order."""

    def shapes(self, input_shape: Shape) -> dict[str, Param]:
        """Return no parameters."""
        return {}

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (number of elements of one sample,)."""
        return (prod(input_shape),)

    def forward(self, params: Params, x: Array) -> tuple[Array, Shape]:
        """Return `x` as (n, elements); the cache is its shape."""
        shape = tuple(x.shape)
        return namespace(x).reshape(x, (shape[0], prod(shape[1:]))), shape  # not -1, which an empty batch leaves open

    def backward(self, params: Params, cache: Shape, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return `dy` in the shape of the input."""
        return namespace(dy).reshape(dy, cache), {}
