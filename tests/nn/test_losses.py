import math

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import nn
from mpips.errors import UsageError

CE, MSE, BCE = nn.SoftmaxCrossEntropy(), nn.MSE(), nn.BinaryCrossEntropy()


def cross_entropy(logits, labels):
    rows = [math.log(math.fsum(math.exp(v - row[k]) for v in row)) for row, k in zip(logits, labels, strict=True)]
    return math.fsum(rows) / len(rows)


def logits_and_labels(n=6, k=4, seed=0):
    draw = np.random.default_rng(seed)
    return draw.standard_normal((n, k)) * 3, draw.integers(0, k, n)


def test_cross_entropy_is_the_formula(lib, dtype):
    logits, labels = logits_and_labels()
    loss, cache = CE.forward(lib.put(logits, dtype), lib.put(labels))
    grad = CE.backward(cache)
    assert lib.get(loss).dtype == lib.get(grad).dtype == dtype
    assert float(loss) == pytest.approx(cross_entropy(logits, labels), rel=1e-6)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    odds[np.arange(6), labels] -= 1
    np.testing.assert_allclose(lib.get(grad), odds / 6, rtol=1e-5, atol=1e-8)


def test_mse_is_the_formula(lib, dtype):
    p, t = np.random.default_rng(0).standard_normal((2, 5, 3))
    loss, cache = MSE.forward(lib.put(p, dtype), lib.put(t, dtype))
    grad = MSE.backward(cache)
    assert lib.get(loss).dtype == lib.get(grad).dtype == dtype
    assert float(loss) == pytest.approx(math.fsum((a - b) ** 2 for a, b in zip(p.flat, t.flat, strict=True)) / 15)
    np.testing.assert_allclose(lib.get(grad), 2 * (p - t) / 15, rtol=1e-5, atol=1e-7)


