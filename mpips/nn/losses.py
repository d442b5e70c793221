"""What a network is trained to make small: a mean over the batch, as a number and as a gradient.

The mean of an empty batch is taken as 0, with a gradient of no elements: a worker without samples still pushes zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import array_api_compat

from mpips.arrays import Array, namespace
from mpips.errors import UsageError


@runtime_checkable
class Loss(Protocol):
    """A scalar of (predictions, targets)."""

    def forward(self, prediction: Array, target: Array) -> tuple[Array, Any]:
        """Return (loss as a 0-d array, cache); UsageError if the target does not fit the prediction."""

    def backward(self, cache: Any) -> Array:
        """Return the gradient with respect to the prediction, in its shape and dtype."""


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """-log softmax(logits)[label], the mean over the batch; logits (n, k), labels (n,) of integers from 0 below k.

    The largest logit of a row is subtracted first, so nothing overflows; the gradient is (softmax - onehot) / n
    (Bishop, "Pattern Recognition and Machine Learning", 2006, eq. 4.108 and 4.109).
    """

    def forward(self, prediction: Array, target: Array) -> tuple[Array, tuple[Array, Array]]:
        """Return the loss, and (log softmax, which element of a row is the label's)."""
        xp = namespace(prediction, target)
        shape = tuple(prediction.shape)
        if len(shape) != 2 or tuple(target.shape) != shape[:1]:
            raise UsageError(f"labels: shape {tuple(target.shape)}, logits: shape {shape}; "
                             "expected (n,) and (n, classes)")
        hot = onehot(target, shape[1], like=prediction)
        shifted = prediction - xp.max(prediction, axis=1, keepdims=True)
        logs = shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
        picked = xp.where(hot, logs, xp.zeros_like(logs))  # not a product: -inf * 0 is NaN
        return -xp.sum(picked / max(shape[0], 1)), (logs, hot)

    def backward(self, cache: tuple[Array, Array]) -> Array:
        """Return (softmax - onehot) / n."""
        logs, hot = cache
        xp = namespace(logs)
        return (xp.exp(logs) - xp.astype(hot, logs.dtype)) / max(logs.shape[0], 1)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-log of the probability of what came, the mean over the batch; the logit z means 1 with sigmoid(z); targets are 0 to 1.

    max(z, 0) - z y + log(1 + exp(-|z|)) is the same as -y log(p) - (1 - y) log(1 - p) and overflows nowhere; the gradient is
    (p - y) / n. A target (n,) stands for (n, 1).
    """

    def forward(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """Return the loss, and p - y."""
        xp = namespace(prediction, target)
        y = xp.astype(_like(target, prediction), prediction.dtype, copy=False)
        each = xp.maximum(prediction, xp.zeros_like(prediction)) - prediction * y + xp.log1p(xp.exp(-xp.abs(prediction)))
        return xp.sum(each / max(prediction.size, 1)), 0.5 * (1.0 + xp.tanh(0.5 * prediction)) - y

    def backward(self, cache: Array) -> Array:
        """Return (p - y) / number of elements."""
        return cache / max(cache.size, 1)


@dataclass(frozen=True)
class MSE:
    """The mean of (prediction - target)^2 over batch and outputs; a target (n,) stands for (n, 1)."""

    def forward(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """Return the loss and the differences."""
        xp = namespace(prediction, target)
        apart = prediction - xp.astype(_like(target, prediction), prediction.dtype, copy=False)
        return xp.sum(apart * apart / max(apart.size, 1)), apart

    def backward(self, cache: Array) -> Array:
        """Return 2 (prediction - target) / number of elements."""
        return cache * (2.0 / max(cache.size, 1))


def _like(target: Array, prediction: Array) -> Array:
    """Return the target in the prediction's shape, or raise UsageError."""
    shape = tuple(prediction.shape)
    if shape != tuple(target.shape) and shape == (*target.shape, 1):
        target = namespace(target).reshape(target, shape)  # left to broadcasting, (n, 1) - (n,) would be (n, n)
    if shape != tuple(target.shape):
        raise UsageError(f"targets: shape {tuple(target.shape)}, expected {shape} like the predictions")
    return target


def onehot(labels: Array, classes: int, *, like: Array) -> Array:
    """Return a boolean array (n, classes) that is true at each row's label, on the device of `like`.

    Raises:
        UsageError: labels are not integers, or not all in 0 to classes - 1 (on a device this waits for it).
    """
    xp = namespace(labels)
    if not xp.isdtype(labels.dtype, "integral"):
        raise UsageError(f"labels: dtype {labels.dtype}, expected integers")
    labels = xp.astype(labels, xp.int64, copy=False)  # 1-byte labels cannot be compared with 300 classes
    if labels.shape[0] and bool(xp.any((labels < 0) | (labels >= classes))):
        raise UsageError(f"labels: from {int(xp.min(labels))} to {int(xp.max(labels))}, expected 0 to {classes - 1}")
    numbers = xp.arange(classes, dtype=xp.int64, device=array_api_compat.device(like))
    return labels[:, None] == numbers[None, :]
