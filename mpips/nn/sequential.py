"""Layers in a row: the tables that hold their parameters, and loss and gradients of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mpips.arrays import Array, namespace
from mpips.errors import UsageError
from mpips.given import whole
from mpips.layout import grid
from mpips.nn.layer import Grads, Layer, Param, Params, Shape, parameter
from mpips.nn.losses import Loss, SoftmaxCrossEntropy
from mpips.table import Dense as Table
from mpips.table import Rule


class Sequential:
    """One layer after the other; it is a layer itself.

    Args:
        layers: layers, or (name, layer); one without a name has its number.
        input_shape: of one sample; needed for `tables` and checked by `loss_and_grads` and `predict`.
        loss: what `loss_and_grads` computes, cross-entropy of a classifier unless given.

    A parameter is called by its layer's name, a dot, and its own name. Whatever the tables' dtype, the arithmetic is
    float32, or float64 from the first parameter on that is one: inputs and 2-byte parameters are widened first, and each
    gradient has its parameter's dtype.

    >>> from mpips import optim
    >>> from mpips.nn import Dense, ReLU
    >>> net = Sequential([Dense(32), ReLU(), ("out", Dense(10))], input_shape=(64,))
    >>> [(t.name, t.shape) for t in net.tables(optim.SGD(lr=0.1))]
    [('0.w', (64, 32)), ('0.b', (32,)), ('out.w', (32, 10)), ('out.b', (10,))]
    """

    def __init__(self, layers: Sequence[Layer | tuple[str, Layer]], *, input_shape: Shape | int | None = None,
                 loss: Loss | None = None) -> None:
        self.layers = tuple(_named(layers))
        given: Any = input_shape if whole(input_shape) is None else (whole(input_shape),)
        self.input_shape: Shape | None = None if given is None else tuple(given)
        self.loss: Loss = SoftmaxCrossEntropy() if loss is None else loss
        self._expected = None if self.input_shape is None else self.shapes(self.input_shape)

    # As a layer.

    def shapes(self, input_shape: Shape) -> dict[str, Param]:
        """Return all parameters in forward order; UsageError names the layer that cannot take what comes to it."""
        out: dict[str, Param] = {}
        for name, layer in self.layers:
            try:
                inner = layer.shapes(input_shape)
                input_shape = layer.output_shape(input_shape)
            except UsageError as error:
                raise UsageError(f"layer '{name}': {error}") from None
            out |= {f"{name}.{key}": param for key, param in inner.items()}
        return out

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of one sample's output."""
        for _, layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, list[Any]]:
        """Return the last layer's output and each layer's cache."""
        caches = []
        for (_, layer), own in zip(self.layers, self._split(params), strict=True):
            x, cache = layer.forward(_taken(params, own), x)
            caches.append(cache)
        return x, caches

    def backward(self, params: Params, cache: list[Any], dy: Array, *, need_dx: bool = True,
                 done: Callable[[Grads], None] | None = None) -> tuple[Array | None, Grads]:
        """Return dx and the gradients of all parameters; without `need_dx` it ends at the first layer that has any.

        `done` is called with each layer's gradients as soon as they are computed, the last layer's first.
        """
        split = self._split(params)
        last = 0 if need_dx else next((k for k, own in enumerate(split) if own), len(split))
        grads: Grads = {}
        d: Array | None = dy
        for k in range(len(split) - 1, last - 1, -1):
            name, layer = self.layers[k]
            d, inner = layer.backward(_taken(params, split[k]), cache[k], d, need_dx=need_dx or k > last)
            found = {f"{name}.{key}": g for key, g in inner.items()}
            grads |= found
            if done and found:
                done(found)
        return (d if need_dx else None), {name: grads[name] for name in params if name in grads}

    # As a model.

    def tables(self, optimizer: Rule, *, staleness: int | None = 0, dtype: str = "float32", combine: str = "sum",
               nonfinite: str = "raise", master: bool = True) -> list[Table]:
        """Return one table for each parameter, in forward order; the options are those of `mpips.Dense`."""
        return [Table(name, param.shape, optimizer, param.init, staleness, dtype, combine, nonfinite, master)
                for name, param in self._need().items()]

    def loss_and_grads(self, params: Params, x: Array, y: Array,
                       done: Callable[[Grads], None] | None = None) -> tuple[float, Grads]:
        """Return the loss of a batch and its gradient by every parameter, in the parameter's dtype.

        Args:
            params: by name, as pulled; other names are left alone. Each is taken when its layer's turn comes.
            x: (n, *input_shape), any real dtype; n may be 0.
            y: targets, as the loss takes them.
            done: called with each layer's gradients as soon as they are computed, the last layer's first.

        Raises:
            UsageError: a parameter is missing or of a wrong shape (it is named), `x` or `y` does not fit, or host and
                device arrays are mixed.
        """
        ready, x = self._ready(params, x)
        out, caches = self.forward(ready, x)
        value, cache = self.loss.forward(out, y)
        xp, grads = namespace(x), {}

        def take(some: Grads) -> None:
            some = {name: xp.astype(g, params[name].dtype, copy=False) for name, g in some.items()}
            grads.update(some)
            if done:
                done(some)

        self.backward(ready, caches, self.loss.backward(cache), need_dx=False, done=take)
        return float(value), {name: grads[name] for name in ready if name in grads}  # last, for on a device it waits

    def predict(self, params: Params, x: Array) -> Array:
        """Return the output for a batch: logits of a classifier, values of a regression."""
        return self.forward(*self._ready(params, x))[0]

    def _need(self) -> dict[str, Param]:
        """Return the parameters, or raise if the input's shape was not given."""
        if self._expected is None:
            raise UsageError("Sequential: give input_shape=(...), the shape of one sample")
        return self._expected

    def _split(self, params: Params) -> list[dict[str, str]]:
        """Return the names of each layer's parameters by its own names for them."""
        parts: dict[str, dict[str, str]] = {name: {} for name, _ in self.layers}
        for full in params:
            name, _, key = full.partition(".")
            if name in parts and key:
                parts[name][key] = full
        return list(parts.values())

    def _ready(self, params: Params, x: Array) -> tuple[Params, Array]:
        """Return the parameters and `x` as the arithmetic takes them, after checking names and the input's shape."""
        need = self._need()
        for name in need:
            if name not in params:
                raise UsageError(f"parameter '{name}' is missing; there are {', '.join(sorted(params)) or 'none'}")
        if tuple(x.shape[1:]) != self.input_shape or len(x.shape) == 0:
            raise UsageError(f"input: shape {tuple(x.shape)}, expected a batch of shape {self.input_shape}")
        xp, ready = namespace(x), _Ready(params, need, x)
        deep = next((ready[name] for name in need), x).dtype == xp.float64
        return ready, xp.astype(x, xp.float64 if deep else xp.float32, copy=False)


