"""The models that code uses with tables of rows, and what surrounds a model, on a GPU against NumPy in float64."""

import numpy as np
import pytest

from mpips import nn, optim
from mpips.arrays import device_available, is_device_array, use
from mpips.models.dlrm import DLRM
from mpips.models.factors import bpr, sampled_softmax
from mpips.models.ncf import NeuMF
from mpips.models.skipgram import skipgram

AVAILABLE, REASON = device_available()
if not AVAILABLE:
    pytest.skip(REASON, allow_module_level=True)
cp = use(0)
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings(r"default:::cupy\w*(\..*)?")]

TOLERANCE = {"float32": 5e-5, "float64": 1e-11}
SGD = optim.SGD(lr=0.1)
every_size = pytest.mark.parametrize("n", [0, 1, 33])
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE))


def wide(tables):
    return {name: w.astype(np.float64) for name, w in nn.initial(tables).items()}


def moved(value, dtype):
    """Return the arguments of a function on the device, its floats in this dtype."""
    if isinstance(value, dict):
        return {key: moved(one, dtype) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return cp.asarray(value.astype(dtype) if value.dtype == np.float64 else value)
    return value


def errors(got, expected, dtype):
    """Yield how far results are apart, each relative to the largest number of what is expected."""
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for key in expected:
            yield from errors(got[key], expected[key], dtype)
    elif isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            yield from errors(one, other, dtype)
    else:
        if np.ndim(expected):
            assert is_device_array(got)
            assert got.dtype == dtype
            assert got.shape == expected.shape
            got = got.get()
        apart = np.abs(np.asarray(got, np.float64) - expected).max(initial=0.0)
        yield float(apart / (np.abs(expected).max(initial=0.0) or 1.0))


def check(function, dtype, record_property, *args, **options):
    expected = function(*args, **options)
    got = function(*(moved(one, dtype) for one in args), **moved(options, dtype))
    error = max(errors(got, expected, dtype))
    record_property("error", error)
    assert error < TOLERANCE[dtype]


@every_dtype
@every_size
def test_dlrm(n, dtype, record_property):
    draw = np.random.default_rng(n).standard_normal
    model = DLRM(inputs=5, fields=3, dim=4, bottom=[8], top=[8])
    params, y = wide(model.tables(SGD)), (draw(n) > 0).astype(np.float64)
    check(model.loss_and_grads, dtype, record_property, params, draw((n, 5)), draw((n, 3, 4)), y, draw((n, 3)))


@every_dtype
@every_size
def test_factors(n, dtype, record_property):
    rng = np.random.default_rng(n)
    draw = rng.standard_normal
    check(bpr, dtype, record_property, draw((n, 4)), draw((n, 4)), draw((n, 1)), draw((n, 3, 4)), draw((n, 3, 1)))
    check(sampled_softmax, dtype, record_property, draw((n, 4)), draw((n, 4)), draw((n, 1)), draw((6, 4)), draw((6, 1)),
          chance=rng.uniform(0.1, 1, n), other_chance=rng.uniform(0.1, 1, 6), wrong=draw((n, 6)) > 1)


@every_dtype
@every_size
def test_skipgram(n, dtype, record_property):
    draw = np.random.default_rng(n).standard_normal
    check(skipgram, dtype, record_property, draw((n, 4)), draw((n, 4)), draw((6, 4)), 5)


@every_dtype
@every_size
def test_neumf(n, dtype, record_property):
    draw = np.random.default_rng(n).standard_normal
    model = NeuMF(4, (8, 4))
    params, user, item = wide(model.tables(SGD)), draw((n, model.dim)), draw((n, model.dim))
    check(model.loss_and_grads, dtype, record_property, params, user, item, (draw(n) > 0).astype(np.float64))
    if n:
        check(model.score_all, dtype, record_property, params, user, draw((5, model.dim)), at_once=20)


@every_dtype
def test_clip_by_norm(dtype, record_property):
    draw = np.random.default_rng(0).standard_normal
    check(optim.clip_by_norm, dtype, record_property, {"w": draw((300, 70)), "b": draw(7)}, 0.5)


def test_auc(record_property):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 50, 500) / 50, rng.integers(0, 2, 500)
    check(nn.auc, "float64", record_property, scores, labels)
    assert np.isnan(nn.auc(cp.asarray(scores), cp.ones(500, np.int64)))
