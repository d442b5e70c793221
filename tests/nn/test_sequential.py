import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import init, nn
from mpips.errors import UsageError
from mpips.optim.sgd import SGD

NET = nn.Sequential([nn.Flatten(), nn.Dense(5), nn.Tanh(), ("out", nn.Dense(3))], input_shape=(2, 2))


def draw(net, n=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    params = {t.name: rng.standard_normal(t.shape) for t in net.tables(SGD(lr=0.1))}
    return params, rng.standard_normal((n, *net.input_shape)), rng.integers(0, classes, n)


def oracle(params, x, labels):
    """Return loss and gradients of NET, written out in NumPy."""
    n = len(x)
    flat = x.reshape(n, 4)
    h = np.tanh(flat @ params["1.w"] + params["1.b"])
    logits = h @ params["out.w"] + params["out.b"]
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(odds[np.arange(n), labels]).mean()
    d = (odds - np.eye(3)[labels]) / n
    dh = d @ params["out.w"].T * (1 - h**2)
    return loss, {"1.w": flat.T @ dh, "1.b": dh.sum(axis=0), "out.w": h.T @ d, "out.b": d.sum(axis=0)}


def test_loss_and_gradients_are_those_of_plain_numpy(lib, dtype):
    params, x, y = draw(NET)
    loss, grads = NET.loss_and_grads(lib.many(params, dtype), lib.put(x, dtype), lib.put(y))
    expected_loss, expected = oracle(params, x, y)
    assert type(loss) is float
    assert loss == pytest.approx(expected_loss, rel=1e-5 if dtype == "float32" else 1e-12)
    assert list(grads) == list(expected) == list(params)
    for name, g in grads.items():
        assert lib.get(g).dtype == dtype
        np.testing.assert_allclose(lib.get(g), expected[name], rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-6)


def test_gradients_are_given_away_layer_by_layer(lib, dtype):
    params, x, y = draw(NET)
    given = []
    loss, grads = NET.loss_and_grads(lib.many(params, dtype), lib.put(x, dtype), lib.put(y), given.append)
    assert [list(some) for some in given] == [["out.w", "out.b"], ["1.w", "1.b"]]
    assert all(some[name] is grads[name] for some in given for name in some)
    assert list(grads) == list(params)
    assert loss == NET.loss_and_grads(lib.many(params, dtype), lib.put(x, dtype), lib.put(y))[0]


def test_predict_is_the_forward_pass(lib, dtype):
    params, x, _ = draw(NET)
    out = lib.get(NET.predict(lib.many(params, dtype), lib.put(x, dtype)))
    h = np.tanh(x.reshape(6, 4) @ params["1.w"] + params["1.b"])
    assert out.dtype == dtype
    np.testing.assert_allclose(out, h @ params["out.w"] + params["out.b"], rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(n=st.integers(0, 4), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99),
       kind=st.sampled_from(sorted(nn.ACTIVATIONS)))
def test_gradients_are_slopes(n, sizes, seed, kind):
    layers = [part for size in sizes for part in (nn.Dense(size), nn.ACTIVATIONS[kind])]
    net = nn.Sequential([*layers, nn.Dense(2)], input_shape=3)
    params, x, y = draw(net, n, 2, seed)
    if kind == "relu":  # a hidden unit at its kink would have no slope
        params = {name: p + 0.3 * np.sign(p) for name, p in params.items()}
    nn.gradcheck(lambda p: net.loss_and_grads(p, x, y), params, tol=1e-5, eps=1e-7)


def test_an_empty_batch_gives_zeros(lib, dtype):
    params, _, _ = draw(NET)
    x, y = lib.put(np.zeros((0, 2, 2)), dtype), lib.put([], np.int64)
    loss, grads = NET.loss_and_grads(lib.many(params, dtype), x, y)
    assert loss == 0.0
    for name, g in grads.items():
        assert lib.get(g).shape == params[name].shape
        assert not lib.get(g).any()
    assert NET.predict(lib.many(params, dtype), x).shape == (0, 3)


@pytest.mark.parametrize("half", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_half_parameters_are_widened_and_their_gradients_rounded(half):
    params, x, y = draw(NET)
    small = {name: p.astype(half) for name, p in params.items()}
    loss, grads = NET.loss_and_grads(small, x, y)
    wide_loss, wide = NET.loss_and_grads({name: p.astype(np.float32) for name, p in small.items()}, x, y)
    assert loss == wide_loss
    for name, g in grads.items():
        assert g.dtype == half
        assert np.array_equal(g, wide[name].astype(half))


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float64"])
def test_inputs_of_any_dtype_give_gradients_of_the_parameters(kind):
    params, _, y = draw(NET)
    x = np.arange(24).reshape(6, 2, 2).astype(kind)
    _, grads = NET.loss_and_grads({name: p.astype(np.float32) for name, p in params.items()}, x, y)
    assert {g.dtype.name for g in grads.values()} == {"float32"}


def test_one_deep_parameter_makes_the_arithmetic_deep():
    params, x, y = draw(NET)
    mixed = {name: p if name == "out.b" else p.astype(np.float32) for name, p in params.items()}
    _, grads = NET.loss_and_grads(mixed, x, y)
    assert {name: g.dtype.name for name, g in grads.items()} == {
        "1.w": "float32", "1.b": "float32", "out.w": "float32", "out.b": "float64"}


def test_tables_come_in_forward_order_with_their_options():
    tables = NET.tables(SGD(lr=0.5), staleness=2, dtype="float64", combine="mean", nonfinite="skip", master=False)
    assert [(t.name, t.shape) for t in tables] == [
        ("1.w", (4, 5)), ("1.b", (5,)), ("out.w", (5, 3)), ("out.b", (3,))]
    assert {(t.staleness, t.dtype, t.combine, t.nonfinite, t.master, t.optimizer.lr) for t in tables} == {
        (2, "float64", "mean", "skip", False, 0.5)}
    assert [t.init.kind for t in tables] == ["xavier", "constant", "xavier", "constant"]


def test_what_does_not_fit_is_named():
    params, x, y = draw(NET)
    for change, why in [
        ({"1.w": np.zeros((5, 4))}, r"parameter '1.w': shape \(5, 4\), expected \(4, 5\)"),
        ({"out.b": np.zeros((3, 1))}, r"parameter 'out.b': shape \(3, 1\), expected \(3,\)"),
    ]:
        for call in (lambda p: NET.loss_and_grads(p, x, y), lambda p: NET.predict(p, x)):
            with pytest.raises(UsageError, match=why):
                call({**params, **change})
    with pytest.raises(UsageError, match=r"parameter 'out\.b' is missing; there are 1\.b, 1\.w, out\.w"):
        NET.predict({name: p for name, p in params.items() if name != "out.b"}, x)
    for shape in [(6, 4), (6, 2, 3), (2, 2), ()]:
        with pytest.raises(UsageError, match=r"input: shape .*, expected a batch of shape \(2, 2\)"):
            NET.predict(params, np.zeros(shape))


def test_parameters_of_others_are_left_alone():
    params, x, y = draw(NET)
    _, grads = NET.loss_and_grads({**params, "user": np.ones(2), "1.other": np.ones(2)}, x, y)
    assert list(grads) == list(params)


def test_host_and_device_arrays_do_not_mix(lib):
    params, x, y = draw(NET)
    if lib.name == "numpy":
        return
    with pytest.raises(UsageError, match="arrays of array_api_strict and numpy in one call"):
        NET.loss_and_grads(lib.many(params), x, lib.put(y))
    with pytest.raises(UsageError, match="arrays of array_api_strict and numpy in one call"):
        NET.loss_and_grads({**lib.many(params), "out.b": params["out.b"]}, lib.put(x), lib.put(y))
    if lib.device is not None:
        near = type(lib)("strict")
        with pytest.raises(ValueError, match="two different devices"):
            NET.loss_and_grads(near.many(params), lib.put(x), lib.put(y))


def test_a_network_is_a_layer(lib):
    inner = nn.Sequential([nn.Dense(3), nn.Tanh()])
    outer = nn.Sequential([("a", inner), ("b", nn.Dense(2))], input_shape=4)
    params, x, y = draw(outer, classes=2)
    assert list(params) == ["a.0.w", "a.0.b", "b.w", "b.b"]
    nn.gradcheck(lambda p: outer.loss_and_grads(p, lib.put(x), lib.put(y)), lib.many(params))
    own = {name[2:]: p for name, p in params.items() if name[0] == "a"}
    out, cache = inner.forward(own, x)
    dx, grads = inner.backward(own, cache, out)
    assert dx.shape == x.shape
    lean_dx, lean = inner.backward(own, cache, out, need_dx=False)
    assert lean_dx is None
    assert all(np.array_equal(lean[name], grads[name]) for name in grads)


def test_regression():
    net = nn.Sequential([nn.Dense(1)], input_shape=3, loss=nn.MSE())
    rng = np.random.default_rng(0)
    params = {"0.w": rng.standard_normal((3, 1)), "0.b": np.zeros(1)}
    x, y = rng.standard_normal((5, 3)), rng.standard_normal(5)
    loss, grads = net.loss_and_grads(params, x, y)
    apart = x @ params["0.w"][:, 0] - y
    assert loss == pytest.approx((apart**2).mean())
    np.testing.assert_allclose(grads["0.w"][:, 0], 2 * x.T @ apart / 5)


def test_a_network_without_parameters():
    net = nn.Sequential([nn.Tanh()], input_shape=2)
    x = np.array([[1.0, 2.0]])
    assert net.tables(SGD(lr=0.1)) == []
    assert net.predict({}, x).dtype == np.float64
    assert net.loss_and_grads({}, x, np.array([1]))[1] == {}


@pytest.mark.parametrize(("layers", "why"), [
    ([nn.Dense(2), ("0", nn.Dense(2))], "layer 1: '0' is not a name of its own"),
    ([("a.b", nn.Dense(2))], "layer 0: 'a.b' is not a name"),
    ([("", nn.Dense(2))], "layer 0: '' is not a name"),
    ([nn.ReLU], "layer '0': .* is not a layer of mpips.nn"),
    (["relu"], "layer '0': 'relu' is not a layer"),
])
def test_layers_are_checked(layers, why):
    with pytest.raises(UsageError, match=why):
        nn.Sequential(layers, input_shape=3)


def test_a_layer_that_cannot_take_its_input_is_named():
    with pytest.raises(UsageError, match="layer 'first': Dense takes a vector a sample"):
        nn.Sequential([("first", nn.Dense(2))], input_shape=(2, 2))
    with pytest.raises(UsageError, match="give input_shape"):
        nn.Sequential([nn.Dense(2)]).tables(SGD(lr=0.1))


def test_initial_values_are_those_of_the_tables_blocks():
    net = nn.Sequential([nn.Dense(700, init=init.normal(0.1))], input_shape=1000)  # 2.8 MB: two blocks
    values = nn.initial(net.tables(SGD(lr=0.1)), seed=3)
    w = values["0.w"]
    assert w.shape == (1000, 700)
    assert w.dtype == np.float32
    (table, _) = net.tables(SGD(lr=0.1))
    second = table.init.block("0.w", table.shape, table.np_dtype, seed=3, index=1, start=524288, stop=700000)
    assert np.array_equal(w.reshape(-1)[524288:], second)
    assert w.std() == pytest.approx(0.1, rel=0.01)
    assert not values["0.b"].any()
