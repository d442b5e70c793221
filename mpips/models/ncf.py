"""Neural collaborative filtering (He et al., WWW 2017): NeuMF, a factorisation (GMF) and a tower of layers (MLP) side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mpips.arrays import Array, namespace
from mpips.errors import UsageError
from mpips.models.skipgram import sigmoid, softplus
from mpips.nn import Dense, ReLU, Sequential
from mpips.nn.layer import Grads, Layer, Params
from mpips.table import Dense as Table
from mpips.table import Rule


@dataclass(frozen=True)
class NeuMF:
    """score = h . [user' * item', tower(user'', item'')]: one row of a user holds user' and user'', likewise an item's.

    Args:
        factors: numbers in user' and item' each.
        hidden: units of the tower's layers; user'' and item'' have half of the first each.

    >>> NeuMF(8, (32, 16)).dim
    24
    """

    factors: int = 16
    hidden: Sequence[int] = (32, 16)

    def __post_init__(self) -> None:
        if self.factors < 1 or not self.hidden or min(self.hidden) < 1 or self.hidden[0] % 2:
            raise UsageError(f"NeuMF: factors {self.factors}, hidden {tuple(self.hidden)}: not from 1, or the first hidden is odd")

    @property
    def dim(self) -> int:
        """Numbers in a row of a user or of an item."""
        return self.factors + self.hidden[0] // 2

    @cached_property
    def tower(self) -> Sequential:
        """The layers over [user'', item'']."""
        layers: list[tuple[str, Layer]] = []
        for number, units in enumerate(self.hidden):
            layers += [(f"tower{number}", Dense(units)), (f"relu{number}", ReLU())]
        return Sequential(layers, input_shape=self.hidden[0])

    @cached_property
    def out(self) -> Sequential:
        """The last layer, h; no bias, for an item's popularity is in its row."""
        return Sequential([("out", Dense(1))], input_shape=self.factors + self.hidden[-1])

    def tables(self, rule: Rule, *, staleness: int | None = 0, combine: str = "sum") -> list[Table]:
        """Return the dense tables: those of the tower and of h."""
        return [*self.tower.tables(rule, staleness=staleness, combine=combine),
                *self.out.tables(rule, staleness=staleness, combine=combine)]

    def loss_and_grads(self, params: Params, user: Array, item: Array, label: Array) -> tuple[float, Grads]:
        """Return the log loss summed over the samples, and its gradients: "user", "item" and the dense tables'.

        Args:
            params: the dense tables by name.
            user, item: rows of the samples, (n, dim).
            label: 1 where the user has the item, 0 where not, (n,).
        """
        xp, f = namespace(user, item), self.factors
        score, layers, last = self._forward(params, user, item)
        d_score = (sigmoid(score) - label)[:, None]
        d_last, grads = self.out.backward(params, last, d_score)
        assert d_last is not None
        d_both, more = self.tower.backward(params, layers, d_last[:, f:])
        assert d_both is not None
        d_gmf, half = d_last[:, :f], self.dim - f
        return float(xp.sum(softplus(score) - label * score)), {
            "user": xp.concat([d_gmf * item[:, :f], d_both[:, :half]], axis=1),
            "item": xp.concat([d_gmf * user[:, :f], d_both[:, half:]], axis=1),
            **more, **grads,
        }

    def score(self, params: Params, user: Array, item: Array) -> Array:
        """Return the scores of pairs, (n,); above 0 is likelier than not."""
        return self._forward(params, user, item)[0]

    def score_all(self, params: Params, user: Array, item: Array, *, at_once: int = 1 << 17) -> Array:
        """Return the scores of every user with every item, (users, items), about `at_once` pairs at a time."""
        xp, n = namespace(user, item), item.shape[0]
        step = max(1, at_once // max(1, n))
        parts = [self.score(params, xp.repeat(some, n, axis=0), xp.tile(item, (some.shape[0], 1)))
                 for some in (user[at : at + step] for at in range(0, user.shape[0], step))]
        return xp.reshape(xp.concat(parts), (user.shape[0], n))

    def _forward(self, params: Params, user: Array, item: Array) -> tuple[Array, list[Any], list[Any]]:
        xp, f = namespace(user, item), self.factors
        high, layers = self.tower.forward(params, xp.concat([user[:, f:], item[:, f:]], axis=1))
        score, last = self.out.forward(params, xp.concat([user[:, :f] * item[:, :f], high], axis=1))
        return score[:, 0], layers, last