@settings(max_examples=25)
@given(n=st.integers(0, 4), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_gradients_are_slopes(n, k, seed):
    logits, labels = logits_and_labels(n, k, seed)

    def f(loss, target):
        def at(p):
            value, cache = loss.forward(p["y"], target)
            return value, {"y": loss.backward(cache)}
        return at

    nn.gradcheck(f(CE, labels), {"y": logits})
    nn.gradcheck(f(MSE, logits[::-1] + 1), {"y": logits})
    nn.gradcheck(f(BCE, labels), {"y": logits[:, 0]})


def test_an_empty_batch_has_loss_zero(lib, dtype):
    for loss, target in [(CE, lib.put([], np.int64)), (MSE, lib.put(np.zeros((0, 3)), dtype))]:
        value, cache = loss.forward(lib.put(np.zeros((0, 3)), dtype), target)
        assert float(value) == 0.0
        assert lib.get(loss.backward(cache)).shape == (0, 3)
        assert lib.get(loss.backward(cache)).dtype == dtype


def test_cross_entropy_takes_any_logits(dtype):
    huge = np.array([[1e4, 0.0, -1e4], [-1e30, 1e30, 0.0], [-np.inf, 0.0, -np.inf]], dtype)
    loss, cache = CE.forward(huge, np.array([0, 1, 1]))
    assert loss == 0.0
    assert np.isfinite(CE.backward(cache)).all()
    loss, _ = CE.forward(huge[:1], np.array([2]))
    assert loss == pytest.approx(2e4)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64"])
def test_labels_are_any_integers(lib, kind):
    logits = np.zeros((2, 300))
    loss, _ = CE.forward(lib.put(logits), lib.put([0, 127], kind))
    assert float(loss) == pytest.approx(math.log(300))


def test_labels_that_do_not_fit_are_refused():
    logits = np.zeros((3, 4))
    for labels, why in [
        (np.zeros(2, int), r"labels: shape \(2,\), logits: shape \(3, 4\)"),
        (np.zeros((3, 1), int), "labels: shape"),
        (np.zeros(3), "labels: dtype float64, expected integers"),
        (np.array([0, 4, 1]), "labels: from 0 to 4, expected 0 to 3"),
        (np.array([0, -1, 1]), "labels: from -1 to 1"),
    ]:
        with pytest.raises(UsageError, match=why):
            CE.forward(logits, labels)
    with pytest.raises(UsageError, match="logits: shape"):
        CE.forward(np.zeros(3), np.zeros(3, int))


def test_one_value_a_sample_needs_no_second_axis(lib):
    p, t = np.arange(4.0)[:, None], np.arange(4.0) + 1
    loss, cache = MSE.forward(lib.put(p), lib.put(t))
    assert float(loss) == 1.0
    assert lib.get(MSE.backward(cache)).shape == (4, 1)


@pytest.mark.parametrize("shape", [(4, 2), (4,), (1, 4), ()])
def test_targets_that_do_not_fit_are_refused(shape):
    with pytest.raises(UsageError, match=r"targets: shape .*, expected \(4, 3\)"):
        MSE.forward(np.zeros((4, 3)), np.zeros(shape))


def test_host_and_device_do_not_mix():
    logits, labels = logits_and_labels()
    far = strict.asarray(logits, device=strict.Device("device1"))
    with pytest.raises(ValueError, match="two different devices"):
        CE.forward(far, strict.asarray(labels))
    with pytest.raises(UsageError, match="arrays of array_api_strict and numpy"):
        CE.forward(far, labels)


def test_accuracy(lib):
    logits = [[1.0, 2.0], [3.0, 0.0], [0.0, 5.0], [1.0, 0.0]]
    assert nn.accuracy(lib.put(logits), lib.put([1, 0, 0, 0])) == 0.75
    assert math.isnan(nn.accuracy(lib.put(np.zeros((0, 2))), lib.put([], np.int64)))
    with pytest.raises(UsageError, match="labels: shape"):
        nn.accuracy(lib.put(logits), lib.put([1, 0]))


def test_binary_cross_entropy_is_the_formula(lib, dtype):
    z, y = np.array([-2.0, 0.0, 3.0, 0.5]), np.array([0, 1, 1, 0])
    loss, cache = BCE.forward(lib.put(z, dtype), lib.put(y))
    grad = BCE.backward(cache)
    assert lib.get(loss).dtype == lib.get(grad).dtype == dtype
    p = 1 / (1 + np.exp(-z))
    assert float(loss) == pytest.approx(-math.fsum(math.log(a if b else 1 - a) for a, b in zip(p, y, strict=True)) / 4, rel=1e-6)
    np.testing.assert_allclose(lib.get(grad), (p - y) / 4, rtol=1e-5, atol=1e-8)
    assert float(BCE.forward(lib.put(z[:, None], dtype), lib.put(y))[0]) == float(loss), "(n,) stands for (n, 1)"


def test_binary_cross_entropy_does_not_overflow():
    loss, cache = BCE.forward(np.array([1e4, -1e4]), np.array([0, 0]))
    assert float(loss) == 5e3
    assert BCE.backward(cache).tolist() == [0.5, 0.0]
    assert float(BCE.forward(np.zeros(0), np.zeros(0))[0]) == 0
    with pytest.raises(UsageError, match="targets"):
        BCE.forward(np.zeros(3), np.zeros(2))


def naive_auc(scores, labels):
    pairs = [(p > n) + (p == n) / 2 for p, y in zip(scores, labels, strict=True) if y
             for n, z in zip(scores, labels, strict=True) if not z]
    return sum(pairs) / len(pairs) if pairs else math.nan


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12))
def test_auc_counts_pairs_and_ties_half(rows):
    scores, labels = [float(s) for s, _ in rows], [int(y) for _, y in rows]
    assert nn.auc(np.array(scores), np.array(labels, np.int64)) == pytest.approx(naive_auc(scores, labels), nan_ok=True, abs=1e-15)


def test_auc_on_any_library(lib, dtype):
    scores, labels = np.random.default_rng(0).integers(0, 9, 50) / 8, np.random.default_rng(1).integers(0, 2, 50)
    expected = naive_auc(scores.tolist(), labels.tolist())
    assert nn.auc(lib.put(scores, dtype), lib.put(labels)) == pytest.approx(expected, abs=1e-15)
    assert nn.auc(lib.put([0.5, 0.1], dtype), lib.put([1.0, 0.0], dtype)) == 1


def test_auc_of_what_has_none():
    assert math.isnan(nn.auc(np.array([0.5, np.nan]), np.array([0, 1])))
    assert math.isnan(nn.auc(np.zeros(3), np.zeros(3)))
    with pytest.raises(UsageError, match="labels: shape"):
        nn.auc(np.zeros(3), np.zeros(2))
    with pytest.raises(UsageError, match="0 or 1"):
        nn.auc(np.zeros(2), np.array([1, 2]))
