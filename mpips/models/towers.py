"""Two towers: whatever is looked for and whatever may be found, each as one vector; their product says how well they fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips import init
from mpips.errors import UsageError
from mpips.nn import SoftmaxCrossEntropy
from mpips.nn.bags import Bags
from mpips.table import Dense as Table
from mpips.table import Rule

Array = np.ndarray[Any, np.dtype[Any]]
Side = tuple[Bags, Array]  # features of some samples, and the rows that were pulled for them


class Towers:
    """Bags of features to vectors of length 1: the mean of their embeddings, through a matrix of each tower's own.

    A batch is of n pairs that belong together; sample k of the left one shall find sample k of the right one among all n
    ("in-batch softmax": Yi et al., "Sampling-bias-corrected neural modeling", RecSys 2019, without the correction).

    Args:
        dim: numbers of a feature's embedding.
        out: numbers of a sample's vector.
        scale: what products, which lie in -1 to 1, are multiplied by before the softmax.

    >>> from mpips import optim
    >>> [(t.name, t.shape) for t in Towers(dim=32, out=16).tables(optim.SGD(lr=0.1))]
    [('left', (32, 16)), ('right', (32, 16))]
    """

    def __init__(self, *, dim: int, out: int, scale: float = 10.0) -> None:
        if min(dim, out) < 1:
            raise UsageError(f"Towers: dim {dim!r} and out {out!r} are numbers from 1")
        self.dim, self.out, self.scale = dim, out, scale
        self.loss = SoftmaxCrossEntropy()

    def tables(self, optimizer: Rule, *, staleness: int | None = 0, combine: str = "sum") -> list[Table]:
        """Return the tables of the two matrices."""
        return [Table(name, (self.dim, self.out), optimizer, init.xavier(), staleness, combine=combine)
                for name in ("left", "right")]

    def vectors(self, matrix: Array, side: Side) -> Array:
        """Return the vectors of samples, (n, out), by one of the two matrices."""
        return self._forward(matrix, side)[0]

    def loss_and_grads(self, params: dict[str, Array], left: Side, right: Side) -> tuple[float, dict[str, Array], Array, Array]:
        """Return the mean loss of a batch, the gradients of the matrices by name, and those by the left and the right rows."""
        u, u_cache = self._forward(params["left"], left)
        v, v_cache = self._forward(params["right"], right)
        loss, cache = self.loss.forward(self.scale * (u @ v.T), np.arange(len(u)))
        d = self.scale * self.loss.backward(cache)
        d_left, left_rows = self._backward(params["left"], left, u, u_cache, d @ v)
        d_right, right_rows = self._backward(params["right"], right, v, v_cache, d.T @ u)
        return float(loss), {"left": d_left, "right": d_right}, left_rows, right_rows

    def _forward(self, matrix: Array, side: Side) -> tuple[Array, tuple[Array, Array]]:
        mean = side[0].mean(side[1])
        y = mean @ matrix
        length = np.sqrt((y * y).sum(1, keepdims=True) + y.dtype.type(1e-12))
        return y / length, (mean, length)

    @staticmethod
    def _backward(matrix: Array, side: Side, u: Array, cache: tuple[Array, Array], du: Array) -> tuple[Array, Array]:
        mean, length = cache
        dy = (du - u * (u * du).sum(1, keepdims=True)) / length  # what is along u changes its length alone
        return mean.T @ dy, side[0].mean_back(dy @ matrix.T)
