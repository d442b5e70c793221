"""The multilayer perceptron."""

from __future__ import annotations

from dataclasses import dataclass

from mpips import init
from mpips.errors import UsageError
from mpips.models.base import NetModel
from mpips.nn import ACTIVATIONS, Dense, Flatten
from mpips.nn.layer import Layer


@dataclass(frozen=True)
class MLP(NetModel):
    """Dense layers with an activation between them: `hidden0.w`, `hidden0.b`, ..., `out.w`, `out.b`.

    Args:
        hidden: sizes of the hidden layers; an empty list leaves a linear model.
        activation: "relu", "gelu", "tanh" or "sigmoid". Weights before relu and gelu start by He, all others by Glorot.
    """

    hidden: tuple[int, ...] = (32,)
    activation: str = "relu"

    name = "mlp"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", self.sizes("hidden"))
        if not isinstance(self.activation, str) or self.activation not in ACTIVATIONS:
            raise UsageError(f"model mlp: activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")

    def layers(self) -> list[Layer | tuple[str, Layer]]:
        """Return Flatten if samples are not vectors, the hidden layers with their activations, and the last one."""
        start = init.he() if self.activation in ("relu", "gelu") else init.xavier()
        out: list[Layer | tuple[str, Layer]] = [] if len(self.input_shape) == 1 else [("flat", Flatten())]
        for k, units in enumerate(self.hidden):
            out += [(f"hidden{k}", Dense(units, init=start)), (f"act{k}", ACTIVATIONS[self.activation])]
        return [*out, ("out", Dense(self.outputs))]
