"""What is wrong in a configuration beyond its types, and the tables that come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips import models, optim
from mpips.errors import UsageError
from mpips.train import Data, setup
from mpips.train.config import Config, parse
from mpips.train.setup import Training, prepare

LINEAR: dict[str, Any] = {"data": {"source": "linear", "samples": 10}, "model": "linear"}


def prepared(**raw: Any) -> Training:
    return prepare(parse({**LINEAR, **raw}, "f.toml"), "f.toml")


@pytest.mark.parametrize(("raw", "message"), [
    ({"model": "mpl"}, "model 'mpl' is not known"),
    ({"model": {"name": "mlp", "hidde": [3]}}, "model mlp: unknown option 'hidde'"),
    ({"optimizer": "sgdd"}, "optimizer 'sgdd' is not one of"),
    ({"optimizer": {"name": "sgd"}}, "optimizer sgd: lr is missing"),
    ({"optimizer": {"name": "sgd", "lr": {"name": "cosinus"}}}, "schedule 'cosinus' is not one of"),
    ({"optimizer": {"name": "sgd", "lr": -1}}, "optimizer sgd: lr"),
    ({"tables": {"linear.v": {}}}, r"tables.linear.v: the model has no such table; did you mean 'linear\.[bw]'\?"),
    ({"tables": {"linear.w": {"optimizer": "adamm"}}}, "tables.linear.w: optimizer 'adamm' is not one of"),
    ({"data": "digit"}, "data.source: unknown source 'digit'; did you mean 'digits'"),
    ({"data": {"source": "npz", "path": "none.npz"}}, "data.path none.npz: no such file"),
    ({"readers": 1, "evaluate": "worker"}, "readers: 1 that only read, but evaluate is 'worker'"),
    ({"evaluate": "reader"}, "evaluate: 'reader', but readers is 0"),
    ({"checkpoint": ""}, "checkpoint directory '' is not a path"),
    ({"model": {"name": "linear", "inputs": 7}}, r"model: inputs of shape \(7,\), but the samples have \(1,\)"),
    ({"model": {"name": "linear", "outputs": 3}}, r"model: 3 outputs, but the targets have shape \(1,\)"),
    ({"model": {"name": "linear", "task": "classification"}}, "model: task 'classification', but the targets are not integers"),
    ({"timeout": float("inf")}, "timeout: inf is not a finite number"),
    ({"data": {"source": "linear", "w": [1.0, float("nan")]}}, "data.w.1: nan is not a finite number"),
    ({"seed": 1 << 64}, "seed: expected int <="),
])
def test_wrong(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^f.toml: {message}"):
        prepared(**raw)


@pytest.mark.parametrize(("objects", "message"), [
    ({"data": (np.zeros((4, 2)), np.zeros(4))}, "data: tuple is neither a source's name, nor a mpips.train.Data or Source"),
    ({"model": np.zeros(3)}, "model: ndarray has no describe, loss_and_grads, name, predict, tables, task, see mpips.models.Model"),
    ({"optimizer": 0.1}, "table 'linear.w': optimizer 0.1 is not one of mpips.optim"),
])
def test_wrong_objects(objects: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^fit: {message}"):
        prepare(parse(LINEAR), **objects)


def of_arrays(where: Path, **arrays: Any) -> dict[str, Any]:
    np.savez(where / "some.npz", **arrays)
    return {"source": "npz", "path": str(where / "some.npz")}


@pytest.mark.parametrize("y", [np.array([[0], [1], [2], [1]]), np.eye(4, dtype=int)])
def test_labels_that_are_no_vector_are_told_before_anything_is_written(tmp_path: Path, y: np.ndarray[Any, Any]) -> None:
    data = of_arrays(tmp_path, x=np.zeros((4, 2)), y=y)
    with pytest.raises(UsageError, match=r"^f.toml: data: y has labels of shape \([14],\), expected one number"):
        prepared(data=data)


def test_whole_numbers_can_be_the_targets_of_a_regression(tmp_path: Path) -> None:
    for y, outputs in ((np.array([900, 20, 3]), 1), (np.array([[1, 700], [2, 3], [4, 4]]), 2)):
        data = of_arrays(tmp_path, x=np.zeros((3, 2)), y=y)
        model = prepared(data=data, model={"name": "linear", "task": "regression"}).model
        assert model == models.make("linear", inputs=(2,), outputs=outputs, task="regression")
    with pytest.raises(UsageError, match=r"^f.toml: model: 3 outputs, but the targets have shape \(2,\)"):
        prepared(data=data, model={"name": "linear", "task": "regression", "outputs": 3})


def test_a_sample_that_is_no_number_is_named(tmp_path: Path) -> None:
    x, y = np.zeros((5, 2)), np.zeros(5)
    holed, late = x.copy(), y.copy()
    holed[3, 1], late[4] = np.nan, np.inf
    wrong = r"^f.toml: data: sample 3 of x has NaN or Inf"
    with pytest.raises(UsageError, match=wrong):
        prepared(data=of_arrays(tmp_path, x=holed, y=y))
    with pytest.raises(UsageError, match=r"^f.toml: data: sample 4 of y has NaN or Inf"):
        prepared(data=of_arrays(tmp_path, x=x, y=late))
    with pytest.raises(UsageError, match=r"^f.toml: data: sample 3 of x_test has NaN or Inf"):
        prepared(data=of_arrays(tmp_path, x=x, y=y, x_test=holed, y_test=y))
    with pytest.raises(UsageError, match=wrong):  # the scale of its feature would be NaN, and every gradient with it
        prepared(data=of_arrays(tmp_path, x=holed, y=y), nonfinite="skip")
    prepared(data=of_arrays(tmp_path, x=holed, y=late) | {"standardize": False}, nonfinite="skip")


def test_log_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^f.toml: checkpoint.directory: .*file/log cannot be written"):
        prepared(checkpoint=str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"^f.toml: log: '' is not a path"):
        prepared(log="")
    with pytest.raises(UsageError, match=r"^f.toml: log: .*file/x cannot be written"):
        prepared(log=str(tmp_path / "file" / "x"))


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(checkpoint="runs/x", log="runs/y")
    assert not list(tmp_path.iterdir())


def test_tables() -> None:
    training = prepared(staleness=2, combine="sum", nonfinite="skip", dtype="float64",
                        optimizer={"name": "adam", "lr": {"name": "step", "lr": 0.1, "every": 10}},
                        tables={"linear.b": {"staleness": "none", "optimizer": {"name": "sgd", "lr": 1.0}}})
    w, b = training.tables
    assert (w.name, w.staleness, w.combine, w.nonfinite, w.dtype) == ("linear.w", 2, "sum", "skip", "float64")
    assert w.optimizer == optim.Adam(lr=optim.Step(0.1, every=10))
    assert (b.name, b.staleness, b.combine, b.optimizer) == ("linear.b", None, "sum", optim.SGD(lr=1.0))
    assert training.data().x.dtype == np.float64


def test_model_fits_the_samples() -> None:
    x, y = np.zeros((4, 3, 5)), np.array([0, 6, 1, 2])
    model = setup.make_model(parse({"model": "linear"}).model, Data(x, y, x[:0], y[:0]))
    assert model == models.make("linear", inputs=(3, 5), outputs=7)
    y = np.zeros((4, 2))
    model = setup.make_model(parse({"model": "linear"}).model, Data(x, y, x[:0], y[:0]))
    assert model == models.make("linear", inputs=(3, 5), outputs=2, task="regression")


def test_meta_is_json() -> None:
    import json

    training = prepared(data={"source": "linear", "standardize": True})
    meta = json.loads(json.dumps(training.meta))
    assert meta["task"] == "regression"
    assert models.make(**meta["model"]) == training.model
    assert len(meta["scale"]["mean"]) == 1


def test_objects() -> None:
    x = np.zeros((4, 2), np.float32)
    data = Data(x, np.zeros(4, np.float32), x[:0], x[:0, 0])
    model = models.make("linear", inputs=2, outputs=1, task="regression", bias=False)
    training = prepare(Config(), model=model, data=data, optimizer=optim.SGD(lr=3.0))
    assert training.model is model
    assert training.data() is data
    assert [t.optimizer for t in training.tables] == [optim.SGD(lr=3.0)]
