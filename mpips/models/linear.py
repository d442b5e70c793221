"""Linear regression and the softmax classifier (multinomial logistic regression): convex, the first thing to try."""

from __future__ import annotations

from dataclasses import dataclass

from mpips import init
from mpips.errors import UsageError
from mpips.models.base import NetModel
from mpips.nn import Dense, Flatten
from mpips.nn.layer import Layer


@dataclass(frozen=True)
class Linear(NetModel):
    """One matrix and one vector, `linear.w` and `linear.b`; both start at zero, for there is one minimum.

    Args:
        bias: False leaves `linear.b` out.
    """

    bias: bool = True

    name = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bias, bool):
            raise UsageError(f"model linear: option 'bias': {self.bias!r} is not true or false")

    def layers(self) -> list[Layer | tuple[str, Layer]]:
        """Return the one layer, after a Flatten if samples are not vectors."""
        flat: list[Layer | tuple[str, Layer]] = [] if len(self.input_shape) == 1 else [("flat", Flatten())]
        return [*flat, ("linear", Dense(self.outputs, bias=self.bias, init=init.zeros()))]
