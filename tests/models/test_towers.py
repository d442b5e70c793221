"""The towers' gradients are slopes."""

import numpy as np
import pytest

from mpips import nn, optim
from mpips.errors import UsageError
from mpips.models.towers import Towers
from mpips.nn import Bags


def test_gradients_are_slopes():
    model = Towers(dim=3, out=2, scale=4.0)
    draw = np.random.default_rng(0)
    left, right = Bags(np.array([5, 1, 5, 9, -2]), np.array([2, 1, 2])), Bags(np.array([1, 2, 3, 3]), np.array([1, 2, 1]))
    params = nn.initial(model.tables(optim.SGD(lr=0.1)))

    def f(p):
        loss, grads, a, b = model.loss_and_grads(p, (left, p["a"]), (right, p["b"]))
        return loss, {**grads, "a": a, "b": b}

    nn.gradcheck(f, {**params, "a": draw.standard_normal((4, 3)), "b": draw.standard_normal((3, 3))}, tol=1e-5)


def test_vectors_have_length_one_also_of_no_features_at_all():
    model = Towers(dim=3, out=2)
    matrix = nn.initial(model.tables(optim.SGD(lr=0.1)))["left"]
    rows = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    u = model.vectors(matrix, (Bags(np.array([4, 8]), np.array([2, 0])), rows))
    np.testing.assert_allclose((u * u).sum(1), [1, 0], atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="dim 0"):
        Towers(dim=0, out=2)
