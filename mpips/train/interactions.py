"""Who has what: users and items of implicit feedback, what is held out, and the two baselines that a model has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.nn.ranking import recall_at
from mpips.train.data import permutation

Array = np.ndarray[Any, np.dtype[Any]]
Score = Callable[[Array], Array]  # users (n,) to scores (n, items)

HOLD = (1 << 64) - 3  # in the place of an epoch's number: what is held out
DRAW = (1 << 64) - 4  # and: the vectors that the randomized SVD begins with


@dataclass(frozen=True)
class Interactions:
    """Pairs of a user and an item, (n,) int64 each, every pair once and in ascending order, and what they are called."""

    users: Array
    items: Array
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]

    @classmethod
    def of(cls, users: Array, items: Array, where: str, *, per_user: int = 1, per_item: int = 1) -> Interactions:
        """Number users and items, given by their names or ids, and drop those with too little; UsageError if nothing is left.

        First the items that fewer than `per_item` users have, then the users that have fewer than `per_user` items of those.
        """
        user_names, users = np.unique(users, return_inverse=True)
        item_names, items = np.unique(items, return_inverse=True)
        both = np.unique(users * len(item_names) + items)
        users, items = both // max(1, len(item_names)), both % max(1, len(item_names))
        for per, of_items in ((per_item, True), (per_user, False)):
            many = np.bincount(items if of_items else users)
            keep = many[items if of_items else users] >= per
            users, items = users[keep], items[keep]
        if not users.size:
            raise UsageError(f"{where}: no user with {per_user} items that {per_item} users have")
        some, users = np.unique(users, return_inverse=True)
        others, items = np.unique(items, return_inverse=True)
        return cls(users, items, tuple(user_names[some].astype(str).tolist()), tuple(item_names[others].astype(str).tolist()))

    @property
    def shape(self) -> tuple[int, int]:
        """(users, items)."""
        return len(self.user_names), len(self.item_names)

    @cached_property
    def counts(self) -> Array:
        """How many users have each item."""
        return np.bincount(self.items, minlength=self.shape[1])

    @cached_property
    def _keys(self) -> Array:
        return self.users * self.shape[1] + self.items

    def have(self, users: Array, items: Array) -> Array:
        """Return which pairs are among these; the two broadcast against each other."""
        wanted = users * self.shape[1] + items
        found = np.minimum(np.searchsorted(self._keys, wanted), max(0, len(self._keys) - 1))
        return self._keys[found] == wanted if self._keys.size else np.zeros(np.shape(wanted), bool)

    def split(self, fraction: float, seed: int = 0) -> tuple[Interactions, Interactions]:
        """Return (what to train on, what is held out): of every user that fraction of the items, rounded down."""
        order = permutation(len(self.users), seed, HOLD)
        order = order[np.argsort(self.users[order], kind="stable")]  # by user, the items of one in random order
        many = np.bincount(self.users, minlength=self.shape[0])
        place = np.arange(len(order)) - np.repeat(np.cumsum(many) - many, many)
        held = np.zeros(len(order), bool)
        held[order] = place < np.repeat((many * fraction).astype(np.int64), many)
        one, other = (Interactions(self.users[part], self.items[part], self.user_names, self.item_names) for part in (~held, held))
        return one, other

    def dense(self, users: Array) -> Array:
        """Return which items some users have, booleans (n, items)."""
        return self.have(users[:, None], np.arange(self.shape[1]))


def recall(score: Score, train: Interactions, held: Interactions, k: int = 20, batch: int = 256) -> float:
    """Return the mean of `recall_at` over the users that have held-out items."""
    parts = []
    for start in range(0, train.shape[0], batch):
        users = np.arange(start, min(start + batch, train.shape[0]))
        parts.append(recall_at(score(users), train.dense(users), held.dense(users), k))
    return float(np.nanmean(np.concatenate(parts)))


def popularity(train: Interactions) -> Score:
    """Return the baseline that offers everybody what most have."""
    return lambda users: np.broadcast_to(train.counts.astype(float), (len(users), train.shape[1]))


def svd(train: Interactions, rank: int, *, engine: str = "auto") -> Score:
    """Return the scores of the truncated SVD of the matrix of zeros and ones (PureSVD; Cremonesi et al., RecSys 2010).

    Args:
        rank: from 1, below the numbers of users and items.
        engine: "scipy" (`scipy.sparse.linalg.svds`), "numpy" (see `randomized`), or "auto": scipy if it is there.
    """
    if not 1 <= rank < min(train.shape):
        raise UsageError(f"svd: rank {rank} is not from 1 to {min(train.shape) - 1}")
    right = _scipy(train, rank) if engine != "numpy" else None
    if right is None and engine == "scipy":
        raise UsageError("svd: engine 'scipy' needs SciPy")
    basis = randomized(train, rank) if right is None else right
    return lambda users: (train.dense(users) @ basis.T) @ basis


def randomized(train: Interactions, rank: int, *, more: int = 10, rounds: int = 4) -> Array:
    """Return the right singular vectors, (rank, items), by a randomized SVD (Halko et al., SIAM Review 53, 2011, alg. 4.4 and 5.1).

    The matrix is never made dense: its product with a thin one is a sum of the rows of that one.
    """
    draw = np.random.Generator(np.random.Philox(key=np.array([0, DRAW], np.uint64)))
    width = min(rank + more, *train.shape)
    q = draw.standard_normal((train.shape[1], width))
    for _ in range(rounds):
        q, _ = np.linalg.qr(_times(train, q))
        q, _ = np.linalg.qr(_times(train, q, transposed=True))
    q, _ = np.linalg.qr(_times(train, q))
    found: Array = np.linalg.svd(_times(train, q, transposed=True).T, full_matrices=False)[2][:rank]
    return found


def _times(train: Interactions, thin: Array, *, transposed: bool = False) -> Array:
    """Return the matrix (or its transpose) times `thin`."""
    to, of = (train.items, train.users) if transposed else (train.users, train.items)
    size = train.shape[1] if transposed else train.shape[0]
    flat = (to[:, None] * thin.shape[1] + np.arange(thin.shape[1])).reshape(-1)
    return np.bincount(flat, thin[of].reshape(-1), size * thin.shape[1]).reshape(size, -1)


def _scipy(train: Interactions, rank: int) -> Array | None:
    """Return the right singular vectors by SciPy, or None without it."""
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.linalg import svds
    except ImportError:
        return None
    matrix = csr_array((np.ones(len(train.users)), (train.users, train.items)), shape=train.shape)
    right: Array = svds(matrix, k=rank, return_singular_vectors="vh", random_state=0)[2]
    return right