class _Ready(Mapping[str, Array]):
    """Parameters, 2-byte ones as float32; each is taken and checked when it is asked for first."""

    def __init__(self, params: Params, need: dict[str, Param], x: Array) -> None:
        self._params = params
        self._need = need
        self._x = x
        self._found: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._found:
            value = parameter(self._params, name, self._need[name].shape)
            xp = namespace(self._x, value)
            self._found[name] = value if value.dtype == xp.float64 else xp.astype(value, xp.float32, copy=False)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._need)

    def __len__(self) -> int:
        return len(self._need)


def _taken(params: Params, names: dict[str, str]) -> dict[str, Array]:
    """Return the parameters with these names, by other ones."""
    return {key: params[full] for key, full in names.items()}


def initial(tables: Sequence[Table], seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the values that `mpips.run(..., seed=seed)` starts the tables with, by name, as NumPy arrays."""
    out = {}
    for table in tables:
        values = np.empty(table.size, table.np_dtype)
        for index, (start, stop) in enumerate(grid(table.size, table.np_dtype.itemsize)):
            values[start:stop] = table.init.block(table.name, table.shape, table.np_dtype, seed=seed, index=index,
                                                  start=start, stop=stop)
        out[table.name] = values.reshape(table.shape)
    return out


def _named(layers: Sequence[Layer | tuple[str, Layer]]) -> Iterator[tuple[str, Layer]]:
    """Yield (name, layer), checked."""
    seen: set[str] = set()
    for number, item in enumerate(layers):
        name, layer = item if isinstance(item, tuple) else (str(number), item)
        if not isinstance(name, str) or not name or "." in name or "/" in name or name in seen:
            raise UsageError(f"layer {number}: {name!r} is not a name of its own, without '.' and '/'")
        if isinstance(layer, type) or not isinstance(layer, Layer):
            raise UsageError(f"layer '{name}': {layer!r} is not a layer of mpips.nn, such as Dense(10)")
        seen.add(name)
        yield name, layer
