"""DLRM: numbers through one network, categories through embeddings, and the products of all of them through another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpips import init
from mpips.arrays import Array, namespace
from mpips.errors import UsageError
from mpips.nn import BinaryCrossEntropy, Dense, ReLU, Sequential
from mpips.nn.layer import Grads, Layer, Params
from mpips.table import Dense as Table
from mpips.table import Rule


class DLRM:
    """The model of Naumov et al., "Deep learning recommendation model" (arXiv:1906.00091), with a wide part if wanted.

        b = bottom(x)                       the numbers as one more embedding
        z = (t_i . t_j), i < j              t = b and the categories' embeddings
        logit = top(b, z) + sum(wide)       wide: one weight for each category (Cheng et al., arXiv:1606.07792)

    The embeddings come from tables of rows and are handed in; `tables` are those of the two networks.

    Args:
        inputs: numbers of a sample.
        fields: categories of a sample.
        dim: numbers of an embedding.
        bottom, top: sizes of the networks' hidden layers.

    >>> from mpips import nn, optim
    >>> model = DLRM(inputs=13, fields=26, dim=16)
    >>> params = nn.initial(model.tables(optim.SGD(lr=0.1)))
    >>> model.logits(params, np.zeros((5, 13), np.float32), np.zeros((5, 26, 16), np.float32)).shape
    (5,)
    """

    def __init__(self, *, inputs: int, fields: int, dim: int, bottom: Sequence[int] = (64,), top: Sequence[int] = (64, 32)) -> None:
        if min(inputs, fields, dim) < 1:
            raise UsageError(f"DLRM: inputs {inputs!r}, fields {fields!r} and dim {dim!r} are numbers from 1")
        self.fields, self.dim = fields, dim
        n = fields + 1
        i, j = np.triu_indices(n, 1)
        self._pairs = i * n + j
        self._place = np.full((n, n), len(i))  # where each product stands in z; behind its end those that are left out
        self._place[i, j] = self._place[j, i] = np.arange(len(i))
        self.bottom = Sequential(_network([*bottom, dim], "bottom"), input_shape=inputs)
        self.top = Sequential([*_network(top, "top"), ("out", Dense(1))], input_shape=dim + len(i))
        self.loss = BinaryCrossEntropy()

    def tables(self, optimizer: Rule, *, staleness: int | None = 0, combine: str = "sum") -> list[Table]:
        """Return the tables of both networks."""
        return [table for net in (self.bottom, self.top) for table in net.tables(optimizer, staleness=staleness, combine=combine)]

    def logits(self, params: Params, x: Array, v: Array, wide: Array | None = None) -> Array:
        """Return the log odds of a batch, (n,): `x` is (n, inputs), `v` (n, fields, dim), `wide` (n, fields)."""
        return self._forward(params, x, v, wide)[0]

    def loss_and_grads(self, params: Params, x: Array, v: Array, y: Array,
                       wide: Array | None = None) -> tuple[float, Grads, Array, Array | None]:
        """Return the mean log loss, the gradients of the networks by name, and those by `v` and by `wide`."""
        xp = namespace(x, v)
        out, (t, bottom, top) = self._forward(params, x, v, wide)
        loss, cache = self.loss.forward(out, y)
        d = self.loss.backward(cache)
        dh, grads = self.top.backward(params, top, d[:, None])
        assert dh is not None
        dz = xp.concat([dh[:, self.dim :], xp.zeros_like(dh[:, :1])], axis=1)
        place = xp.asarray(self._place.reshape(-1))
        dt = xp.reshape(xp.take(dz, place, axis=1), (-1, *self._place.shape)) @ t  # each product has two factors
        _, more = self.bottom.backward(params, bottom, dt[:, 0, :] + dh[:, : self.dim], need_dx=False)
        return float(loss), {**more, **grads}, dt[:, 1:, :], None if wide is None else xp.zeros_like(wide) + d[:, None]

    def _forward(self, params: Params, x: Array, v: Array, wide: Array | None) -> tuple[Array, tuple[Array, Any, Any]]:
        if tuple(v.shape) != (x.shape[0], self.fields, self.dim):
            raise UsageError(f"DLRM: embeddings of shape {tuple(v.shape)}, expected {(x.shape[0], self.fields, self.dim)}")
        xp = namespace(x, v)
        b, bottom = self.bottom.forward(params, x)
        t = xp.concat([b[:, None, :], v], axis=1)
        products = xp.reshape(t @ xp.matrix_transpose(t), (-1, self._place.size))
        h = xp.concat([b, xp.take(products, xp.asarray(self._pairs), axis=1)], axis=1)
        out, top = self.top.forward(params, h)
        logit = out[:, 0]
        return (logit if wide is None else logit + xp.sum(wide, axis=1)), (t, bottom, top)


def _network(sizes: Sequence[int], name: str) -> list[Layer | tuple[str, Layer]]:
    """Return dense layers with a ReLU after each."""
    out: list[Layer | tuple[str, Layer]] = []
    for k, units in enumerate(sizes):
        out += [(f"{name}{k}", Dense(units, init=init.he())), (f"{name}{k}-relu", ReLU())]
    return out
