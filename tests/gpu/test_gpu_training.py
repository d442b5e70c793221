"""Gradients of a GPU through the folds of a server, and a whole training by mpirun with two workers on one GPU."""

import re
from pathlib import Path

import numpy as np
import pytest

from mpips import models, nn
from mpips.arrays import Staging, device_available, use
from mpips.optim import OPTIMIZERS, Fold, make
from tests.mpirun import ROOT, launcher, mpirun

AVAILABLE, REASON = device_available()
if not AVAILABLE:
    pytest.skip(REASON, allow_module_level=True)
cp = use(0)
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings(r"default:::cupy\w*(\..*)?")]

STEPS = 5


def wide(x):
    return x.astype(np.float64)


def train(name, dtype, gradients, steps=STEPS):
    """Return the parameters after some steps with one optimizer, the folds on the host as a server does them."""
    rule = make(name, lr=0.01)
    model = models.make("mlp", inputs=64, outputs=10, hidden=[32], activation="tanh")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, 64)), rng.integers(0, 10, 100)
    tables = {t.name: t for t in model.tables(rule, dtype=dtype)}
    params = nn.initial(list(tables.values()), seed=1)
    folds = {k: Fold(rule, t, engine="numpy") for k, t in tables.items()}
    slots = {k: folds[k].new_slots(params[k].reshape(-1)) for k in tables}
    for step in range(steps):
        grads = gradients(model, params, x, y)
        for k, w in params.items():
            new = np.empty(w.size, w.dtype)
            folds[k](w.reshape(-1), new, [slots[k][s] for s in folds[k].names], [grads[k].reshape(-1)], step=step + 1,
                     clock=step)
            params[k] = new.reshape(w.shape)
    return params


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not make(name, lr=0.01).row_slots])  # for dense tables
def test_optimizer(name, dtype, record_property):
    staging = Staging(0)

    def on_device(model, params, x, y):
        own = {k: staging.to_device(w) for k, w in params.items()}
        _, grads = model.loss_and_grads(own, staging.to_device(x), staging.to_device(y))
        return {k: staging.to_host(g, dtype=params[k].dtype) for k, g in grads.items()}

    def exact(model, params, x, y):
        _, grads = model.loss_and_grads({k: wide(w) for k, w in params.items()}, x, y)
        return {k: g.astype(np.float32).astype(params[k].dtype) if dtype == "bfloat16" else g.astype(params[k].dtype)
                for k, g in grads.items()}

    got, expected = train(name, dtype, on_device), train(name, dtype, exact)
    start = train(name, dtype, exact, steps=0)
    moved = max(np.abs(wide(expected[k]) - wide(start[k])).max() for k in start)
    # A rule that takes a gradient's sign or divides by its size makes a step of a last bit near 0: the mean counts.
    error = float(max(np.abs(wide(got[k]) - wide(expected[k])).mean() for k in start) / moved)
    record_property("error", error)
    assert moved > 0
    assert error < {"float64": 1e-9, "float32": 1e-3}.get(dtype, 2e-2)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not launcher(), reason="there is no mpirun")
def test_digits_with_two_workers_on_one_gpu(tmp_path: Path, record_property):
    pytest.importorskip("sklearn")

    def accuracy(device):
        settings = [f"device={device}", "servers=1", "readers=0", f"checkpoint.directory={tmp_path / device}"]
        done = mpirun(3, ["-m", "mpips", "train", str(ROOT / "scripts" / "digits.toml"),
                          *(word for text in settings for word in ("--set", text))], timeout=250, cwd=tmp_path)
        assert done.code == 0, done
        found = re.search(r"held-out accuracy (0\.\d+|1\.0+)", done.out)
        assert found, done
        return float(found[1])

    gpu, cpu = accuracy("gpu"), accuracy("cpu")
    record_property("error", abs(gpu - cpu))
    assert gpu > 0.9
    assert abs(gpu - cpu) < 0.03
