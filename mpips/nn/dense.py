"""The layer of matrices: y = x w + b."""

from __future__ import annotations

from dataclasses import dataclass

from mpips.arrays import Array, namespace
from mpips.errors import UsageError
from mpips.given import whole
from mpips.init import Init, xavier, zeros
from mpips.nn.layer import Grads, Param, Params, Shape, parameter


@dataclass(frozen=True)
class Dense:
    """Every output sees every input: `w` is (inputs, units), `b` is (units,).

    Args:
        units: number of outputs.
        bias: False leaves `b` out.
        init: how `w` starts; `b` starts at zero.

    >>> {name: p.shape for name, p in Dense(10).shapes((64,)).items()}
    {'w': (64, 10), 'b': (10,)}
    """

    units: int
    bias: bool = True
    init: Init = xavier()  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        if (units := whole(self.units, 1)) is None:
            raise UsageError(f"Dense: units {self.units!r} is not a number from 1")
        object.__setattr__(self, "units", units)

    def shapes(self, input_shape: Shape) -> dict[str, Param]:
        """Return `w`, and `b` if there is one."""
        if len(input_shape) != 1:
            raise UsageError(f"Dense takes a vector a sample, not shape {tuple(input_shape)}: put Flatten() before it")
        out = {"w": Param((input_shape[0], self.units), self.init)}
        if self.bias:
            out["b"] = Param((self.units,), zeros())
        return out

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (units,)."""
        return (self.units,)

    def forward(self, params: Params, x: Array) -> tuple[Array, Array]:
        """Return x w + b for `x` of shape (n, inputs)."""
        need = self.shapes(tuple(x.shape[1:]))
        y = x @ parameter(params, "w", need["w"].shape)
        if self.bias:
            y = y + parameter(params, "b", need["b"].shape)
        return y, x

    def backward(self, params: Params, cache: Array, dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Grads]:
        """Return dx = dy w^T, dw = x^T dy, db = the sum of dy over the batch."""
        grads: Grads = {"w": cache.T @ dy}
        if self.bias:
            grads["b"] = namespace(dy).sum(dy, axis=0)
        return (dy @ params["w"].T if need_dx else None), grads
