"""Whole trainings in one process, and a loop of plain NumPy as the oracle."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpips
from mpips.checkpoint.read import Saved
from mpips.errors import CheckpointError, NonFiniteGradient, UsageError
from mpips.nn import initial
from mpips.train import Data, Order, Report, load, predictor, source
from mpips.train.config import Named, parse
from mpips.train.setup import Training

LINEAR: dict[str, Any] = {
    "data": {"source": "linear", "samples": 100, "w": [2.0, -3.0], "b": 0.5, "noise": 0.01, "test_fraction": 0.3},
    "model": "linear", "optimizer": {"name": "sgd", "lr": 0.3}, "epochs": 20, "batch": 16, "device": "cpu",
}


def fit(*args: Any, **keywords: Any) -> Report:
    report = mpips.fit(*args, **keywords)
    assert report is not None  # one process is worker 0
    return report


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_linear_like_plain_numpy(tmp_path: Path) -> None:
    report = fit(LINEAR, checkpoint=str(tmp_path), servers=3)
    data = load(source(Named("linear", {k: v for k, v in LINEAR["data"].items() if k != "source"})))
    w, b = np.zeros((2, 1), np.float32), np.zeros(1, np.float32)
    order = Order(len(data.x), batch=16, workers=1, seed=0)
    model = mpips.models.make("linear", inputs=2, outputs=1, task="regression")
    for clock in range(20 * order.steps):
        rows = order.rows(clock, 0)
        _, grads = model.loss_and_grads({"linear.w": w, "linear.b": b}, data.x[rows], data.y[rows])
        w = w - np.float32(0.3) * grads["linear.w"]
        b = b - np.float32(0.3) * grads["linear.b"]
    assert report.checkpoint is not None
    with Saved(report.checkpoint) as saved:
        np.testing.assert_array_equal(saved.array("linear.w"), w)
        np.testing.assert_array_equal(saved.array("linear.b"), b)
    assert (report.steps, report.clock, report.accuracy) == (100, 100, None)
    assert report.mse == pytest.approx(float(np.mean((data.x_test @ w + b - data.y_test) ** 2)), rel=1e-4)


def test_digits() -> None:
    pytest.importorskip("sklearn")
    report = fit(data="digits", model={"name": "mlp", "hidden": [64]}, optimizer={"name": "momentum", "lr": 0.1},
                 epochs=4, staleness="asp", device="cpu")
    assert report.accuracy is not None
    assert report.accuracy > 0.95
    assert report.checkpoint is None


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mpips")
    before = logger.level, list(logger.handlers)
    fit(LINEAR, epochs=4, log=str(tmp_path / "log"), log_every=3, eval_every=2)
    assert (logger.level, logger.handlers) == before
    records = metrics(tmp_path / "log")
    assert [record["clock"] for record in records] == [3, 6, 9, 12, 15, 18, 20]
    assert records[0].keys() == {"time", "clock", "epoch", "loss", "mse", "samples_per_s", "staleness", "pull_gb_per_s",
                                 "push_gb_per_s", "wait_s", "skipped", "left_s"}
    assert records[-1]["epoch"] == 4
    assert records[-1]["mse"] < records[0]["mse"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{record['clock']}/20" for record in records]
    log = (tmp_path / "log" / "rank-0000-worker-0.log").read_text().splitlines()
    assert len(log) == 1 + len(records)
    assert log[0].endswith("worker 0 of 1 begins at clock 0 of 20")
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["metrics.jsonl", "rank-0000-worker-0.log"]


def test_no_directory_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(LINEAR, epochs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"staleness": 2}, {"optimizer": {"name": "adam", "lr": 0.05}}])
def test_resume_gives_the_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = fit(LINEAR, checkpoint=str(tmp_path / "whole"), **options)
    parts = {"directory": str(tmp_path / "parts"), "every": 4}
    first = fit(LINEAR, checkpoint=parts, epochs=7, servers=2, **options)
    assert (first.steps, first.clock) == (35, 35)
    rest = fit(LINEAR, checkpoint=parts, resume="latest", **options)
    assert (rest.steps, rest.clock) == (65, 100)
    assert rest.mse == whole.mse
    with Saved(whole.checkpoint or "") as a, Saved(rest.checkpoint or "") as b:
        for name in a.tables:
            np.testing.assert_array_equal(a.array(name), b.array(name))
    assert [record["clock"] for record in metrics(tmp_path / "parts" / "log")] == list(range(5, 101, 5))
    done = fit(LINEAR, checkpoint=parts, resume=rest.checkpoint, **options)
    assert (done.steps, done.loss, done.mse) == (0, None, whole.mse)


def test_resume_of_another_model_names_the_tables(tmp_path: Path) -> None:
    fit(LINEAR, epochs=1, checkpoint=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"table 'hidden0.w' is not in the checkpoint"):
        mpips.fit(LINEAR, model="mlp", checkpoint=str(tmp_path), resume="latest")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        mpips.fit(LINEAR, checkpoint=str(tmp_path), resume=str(tmp_path / "log"))
    with pytest.raises(UsageError, match=r"resume 'auto', but there is no \[checkpoint\] section"):
        mpips.fit(LINEAR, resume="auto")


def test_a_resume_with_another_batch_goes_on_at_the_same_sample(tmp_path: Path) -> None:
    assert fit(LINEAR, epochs=2, checkpoint={"directory": str(tmp_path), "every": 3, "keep_last": 4}).clock == 2 * 5
    second = fit(LINEAR, epochs=4, batch=7, checkpoint=str(tmp_path), resume=tmp_path / "step-00000003")  # 22 of 70 are left
    assert (second.steps, second.clock) == (4 + 3 * 10, 37)
    assert [record["epoch"] for record in metrics(tmp_path / "log")] == [1, 2, 3, 4]
    third = fit(LINEAR, epochs=5, batch=100, checkpoint=str(tmp_path), resume="latest")
    assert (third.steps, third.clock) == (1, 38)
    assert fit(LINEAR, epochs=5, batch=1, checkpoint=str(tmp_path), resume="latest").steps == 0


@pytest.mark.parametrize(("changes", "message"), [
    ({"test_fraction": 0.2}, "data: samples 70 in the checkpoint, 80 here; data: held_out 30 in the checkpoint, 20 here"),
    ({"seed": 1}, "data: targets '[0-9a-f]{8}' in the checkpoint, '[0-9a-f]{8}' here"),
    ({"noise": 0.02}, "data: targets '[0-9a-f]{8}' in the checkpoint"),
    ({"standardize": True}, "data: standardized False in the checkpoint, True here"),
])
def test_a_resume_with_other_data_is_an_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    fit(LINEAR, epochs=1, checkpoint=str(tmp_path))
    with pytest.raises(CheckpointError, match=f"step-00000005 is of another training: {message}"):
        mpips.fit(LINEAR, data={**LINEAR["data"], **changes}, checkpoint=str(tmp_path), resume="auto")


def test_a_resume_of_a_model_with_the_same_tables_that_computes_something_else_is_an_error(tmp_path: Path) -> None:
    mlp = {"name": "mlp", "hidden": [3]}
    fit(LINEAR, epochs=1, model=mlp, checkpoint=str(tmp_path))
    with pytest.raises(CheckpointError, match="another training: model: activation 'relu' in the checkpoint, 'tanh' here"):
        mpips.fit(LINEAR, model={**mlp, "activation": "tanh"}, checkpoint=str(tmp_path), resume="latest")


def test_a_resume_with_another_seed_is_an_error_where_an_epoch_has_samples_left(tmp_path: Path) -> None:
    fit(LINEAR, epochs=1, checkpoint={"directory": str(tmp_path), "every": 3})
    with pytest.raises(CheckpointError, match="step-00000003 is within an epoch: seed 0 in the checkpoint, 1 here"):
        mpips.fit(LINEAR, seed=1, checkpoint=str(tmp_path), resume=tmp_path / "step-00000003")
    assert fit(LINEAR, epochs=2, seed=1, checkpoint=str(tmp_path), resume="latest").steps == 5


@pytest.mark.parametrize("left_out", [["data"], ["data", "config"], ["model"]])
def test_a_checkpoint_without_the_facts_of_its_training_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   left_out: list[str]) -> None:
    def less(training: Training) -> Training:
        return dataclasses.replace(training, meta={key: value for key, value in training.meta.items() if key not in left_out})

    with monkeypatch.context() as older:
        older.setattr(sys.modules["mpips.train.fit"], "going_on", less)
        fit(LINEAR, epochs=1, checkpoint=str(tmp_path))
    other = {**LINEAR["data"], "seed": 1} if "data" in left_out else LINEAR["data"]
    assert fit(LINEAR, epochs=2, data=other, checkpoint=str(tmp_path), resume="auto").steps == 5


def test_clip_norm() -> None:
    free, clipped = fit(LINEAR, epochs=1, log_every=1), fit(LINEAR, epochs=1, log_every=1, clip_norm=1e-3)
    assert free.mse is not None
    assert clipped.mse is not None
    assert clipped.mse > 2 * free.mse


def test_nonfinite(tmp_path: Path) -> None:
    x = np.ones((8, 1), np.float32)
    y = np.ones(8, np.float32)
    y[3] = np.nan
    held = np.ones(8, np.float32)
    np.savez(tmp_path / "some.npz", x=x, y=y, x_test=x, y_test=held)
    raw = {**LINEAR, "data": {"source": "npz", "path": str(tmp_path / "some.npz"), "standardize": False}, "batch": 1}
    with pytest.raises(UsageError, match="sample 3 of y has NaN or Inf"):  # of a file, before the start
        mpips.fit(raw, epochs=1)
    with pytest.raises(NonFiniteGradient, match="linear"):
        mpips.fit(raw, data=Data(x, y, x, held), epochs=1)
    report = fit(raw, epochs=2, nonfinite="skip")
    assert report.skipped == 2 * 2  # two tables, two epochs
    assert report.mse is not None
    assert np.isfinite(report.mse)
    report = fit(raw, epochs=1, nonfinite="allow")
    assert (report.skipped, np.isnan(report.mse)) == (0, True)


def test_readers_are_left_out_in_one_process(tmp_path: Path) -> None:
    report = fit(LINEAR, readers=1, epochs=2, log=str(tmp_path))
    assert report.mse is not None
    assert [record.get("mse") is None for record in metrics(tmp_path)] == [True, False]


def test_ways_to_say_it(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('model = "linear"\nepochs = 3\nbatch = 16\n[data]\nsource = "linear"\nsamples = 50\n')
    assert fit(file).steps == 3 * 3
    assert fit(str(file), settings=["epochs=2"]).steps == 2 * 3
    assert fit(file, epochs=1).steps == 3
    assert fit(parse({**LINEAR, "epochs": 1}), batch=70).steps == 1
    for directory, said in ((tmp_path / "a", {"directory": str(tmp_path / "a"), "every": 2}),
                            (tmp_path / "b", mpips.Checkpoints(tmp_path / "b", every=2, keep_last=None))):
        fit(file, epochs=2, checkpoint=said)
        assert len(list(directory.glob("step-*"))) == 3
    saves = mpips.Checkpoints(tmp_path / "b", resume=tmp_path / "b" / "step-00000006")
    assert fit(file, epochs=3, checkpoint=saves).steps == 3
    with pytest.raises(UsageError, match="settings are changes to a file"):
        mpips.fit(LINEAR, settings=["epochs=2"])
    with pytest.raises(UsageError, match=r"^fit: epocs: unknown key"):
        mpips.fit(LINEAR, epocs=3)
    with pytest.raises(UsageError, match=r"^fit: epocs: unknown key"):
        mpips.fit(parse(LINEAR), epocs=3)


def test_a_model_of_ones_own() -> None:
    class Mean:
        """The mean of y, whatever x is."""

        name, task = "mean", "regression"

        def tables(self, optimizer: Any, **options: Any) -> list[mpips.Dense]:
            return [mpips.Dense("mean", shape=(1,), optimizer=optimizer, **options)]

        def loss_and_grads(self, params: Any, x: Any, y: Any) -> tuple[float, dict[str, Any]]:
            apart = params["mean"] - y
            return float((apart**2).mean()), {"mean": apart.mean(keepdims=True)}

        def predict(self, params: Any, x: Any) -> Any:
            return np.repeat(params["mean"], len(x))

        def describe(self) -> dict[str, Any]:
            return {"name": "mean"}

    y = np.arange(8, dtype=np.float32)
    data = Data(y[:, None], y, y[:4, None], y[:4])
    report = fit(model=Mean(), data=data, optimizer=mpips.optim.SGD(lr=1.0), epochs=1, batch=8, device="cpu")
    assert report.mse == pytest.approx(np.mean((3.5 - y[:4]) ** 2))


def test_a_model_of_ones_own_may_have_targets_that_are_no_numbers() -> None:
    class Letters(mpips.models.Linear):
        def loss_and_grads(self, params: Any, x: Any, y: Any) -> tuple[float, dict[str, Any]]:
            return super().loss_and_grads(params, x, y.astype("S1").view(np.uint8)[:, None])

    data = Data(np.zeros((4, 1), np.float32), np.array(list("abcd")))
    assert fit(model=Letters(inputs=1, outputs=1, task="regression"), data=data, clip_norm=1.0, epochs=1).steps == 1


def test_half_tables(tmp_path: Path) -> None:
    report = fit(LINEAR, dtype="bfloat16", checkpoint=str(tmp_path))
    assert report.mse is not None
    assert report.mse < 0.05
    out = predictor(report.checkpoint or "")(np.zeros((1, 2)))
    np.testing.assert_allclose(out, [[0.5]], atol=0.02)


def test_initial_values_are_those_of_the_seed(tmp_path: Path) -> None:
    raw = {**LINEAR, "model": "mlp", "optimizer": {"name": "sgd", "lr": 0.0}, "epochs": 1, "seed": 5}
    report = fit(raw, checkpoint=str(tmp_path))
    model = mpips.models.make("mlp", inputs=2, outputs=1, task="regression")
    expected = initial(model.tables(mpips.optim.SGD(lr=0.0)), seed=5)
    with Saved(report.checkpoint or "") as saved:
        for name, value in expected.items():
            np.testing.assert_array_equal(saved.array(name), value)
