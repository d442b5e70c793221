"""What a model is to the trainer: a function of arrays that knows its tables and can describe itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

from mpips.arrays import Array
from mpips.errors import UsageError
from mpips.given import whole
from mpips.nn import MSE, Sequential, SoftmaxCrossEntropy
from mpips.nn.layer import Grads, Layer, Params
from mpips.table import Dense as Table
from mpips.table import Rule

TASKS = ("classification", "regression")


@runtime_checkable
class Model(Protocol):
    """The contract of `mpips.fit`; an object of your own needs nothing but these.

    `task` is "classification" (integer labels, `predict` gives logits) or "regression" (`predict` gives values).
    """

    @property
    def name(self) -> str:
        """Name for logs and checkpoints."""

    @property
    def task(self) -> str:
        """One of `TASKS`."""

    def tables(self, optimizer: Rule, *, staleness: int | None = 0, dtype: str = "float32", combine: str = "sum",
               nonfinite: str = "raise", master: bool = True) -> list[Table]:
        """Return the tables of the parameters in forward order; the options are those of `mpips.Dense`."""

    def loss_and_grads(self, params: Params, x: Array, y: Array) -> tuple[float, Grads]:
        """Return the mean loss of a batch (n may be 0) and the gradients by table name, in the dtypes of `params`."""

    def predict(self, params: Params, x: Array) -> Array:
        """Return logits (n, classes) or values (n, outputs)."""

    def describe(self) -> dict[str, Any]:
        """Return JSON values; for a model of this package `make(**model.describe())` is the same model again."""


@runtime_checkable
class Layered(Model, Protocol):
    """A model that takes parameters when it needs them and gives gradients away while it goes on to others.

    `mpips.fit` waits for a parameter that is taken (`params[name]`; names alone cost nothing) and pushes what is given meanwhile.
    The parameters' arrays have other values in the next step: a model that keeps one copies it.
    """

    def loss_and_grads_by_layer(self, params: Params, x: Array, y: Array, done: Callable[[Grads], None]) -> float:
        """Return the loss; give each gradient that `loss_and_grads` would return to one call of `done`, early."""


@dataclass(frozen=True)
class NetModel:
    """Base of the models that are a `Sequential`.

    Args:
        inputs: shape of one sample, or its number of features.
        outputs: number of classes or of values.
        task: "classification" (cross-entropy) or "regression" (MSE).
    """

    inputs: int | tuple[int, ...]
    outputs: int
    task: str = "classification"

    name: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", self.sizes("inputs"))
        outputs = self.sizes("outputs")
        if len(outputs) != 1 or hasattr(self.outputs, "__len__"):
            raise UsageError(f"model {self.name}: option 'outputs': {self.outputs!r} is not one number")
        object.__setattr__(self, "outputs", outputs[0])
        if self.task not in TASKS:
            raise UsageError(f"model {self.name}: task {self.task!r} is not one of {', '.join(TASKS)}")

    def layers(self) -> list[Layer | tuple[str, Layer]]:
        """Return the layers from the input on."""
        raise NotImplementedError

    @cached_property
    def net(self) -> Sequential:
        """The network."""
        return Sequential(self.layers(), input_shape=self.input_shape,
                          loss=SoftmaxCrossEntropy() if self.task == "classification" else MSE())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (self.inputs,) if isinstance(self.inputs, int) else self.inputs

    def tables(self, optimizer: Rule, *, staleness: int | None = 0, dtype: str = "float32", combine: str = "sum",
               nonfinite: str = "raise", master: bool = True) -> list[Table]:
        """See `Model`."""
        return self.net.tables(optimizer, staleness=staleness, dtype=dtype, combine=combine, nonfinite=nonfinite,
                               master=master)

    def loss_and_grads(self, params: Params, x: Array, y: Array) -> tuple[float, Grads]:
        """See `Model` and `mpips.nn.Sequential.loss_and_grads`."""
        return self.net.loss_and_grads(params, x, y)

    def loss_and_grads_by_layer(self, params: Params, x: Array, y: Array, done: Callable[[Grads], None]) -> float:
        """See `Layered`."""
        return self.net.loss_and_grads(params, x, y, done)[0]

    def predict(self, params: Params, x: Array) -> Array:
        """See `Model`."""
        return self.net.predict(params, x)

    def describe(self) -> dict[str, Any]:
        """See `Model`."""
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"name": self.name, **options}

    def sizes(self, option: str) -> tuple[int, ...]:
        """Return the option, a number or a list of numbers from 1, as a tuple, or raise with its name."""
        value: Any = getattr(self, option)
        many = value if isinstance(value, (list, tuple)) else (value,)
        sizes = tuple(n for n in (whole(one, 1) for one in many) if n is not None)
        if len(sizes) < len(many):
            raise UsageError(f"model {self.name}: option '{option}': {value!r} is not made of numbers from 1")
        return sizes
