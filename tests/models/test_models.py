import json

import array_api_strict as strict
import numpy as np
import pytest

from mpips import models, nn
from mpips.errors import UsageError
from mpips.optim.sgd import SGD

CPU = strict.Device("CPU_DEVICE")
DEVICES = [None, CPU, strict.Device("device1")]  # None is NumPy
OPTIONS = [
    {"name": "linear", "inputs": 4, "outputs": 3},
    {"name": "linear", "inputs": [2, 2], "outputs": 2, "task": "regression", "bias": False},
    {"name": "mlp", "inputs": 4, "outputs": 3, "hidden": [5, 6], "activation": "gelu"},
    {"name": "mlp", "inputs": [2, 2], "outputs": 1, "task": "regression", "hidden": [], "activation": "tanh"},
    {"name": "mlp", "inputs": (4,), "outputs": 2, "hidden": 3, "activation": "sigmoid"},
]
every_model = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['name']}-{o.get('task', 'classes')}")


def data(model, n=6, seed=0):
    rng = np.random.default_rng(seed)
    params = {t.name: rng.standard_normal(t.shape) for t in model.tables(SGD(lr=0.1))}
    y = rng.integers(0, model.outputs, n) if model.task == "classification" else rng.standard_normal((n, model.outputs))
    return params, rng.standard_normal((n, *model.input_shape)), y


def oracle(model, params, x):
    """Return the predictions, written out in NumPy."""
    h = x.reshape(len(x), -1)
    if model.name == "linear":
        return h @ params["linear.w"] + params.get("linear.b", 0)
    f = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
         "gelu": lambda v: v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))}[model.activation]
    for k in range(len(model.hidden)):
        h = f(h @ params[f"hidden{k}.w"] + params[f"hidden{k}.b"])
    return h @ params["out.w"] + params["out.b"]


def put(x, device, dtype=None):
    x = np.array(x, dtype)
    return x if device is None else strict.asarray(x, device=device)


def get(x, device):
    if device is None:
        return x
    assert x.device == device
    return np.asarray(x.to_device(CPU))


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", DEVICES, ids=["numpy", "strict", "device1"])
def test_a_model_is_its_formula(options, dtype, device):
    model = models.make(**options)
    params, x, y = data(model)
    own = {name: put(p, device, dtype) for name, p in params.items()}
    target = put(y, device, dtype if model.task == "regression" else None)
    out = get(model.predict(own, put(x, device, dtype)), device)
    expected = oracle(model, params, x)
    assert out.dtype == dtype
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4 if dtype == "float32" else 1e-12)
    loss, grads = model.loss_and_grads(own, put(x, device, dtype), target)
    if model.task == "regression":
        assert loss == pytest.approx(((expected - y) ** 2).mean(), rel=1e-4)
    else:
        logsum = np.log(np.exp(expected).sum(axis=1))
        assert loss == pytest.approx((logsum - expected[np.arange(6), y]).mean(), rel=1e-4)
    assert list(grads) == list(params)
    for name, g in grads.items():
        assert get(g, device).shape == params[name].shape
        assert get(g, device).dtype == dtype


@every_model
def test_gradients_are_slopes(options):
    model = models.make(**options)
    params, x, y = data(model)
    nn.gradcheck(lambda p: model.loss_and_grads(p, x, y), params)


@every_model
def test_an_empty_batch_gives_zeros(options):
    model = models.make(**options)
    params, x, y = data(model)
    loss, grads = model.loss_and_grads(params, x[:0], y[:0])
    assert loss == 0.0
    assert not any(g.any() for g in grads.values())


@every_model
def test_a_description_makes_the_model_again(options):
    model = models.make(**options)
    text = json.dumps(model.describe())
    again = models.make(**json.loads(text))
    assert again == model
    assert again.describe() == model.describe()
    assert isinstance(model, models.Model)
    same = zip(model.tables(SGD(lr=0.1)), again.tables(SGD(lr=0.1)), strict=True)
    assert all(a.describe() == b.describe() for a, b in same)


def test_sizes_may_be_numpy_numbers():
    model = models.make("mlp", inputs=np.int64(4), outputs=np.int64(3), hidden=[np.int32(5)])
    assert json.loads(json.dumps(model.describe())) == models.make("mlp", inputs=4, outputs=3, hidden=[5]).describe()


