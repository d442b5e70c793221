"""Skip-gram, factorisation and NeuMF: gradients by finite differences, and what the losses are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import nn, optim
from mpips.errors import UsageError
from mpips.models.factors import bpr, sampled_softmax
from mpips.models.ncf import NeuMF
from mpips.models.skipgram import sigmoid, skipgram, softplus
from mpips.nn.sequential import initial

DRAW = np.random.default_rng(7)


def rows(*shape: int) -> Any:
    return DRAW.standard_normal(shape)


def test_skipgram() -> None:
    params = {"center": rows(6, 4), "context": rows(6, 4), "noise": rows(3, 4)}
    nn.gradcheck(lambda p: skipgram(**p, negatives=5), params)
    loss, _ = skipgram(**params, negatives=5)
    s = 1 / (1 + np.exp(-np.sum(params["center"] * params["context"], axis=1)))
    t = 1 / (1 + np.exp(params["center"] @ params["noise"].T))
    assert loss == pytest.approx(-np.log(s).sum() - 5 * np.log(t).mean(axis=1).sum())


def test_nothing_overflows_and_an_empty_batch_is_one() -> None:
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(x), [0, 0.26894143, 0.5, 0.7310586, 1], rtol=1e-6)
    np.testing.assert_allclose(softplus(x), [0, 0.31326166, 0.6931472, 1.3132617, 1e4], rtol=1e-6)
    assert sigmoid(x).dtype == softplus(x).dtype == np.float32
    none = np.zeros((0, 4), np.float32)
    loss, grads = skipgram(none, none, np.ones((2, 4), np.float32), 5)
    assert loss == 0
    assert {name: g.shape for name, g in grads.items()} == {"center": (0, 4), "context": (0, 4), "noise": (2, 4)}
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}


def test_bpr() -> None:
    params = {"user": rows(5, 4), "item": rows(5, 4), "bias": rows(5, 1), "other": rows(5, 3, 4), "other_bias": rows(5, 3, 1)}
    nn.gradcheck(lambda p: bpr(**p), params)
    loss, _ = bpr(**params)
    score = np.sum(params["user"] * params["item"], axis=1) + params["bias"][:, 0]
    rest = np.einsum("nd,nkd->nk", params["user"], params["other"]) + params["other_bias"][..., 0]
    assert loss == pytest.approx(np.log1p(np.exp(rest - score[:, None])).mean(axis=1).sum())


def test_sampled_softmax() -> None:
    params = {"user": rows(5, 4), "item": rows(5, 4), "bias": rows(5, 1), "other": rows(3, 4), "other_bias": rows(3, 1)}
    wrong = np.arange(15).reshape(5, 3) % 4 == 0
    more = {"chance": np.full(5, 0.3), "other_chance": np.array([0.1, 0.5, 2.0]), "wrong": wrong}
    nn.gradcheck(lambda p: sampled_softmax(**p, **more), params)


def test_sampled_softmax_over_all_items_is_the_softmax() -> None:
    user, items, bias = rows(5, 4), rows(6, 4), rows(6, 1)
    mine = np.arange(5)
    loss, grads = sampled_softmax(user, items[mine], bias[mine], items, bias, chance=np.ones(5), other_chance=np.ones(6),
                                  wrong=mine[:, None] == np.arange(6))
    logits = user @ items.T + bias[:, 0]
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(share[mine, mine]).sum())
    np.testing.assert_allclose(grads["user"], (share - np.eye(5, 6)) @ items)


def test_neumf() -> None:
    model = NeuMF(3, (4, 2))
    params: dict[str, Any] = {**initial(model.tables(optim.SGD(lr=1))), "user": rows(6, model.dim), "item": rows(6, model.dim)}
    label = np.array([1, 0, 0, 1, 0, 1.0])

    def f(p: dict[str, Any]) -> tuple[float, Any]:
        return model.loss_and_grads(p, p["user"], p["item"], label)

    nn.gradcheck(f, params)
    s = 1 / (1 + np.exp(-model.score(params, params["user"], params["item"])))
    assert f(params)[0] == pytest.approx(-np.log(np.where(label == 1, s, 1 - s)).sum())
    every = model.score_all(params, params["user"], params["item"], at_once=13)
    assert every.shape == (6, 6)
    np.testing.assert_allclose(np.diag(every), model.score(params, params["user"], params["item"]))


@pytest.mark.parametrize("hidden", [(), (3,), (4, 0)])
def test_neumf_refuses_what_it_cannot_build(hidden: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"^NeuMF: factors 2, hidden"):
        NeuMF(2, hidden)
