"""What a layer is: pure functions of arrays, forward and backward, with its parameters handed in.

A layer holds no arrays. It says which parameters it needs for an input shape; `forward` returns its output and whatever
`backward` needs of it. All of it runs in the namespace of its arrays (NumPy, CuPy, ...) and keeps their dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mpips.arrays import Array
from mpips.errors import UsageError
from mpips.init import Init

Shape = tuple[int, ...]
Params = Mapping[str, Array]
Grads = dict[str, Array]


@dataclass(frozen=True)
class Param:
    """One parameter of a layer: its shape and how it starts unless the user says otherwise."""

    shape: Shape
    init: Init


@runtime_checkable
class Layer(Protocol):
    """One step of a network; shapes are of one sample, arrays have a batch axis in front, of any length, 0 too."""

    def shapes(self, input_shape: Shape) -> dict[str, Param]:
        """Return the parameters by name; UsageError if the layer cannot take this input."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of one sample's output."""

    def forward(self, params: Params, x: Array) -> tuple[Array, Any]:
        """Return (y, cache) for a batch `x`; UsageError names a parameter that does not fit."""

    def backward(self, params: Params, cache: Any, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return (dx, gradients by name) for the gradient `dy` of a scalar with respect to `y`.

        With `need_dx=False` dx may be None: nobody asks a network's first layer for it, and it costs a matrix product.
        """


def parameter(params: Params, name: str, shape: Shape) -> Array:
    """Return `params[name]` after checking its shape; UsageError names the parameter."""
    if name not in params:
        raise UsageError(f"parameter '{name}' is missing; there are {', '.join(sorted(params)) or 'none'}")
    value = params[name]
    if tuple(value.shape) != tuple(shape):
        raise UsageError(f"parameter '{name}': shape {tuple(value.shape)}, expected {tuple(shape)}")
    return value
