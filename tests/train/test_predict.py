"""Predictions of a checkpoint are those of the trained model on samples as they came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpips
from mpips.errors import CheckpointError, UsageError
from mpips.train import load, predictor, source
from mpips.train.config import Named
from mpips.train.evaluate import CHUNK, score

LINEAR: dict[str, Any] = {"source": "linear", "samples": 60, "w": [2.0, -3.0], "standardize": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    report = mpips.fit(data=LINEAR, model="linear", epochs=5, checkpoint=str(folder), device="cpu")
    assert report is not None
    assert report.checkpoint is not None
    return report.checkpoint


def test_scaled_as_in_training(checkpoint: str) -> None:
    predict = predictor(checkpoint)
    src = source(Named("linear", {k: v for k, v in LINEAR.items() if k != "source"}))
    data, raw = load(src), src.arrays()
    assert predict.scale is not None
    np.testing.assert_array_equal(predict.scale.mean, data.scale.mean)  # type: ignore[union-attr]
    kept = predict(raw.x)
    assert kept.shape == (60, 1)
    assert kept.dtype == np.float32
    params = predict.params
    np.testing.assert_allclose(kept, predict.scale(raw.x.astype(np.float32)) @ params["linear.w"] + params["linear.b"],
                               rtol=1e-5)


def test_many_none_and_wrong(checkpoint: str) -> None:
    predict = predictor(checkpoint)
    x = np.random.default_rng(0).standard_normal((CHUNK + 7, 2))
    np.testing.assert_array_equal(predict(x)[CHUNK:], predict(x[CHUNK:]))
    assert predict(x[:0]).shape == (0, 1)
    with pytest.raises(UsageError, match=r"input: shape \(7,\), expected a batch of shape \(2,\)"):
        predict(np.zeros(7))
    with pytest.raises(UsageError, match=r"input: shape \(5, 3\), expected a batch of shape \(2,\)"):
        predict(np.zeros((5, 3)))
    with pytest.raises(UsageError, match="expected an array of numbers"):
        predict(np.array(["a"]))


def test_not_ours(tmp_path: Path, checkpoint: str) -> None:
    tables = [mpips.Dense("w", shape=(2,), optimizer=mpips.optim.SGD(lr=1.0))]
    mpips.run(lambda ps: ps.clock(), tables, checkpoint=mpips.Checkpoints(tmp_path / "other"), device="cpu")
    (other,) = (tmp_path / "other").glob("step-*")
    with pytest.raises(CheckpointError, match=r"not written by mpips\.fit"):
        predictor(other)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        predictor(tmp_path / "none")
    with pytest.raises(UsageError, match="device: 'tpu'"):
        predictor(checkpoint, "tpu")


def test_a_model_that_is_not_known_here(tmp_path: Path) -> None:
    meta = {"model": {"name": "mean"}, "scale": None}
    tables = [mpips.Dense("w", shape=(2,), optimizer=mpips.optim.SGD(lr=1.0))]
    mpips.run(lambda ps: ps.clock(), tables, checkpoint=mpips.Checkpoints(tmp_path), meta=meta, device="cpu")
    (path,) = tmp_path.glob("step-*")
    with pytest.raises(CheckpointError, match="its model cannot be made here: model 'mean' is not known"):
        predictor(path)


@pytest.mark.parametrize("n", [1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_score_does_not_depend_on_the_chunks(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, 1)), rng.standard_normal(n)
    model = mpips.models.make("linear", inputs=1, outputs=1, task="regression")
    params = {"linear.w": np.array([[2.0]]), "linear.b": np.array([1.0])}
    assert score(model, params, x, y) == {"mse": pytest.approx(float(np.mean((2 * x[:, 0] + 1 - y) ** 2)))}
    labels = rng.integers(0, 3, n)
    model = mpips.models.make("linear", inputs=1, outputs=3, bias=False)
    params = {"linear.w": np.array([[1.0, 0.0, -1.0]])}
    expected = np.mean(np.argmax(x * [[1.0, 0.0, -1.0]], axis=1) == labels)
    logits = x * [[1.0, 0.0, -1.0]]
    loss = float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(n), labels]))
    assert score(model, params, x, labels) == {"accuracy": pytest.approx(float(expected)), "cross_entropy": pytest.approx(loss)}
    assert score(model, params, x[:0], labels[:0]) == {}
