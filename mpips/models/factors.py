"""Matrix factorisation of implicit feedback: the score of a user for an item is user . item + bias of the item.

Two losses that rank items: BPR (Rendle et al., "Bayesian personalized ranking", UAI 2009) and the sampled softmax (Bengio and
Senecal, IEEE TNN 19, 2008). Both are summed over the samples of a batch.
"""

from __future__ import annotations

from mpips.arrays import Array, namespace
from mpips.models.skipgram import sigmoid, softplus
from mpips.nn.layer import Grads


def bpr(user: Array, item: Array, bias: Array, other: Array, other_bias: Array) -> tuple[float, Grads]:
    """Return the sum of the mean over k of -log s(score(item) - score(other k)), and the gradients by argument.

    Args:
        user, item, bias: rows of the samples, (n, dim), (n, dim) and (n, 1).
        other, other_bias: rows of items that the user does not have, (n, k, dim) and (n, k, 1), k from 1.
    """
    xp = namespace(user, item, other)
    k = other.shape[1]
    ahead = (xp.sum(user * item, axis=1) + bias[:, 0])[:, None] - (other @ user[:, :, None])[..., 0] - other_bias[..., 0]
    d = sigmoid(-ahead) / -k
    total = xp.sum(d, axis=1)[:, None]
    return float(xp.sum(softplus(-ahead))) / k, {
        "user": total * item - (d[:, None, :] @ other)[:, 0, :],
        "item": total * user,
        "bias": total,
        "other": -d[..., None] * user[:, None, :],
        "other_bias": -d[..., None],
    }


def sampled_softmax(user: Array, item: Array, bias: Array, other: Array, other_bias: Array, *, chance: Array, other_chance: Array,
                    wrong: Array) -> tuple[float, Grads]:
    """Return the sum of -log softmax(item among itself and the others), and the gradients by argument.

    Scores are lowered by the logarithm of how often an item is drawn, so that in the limit it is the softmax over all items.

    Args:
        user, item, bias: rows of the samples, (n, dim), (n, dim) and (n, 1).
        other, other_bias: rows of items that were drawn for all samples together, (k, dim) and (k, 1).
        chance, other_chance: how often an item comes up in the k that are drawn, (n,) and (k,), above 0.
        wrong: (n, k), where the user has an item that was drawn: it stands against nothing then.
    """
    xp = namespace(user, item, other)
    score = xp.sum(user * item, axis=1) + bias[:, 0] - xp.log(chance)
    rest = user @ other.T + other_bias[:, 0] - xp.log(other_chance)
    rest = xp.where(wrong, xp.asarray(-xp.inf, dtype=rest.dtype), rest)
    logits = xp.concat([score[:, None], rest], axis=1)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    logs = shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
    share = xp.exp(logs)
    mine, theirs = share[:, :1] - 1, share[:, 1:]
    return -float(xp.sum(logs[:, 0])), {
        "user": mine * item + theirs @ other,
        "item": mine * user,
        "bias": mine,
        "other": theirs.T @ user,
        "other_bias": xp.sum(theirs, axis=0)[:, None],
    }
