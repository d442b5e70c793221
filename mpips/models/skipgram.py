"""Skip-gram with negative sampling (Mikolov et al., "Distributed representations of words and phrases", NIPS 2013, eq. 4).

The noise words of a batch are shared by all of its pairs (Ji et al., "Parallelizing word2vec in shared and distributed memory",
2016): the same loss in the mean, by matrix products, and far fewer rows to pull.
"""

from __future__ import annotations

from mpips.arrays import Array, namespace
from mpips.nn.layer import Grads


def skipgram(center: Array, context: Array, noise: Array, negatives: float) -> tuple[float, Grads]:
    """Return the loss summed over the pairs of a batch, and its gradients "center", "context" and "noise".

        loss = sum over pairs of -log s(center . context) - negatives * mean over the noise of log s(-center . noise)

    Args:
        center, context: rows of the pairs, (n, dim); n may be 0.
        noise: rows of the noise words, (m, dim) with m from 1.
        negatives: how many noise words stand against one pair.
    """
    xp = namespace(center, context, noise)
    score, other = xp.sum(center * context, axis=1), center @ noise.T
    weight = negatives / noise.shape[0]
    miss, false = softplus(-score), softplus(other)
    by_score = -sigmoid(-score)
    by_other = weight * sigmoid(other)
    loss = float(xp.sum(miss) + weight * xp.sum(false))
    return loss, {
        "center": by_score[:, None] * context + by_other @ noise,
        "context": by_score[:, None] * center,
        "noise": by_other.T @ center,
    }


def softplus(x: Array) -> Array:
    """Return log(1 + e^x), which is -log s(-x), without overflow."""
    xp = namespace(x)
    return xp.log1p(xp.exp(-xp.abs(x))) + xp.maximum(x, xp.zeros_like(x))  # array-api-compat's `clip` waits for a device


def sigmoid(x: Array) -> Array:
    """Return s(x) = 1 / (1 + e^-x) without overflow."""
    xp = namespace(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))
