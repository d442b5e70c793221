"""DLRM's gradients are slopes, and its pairs are all pairs."""

import array_api_strict as strict
import numpy as np
import pytest

from mpips import nn, optim
from mpips.errors import UsageError
from mpips.models.dlrm import DLRM


def batch(n=4, inputs=3, fields=3, dim=2):
    draw = np.random.default_rng(0)
    return (draw.standard_normal((n, inputs)), draw.standard_normal((n, fields, dim)), draw.integers(0, 2, n),
            draw.standard_normal((n, fields)))


@pytest.mark.parametrize("wide", [True, False])
def test_gradients_are_slopes(wide):
    model = DLRM(inputs=3, fields=3, dim=2, bottom=(4,), top=(5,))
    x, v, y, w = batch()
    params = nn.initial(model.tables(optim.SGD(lr=0.1)))
    assert set(params) == {"bottom0.w", "bottom0.b", "bottom1.w", "bottom1.b", "top0.w", "top0.b", "out.w", "out.b"}

    def f(p):
        loss, grads, dv, dw = model.loss_and_grads(p, x, p["v"], y, p["wide"] if wide else None)
        return loss, {**grads, "v": dv, **({"wide": dw} if wide else {})}

    nn.gradcheck(f, {**params, "v": v, **({"wide": w} if wide else {})})


def test_the_top_sees_every_pair_once():
    model = DLRM(inputs=2, fields=3, dim=2, bottom=(), top=())
    x, v, _, w = batch(inputs=2)
    params = nn.initial(model.tables(optim.SGD(lr=0.1)))
    b = np.maximum(x @ params["bottom0.w"] + params["bottom0.b"], 0)
    t = [b, v[:, 0], v[:, 1], v[:, 2]]
    z = [(t[i] * t[j]).sum(1) for i in range(4) for j in range(i + 1, 4)]
    h = np.concatenate([b, np.stack(z, 1)], 1)
    np.testing.assert_allclose(model.logits(params, x, v, w), (h @ params["out.w"])[:, 0] + w.sum(1), rtol=1e-6)


def test_it_runs_on_other_arrays():
    model = DLRM(inputs=3, fields=3, dim=2, bottom=(4,), top=(5,))
    params = {name: strict.asarray(p) for name, p in nn.initial(model.tables(optim.SGD(lr=0.1)), seed=1).items()}
    x, v, y, w = (strict.asarray(a.astype(np.float32)) for a in batch())
    loss, grads, dv, dw = model.loss_and_grads(params, x, v, y, w)
    other = model.loss_and_grads({k: np.asarray(p) for k, p in params.items()}, *map(np.asarray, (x, v, y, w)))
    assert loss == pytest.approx(other[0], rel=1e-6)
    np.testing.assert_allclose(np.asarray(dv), other[2], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.asarray(dw), other[3], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.asarray(grads["bottom0.w"]), other[1]["bottom0.w"], rtol=1e-5, atol=1e-7)


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="fields 0"):
        DLRM(inputs=1, fields=0, dim=1)
    model = DLRM(inputs=3, fields=3, dim=2)
    x, v, _, _ = batch()
    with pytest.raises(UsageError, match=r"embeddings of shape \(4, 2, 2\), expected \(4, 3, 2\)"):
        model.logits({}, x, v[:, 1:])
