"""Every layer against loops over plain numbers, and every backward against finite differences."""

import math

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import init, nn
from mpips.errors import UsageError


def oracle(layer, params, x):
    if isinstance(layer, nn.Flatten):
        return np.array([row.ravel() for row in x]).reshape(len(x), -1)
    if isinstance(layer, nn.Dense):
        w, b = params["w"], params.get("b", np.zeros(layer.units))
        return np.array([[math.fsum(row[i] * w[i, j] for i in range(len(row))) + b[j] for j in range(layer.units)]
                         for row in x]).reshape(len(x), layer.units)
    f = {
        nn.ReLU: lambda v: max(v, 0.0),
        nn.Tanh: math.tanh,
        nn.Sigmoid: lambda v: 1 / (1 + math.exp(-v)),
        nn.GELU: lambda v: v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    }[type(layer)]
    return np.array([f(v) for v in x.ravel()]).reshape(x.shape)


LAYERS = [nn.Dense(3), nn.Dense(2, bias=False), nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid(), nn.Flatten()]
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=str)


def batch(layer, n, sample, seed=0):
    """Return (x, dy, params) as float64; no x is near 0, where ReLU has no slope."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(0.1, 2.0, (n, *sample)) * draw.choice([-1.0, 1.0], (n, *sample))
    params = {name: draw.standard_normal(p.shape) for name, p in layer.shapes(sample).items()}
    return x, draw.standard_normal((n, *layer.output_shape(sample))), params


def sample_of(layer):
    return (4,) if isinstance(layer, nn.Dense) else (2, 3)


@every_layer
def test_forward_is_the_formula_in_its_own_dtype(layer, lib, dtype):
    x, dy, params = batch(layer, 5, sample_of(layer))
    own = lib.many(params, dtype)
    y, cache = layer.forward(own, lib.put(x, dtype))
    dx, grads = layer.backward(own, cache, lib.put(dy, dtype))
    assert lib.get(y).shape == (5, *layer.output_shape(sample_of(layer)))
    np.testing.assert_allclose(lib.get(y), oracle(layer, params, x), rtol=2e-5 if dtype == "float32" else 1e-12)
    for array, like in [(y, dy), (dx, x), *((grads[name], params[name]) for name in params)]:
        assert lib.get(array).dtype == dtype
        assert lib.get(array).shape == like.shape
    assert grads.keys() == params.keys()


@every_layer
def test_backward_is_the_slope(layer, lib):
    x, dy, params = batch(layer, 3, sample_of(layer))

    def f(p):
        own = {name: p[name] for name in params}
        y, cache = layer.forward(own, p["x"])
        dx, grads = layer.backward(own, cache, lib.put(dy))
        return (lib.get(y) * dy).sum(), {**grads, "x": dx}

    nn.gradcheck(f, lib.many({**params, "x": x}))


@every_layer
@settings(max_examples=15)
@given(n=st.integers(0, 4), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_backward_is_the_slope_for_any_shape(layer, n, sizes, seed):
    sample = tuple(sizes[:1] if isinstance(layer, nn.Dense) else sizes)
    x, dy, params = batch(layer, n, sample, seed)

    def f(p):
        y, cache = layer.forward(p, p["x"])
        dx, grads = layer.backward(p, cache, dy)
        return (y * dy).sum(), {**grads, "x": dx}

    nn.gradcheck(f, {**params, "x": x}, tol=1e-5)


@every_layer
def test_an_empty_batch_has_an_empty_output_and_zero_gradients(layer, lib, dtype):
    x, dy, params = batch(layer, 0, sample_of(layer))
    own = lib.many(params, dtype)
    y, cache = layer.forward(own, lib.put(x, dtype))
    dx, grads = layer.backward(own, cache, lib.put(dy, dtype))
    assert lib.get(y).shape == dy.shape
    assert lib.get(dx).shape == x.shape
    for name, p in params.items():
        assert lib.get(grads[name]).shape == p.shape
        assert not lib.get(grads[name]).any()


@every_layer
def test_inputs_and_parameters_are_not_changed(layer):
    x, dy, params = batch(layer, 3, sample_of(layer))
    before = [a.copy() for a in (x, dy, *params.values())]
    _, cache = layer.forward(params, x)
    layer.backward(params, cache, dy)
    for a, b in zip(before, (x, dy, *params.values()), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("layer", LAYERS[:2], ids=str)
def test_arrays_of_two_devices_do_not_mix(layer):
    """What NumPy cannot show: a parameter or a constant that is left on another device than the batch."""
    x, _, params = batch(layer, 3, (4,))
    near = {name: strict.asarray(p) for name, p in params.items()}
    far = strict.asarray(x, device=strict.Device("device1"))
    with pytest.raises(ValueError, match="two different devices"):
        layer.forward(near, far)


@pytest.mark.parametrize(("name", "shape"), [("w", (5, 3)), ("w", (4,)), ("b", (4,)), ("b", (1, 3))])
def test_a_parameter_of_a_wrong_shape_is_named(name, shape):
    params = {"w": np.zeros((4, 3)), "b": np.zeros(3), name: np.zeros(shape)}
    with pytest.raises(UsageError, match=f"parameter '{name}': shape"):
        nn.Dense(3).forward(params, np.zeros((2, 4)))


def test_a_missing_parameter_is_named():
    with pytest.raises(UsageError, match="parameter 'b' is missing; there are w"):
        nn.Dense(3).forward({"w": np.zeros((4, 3))}, np.zeros((2, 4)))


@pytest.mark.parametrize("sample", [(), (2, 3)])
def test_dense_takes_vectors(sample):
    with pytest.raises(UsageError, match=r"put Flatten\(\) before it"):
        nn.Dense(3).shapes(sample)


@pytest.mark.parametrize("units", [0, -1, 2.0, "3", True])
def test_dense_takes_a_number_of_units(units):
    with pytest.raises(UsageError, match="is not a number from 1"):
        nn.Dense(units)


def test_parameters_come_with_their_initial_values():
    params = nn.Dense(3, init=init.he()).shapes((4,))
    assert list(params) == ["w", "b"]
    assert params["w"].init == init.he()
    assert params["b"].init == init.zeros()
    assert list(nn.Dense(3, bias=False).shapes((4,))) == ["w"]


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid()], ids=str)
def test_large_inputs_do_not_overflow(layer, dtype):
    x = np.array([[-1e4, -50.0, 0.0, 50.0, 1e4]], dtype)
    y, cache = layer.forward({}, x)
    dx, _ = layer.backward({}, cache, np.ones_like(x))
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()
    assert y[0, 2] == (0.5 if isinstance(layer, nn.Sigmoid) else 0.0)


def test_relu_has_no_slope_at_zero_and_lets_nan_through():
    y, cache = nn.ReLU().forward({}, np.array([[0.0, -0.0, np.nan]]))
    assert np.array_equal(y, [[0, 0, np.nan]], equal_nan=True)
    assert nn.ReLU().backward({}, cache, np.ones((1, 3)))[0].tolist() == [[0, 0, 0]]


def test_gelu_is_near_the_exact_form():
    x = np.linspace(-6, 6, 2001)
    exact = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    assert np.abs(nn.GELU().forward({}, x[None])[0] - exact).max() < 5e-4
