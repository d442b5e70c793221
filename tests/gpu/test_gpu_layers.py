"""Layers, losses and models on a GPU against the same formulas on NumPy in float64 (which tests/nn holds to loops)."""

import numpy as np
import pytest

from mpips import models, nn
from mpips.arrays import device_available, is_device_array, use
from mpips.errors import UsageError
from mpips.optim import SGD

AVAILABLE, REASON = device_available()
if not AVAILABLE:
    pytest.skip(REASON, allow_module_level=True)
cp = use(0)
# CuPy's own warnings are not this package's: shown, not raised.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings(r"default:::cupy\w*(\..*)?")]

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}
LAYERS = [nn.Dense(48), nn.Dense(7, bias=False), nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid(), nn.Flatten()]
MODELS = [
    {"name": "linear", "inputs": 64, "outputs": 10},
    {"name": "linear", "inputs": 64, "outputs": 1, "task": "regression"},
    *({"name": "mlp", "inputs": [8, 8], "outputs": 10, "hidden": [32, 16], "activation": a} for a in nn.ACTIVATIONS),
]
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE))


def apart(x, expected):
    """Return the largest difference of a device array from `expected`, relative to the largest element of that."""
    assert is_device_array(x)
    assert x.shape == np.shape(expected)
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(x.get().astype(np.float64) - expected).max(initial=0.0) / (scale or 1.0))


def check(pairs, dtype, record_property):
    """Compare (device array, NumPy float64 array) pairs."""
    pairs = list(pairs)
    assert {x.dtype.name for x, _ in pairs} == {dtype}
    error = max(apart(x, expected) for x, expected in pairs)
    record_property("error", error)
    assert error < TOLERANCE[dtype]


@every_dtype
@pytest.mark.parametrize("n", [0, 1, 33])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layer(layer, n, dtype, record_property):
    rng = np.random.default_rng(0)
    sample = (64,) if isinstance(layer, nn.Dense) else (8, 8)
    x = rng.uniform(0.1, 3, (n, *sample)) * rng.choice([-1.0, 1.0], (n, *sample))
    params = {name: rng.standard_normal(p.shape) for name, p in layer.shapes(sample).items()}
    y, cache = layer.forward(params, x)
    dy = rng.standard_normal(y.shape)
    dx, grads = layer.backward(params, cache, dy)

    own = {name: cp.asarray(p, dtype) for name, p in params.items()}
    got, cache = layer.forward(own, cp.asarray(x, dtype))
    got_dx, got_grads = layer.backward(own, cache, cp.asarray(dy, dtype))
    check([(got, y), (got_dx, dx), *((got_grads[k], grads[k]) for k in grads)], dtype, record_property)


@every_dtype
@pytest.mark.parametrize("n", [0, 1, 33])
@pytest.mark.parametrize("loss", [nn.SoftmaxCrossEntropy(), nn.BinaryCrossEntropy(), nn.MSE()], ids=lambda one: type(one).__name__)
def test_loss(loss, n, dtype, record_property):
    rng = np.random.default_rng(0)
    out = 5 * rng.standard_normal((n, 10))
    target = rng.integers(0, 10, n) if isinstance(loss, nn.SoftmaxCrossEntropy) else rng.standard_normal((n, 10))
    value, cache = loss.forward(out, target)
    got, got_cache = loss.forward(cp.asarray(out, dtype), cp.asarray(target))
    check([(got, value), (loss.backward(got_cache), loss.backward(cache))], dtype, record_property)


def test_labels_are_checked_on_the_device_too():
    with pytest.raises(UsageError, match="labels: from 0 to 4, expected 0 to 3"):
        nn.SoftmaxCrossEntropy().forward(cp.zeros((3, 4)), cp.asarray([0, 4, 1]))


def test_accuracy():
    logits, labels = np.eye(4)[[1, 2, 3, 0]], np.array([1, 2, 0, 0])
    assert nn.accuracy(cp.asarray(logits), cp.asarray(labels)) == nn.accuracy(logits, labels) == 0.75


@every_dtype
@pytest.mark.parametrize("options", MODELS, ids=lambda o: "-".join(str(v) for v in o.values() if isinstance(v, str)))
def test_model(options, dtype, record_property):
    model = models.make(**options)
    params = {k: v.astype(dtype) for k, v in nn.initial(model.tables(SGD(lr=0.1), dtype="float64"), seed=1).items()}
    rng = np.random.default_rng(2)
    params = {k: v + rng.standard_normal(v.shape).astype(dtype) / 10 for k, v in params.items()}
    x = rng.standard_normal((40, *model.input_shape)).astype(dtype)
    y = rng.integers(0, 10, 40) if model.task == "classification" else rng.standard_normal((40, 1))
    exact = {k: v.astype(np.float64) for k, v in params.items()}
    loss, grads = model.loss_and_grads(exact, x, y)

    own = {k: cp.asarray(v) for k, v in params.items()}
    got_loss, got = model.loss_and_grads(own, cp.asarray(x), cp.asarray(y))
    assert got_loss == pytest.approx(loss, rel=1e-5)
    check([(model.predict(own, cp.asarray(x)), model.predict(exact, x)), *((got[k], grads[k]) for k in grads)], dtype,
          record_property)


def test_finite_differences_on_the_device(record_property):
    model = models.make("mlp", inputs=4, outputs=3, hidden=[5], activation="gelu")
    rng = np.random.default_rng(0)
    params = {t.name: cp.asarray(rng.standard_normal(t.shape)) for t in model.tables(SGD(lr=0.1))}
    x, y = cp.asarray(rng.standard_normal((6, 4))), cp.asarray(rng.integers(0, 3, 6))
    record_property("error", max(nn.gradcheck(lambda p: model.loss_and_grads(p, x, y), params).values()))


def test_host_and_device_arrays_do_not_mix():
    model = models.make("linear", inputs=4, outputs=3)
    params = nn.initial(model.tables(SGD(lr=0.1)))
    x, y = np.ones((2, 4), np.float32), np.array([0, 1])
    with pytest.raises(UsageError, match="arrays of cupy and numpy in one call"):
        model.loss_and_grads(params, cp.asarray(x), cp.asarray(y))
    with pytest.raises(UsageError, match="arrays of cupy and numpy in one call"):
        model.loss_and_grads({k: cp.asarray(v) for k, v in params.items()}, cp.asarray(x), y)