@every_model
def test_a_wrong_shape_is_named(options):
    model = models.make(**options)
    params, x, y = data(model)
    for name in params:
        with pytest.raises(UsageError, match=f"parameter '{name}': shape"):
            model.loss_and_grads({**params, name: np.zeros((7, 7))}, x, y)
    with pytest.raises(UsageError, match="input: shape"):
        model.predict(params, np.zeros((3, 9)))


def test_tables_take_the_options_of_a_table():
    tables = models.make("mlp", inputs=4, outputs=3, hidden=[5]).tables(
        SGD(lr=0.5), staleness=None, dtype="bfloat16", combine="mean", nonfinite="skip", master=False)
    assert [t.name for t in tables] == ["hidden0.w", "hidden0.b", "out.w", "out.b"]
    assert {(t.staleness, t.dtype, t.combine, t.nonfinite, t.master) for t in tables} == {
        (None, "bfloat16", "mean", "skip", False)}


def test_weights_start_for_their_activation():
    def kinds(**options):
        return {t.name: t.init.kind for t in models.make(**options).tables(SGD(lr=0.1))}

    assert kinds(name="linear", inputs=4, outputs=3)["linear.w"] == "constant"
    relu = kinds(name="mlp", inputs=4, outputs=3)
    assert (relu["hidden0.w"], relu["out.w"]) == ("he", "xavier")
    assert kinds(name="mlp", inputs=4, outputs=3, activation="tanh")["hidden0.w"] == "xavier"


@pytest.mark.parametrize(("options", "why"), [
    ({"name": "mpl"}, "model 'mpl' is not known; there are linear, mlp"),
    ({"name": "mlp", "depth": [3]}, "unknown option 'depth'; there are inputs, outputs, task, hidden, activation"),
    ({"name": "linear", "hidden": [3]}, "model linear: unknown option 'hidden'; there are inputs, outputs, task, bias"),
    ({"name": "mlp"}, "model mlp: option 'inputs' is missing"),
    ({"name": "mlp", "inputs": 4}, "model mlp: option 'outputs' is missing"),
    ({"inputs": 0}, "option 'inputs': 0 is not made of numbers from 1"),
    ({"inputs": "64"}, "option 'inputs': '64' is not"),
    ({"inputs": [8, 2.5]}, "option 'inputs'"),
    ({"outputs": 0}, "option 'outputs': 0"),
    ({"outputs": [3]}, "option 'outputs': .* is not one number"),
    ({"outputs": True}, "option 'outputs': True"),
    ({"hidden": [3, -1]}, r"option 'hidden': \[3, -1\]"),
    ({"hidden": "32"}, "option 'hidden': '32'"),
    ({"activation": "swish"}, "activation 'swish' is not one of relu, gelu, tanh, sigmoid"),
    ({"activation": ["relu"]}, "activation .* is not one of"),
    ({"task": "ranking"}, "task 'ranking' is not one of classification, regression"),
    ({"name": "linear", "inputs": 4, "outputs": 3, "bias": "no"}, "option 'bias': 'no' is not true or false"),
])
def test_wrong_options_are_named(options, why):
    full = options if "name" in options else {"name": "mlp", "inputs": 4, "outputs": 3, **options}
    with pytest.raises(UsageError, match=why):
        models.make(**full)


def test_a_classifier_learns_digits_by_plain_descent():
    """The smallest end-to-end proof that the gradients point downhill."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    for options in ({"name": "linear"}, {"name": "mlp", "hidden": [32]}):
        model = models.make(inputs=64, outputs=10, **options)
        params = nn.initial(model.tables(SGD(lr=0.5)), seed=0)
        rng = np.random.default_rng(0)
        for _ in range(4):
            for rows in np.array_split(rng.permutation(1500), 50):
                _, grads = model.loss_and_grads(params, x[rows], y[rows])
                params = {name: p - np.float32(0.5) * grads[name] for name, p in params.items()}
        assert {p.dtype.name for p in params.values()} == {"float32"}
        assert nn.accuracy(model.predict(params, x[1500:]), y[1500:]) > 0.85
