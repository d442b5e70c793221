"""Gradients are pushed layer by layer where that is worth it, and nothing else changes by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpips
from mpips.checkpoint.read import Saved
from mpips.models import Layered, Model
from mpips.train import Data
from tests.mpirun import launcher, mpirun

OPTIONS: dict[str, Any] = {"optimizer": {"name": "momentum", "lr": 0.05}, "epochs": 2, "batch": 8, "device": "cpu"}
JOB = """
import json, sys
import mpips
from tests.train.test_early import data, models, OPTIONS

for name, model in models().items():
    mpips.fit(data=data(), model=model, checkpoint=f"{sys.argv[1]}/{name}", trace=f"{sys.argv[1]}/{name}.json", **OPTIONS)
"""


class Whole:
    """An MLP that gives its gradients only when it has all of them."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.name, self.task = inner.name, inner.task
        self.tables, self.loss_and_grads, self.predict = inner.tables, inner.loss_and_grads, inner.predict
        self.describe = inner.describe


def data() -> Data:
    draw = np.random.default_rng(3)
    return Data(draw.standard_normal((48, 6)).astype(np.float32), draw.integers(0, 3, 48),
                draw.standard_normal((8, 6)).astype(np.float32), draw.integers(0, 3, 8))


def models() -> dict[str, Model]:
    """The same one twice; only the matrices between its hidden layers have 1 MiB."""
    mlp = mpips.models.make("mlp", inputs=6, outputs=3, hidden=[520, 520, 520])
    return {"layered": mlp, "whole": Whole(mlp)}


def test_who_is_layered() -> None:
    assert {name: isinstance(model, Layered) for name, model in models().items()} == {"layered": True, "whole": False}


def bits(folder: Path) -> dict[str, bytes]:
    (newest,) = folder.glob("step-*")
    with Saved(newest) as saved:
        return {name: saved.array(name).tobytes() for name in saved.tables}


def pushes(trace: Path) -> dict[int, list[str]]:
    """Tables of each push of worker 0 by clock, and whether it lies in the computation."""
    events = json.loads(trace.read_text())["traceEvents"]
    (pid,) = (e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == "worker 0")
    mine = [e for e in events if e["pid"] == pid and e["ph"] == "X"]
    ends, out = 0.0, dict[int, list[str]]()
    for event in mine:
        if event["name"] == "compute":
            ends = event["ts"] + event["dur"]
        elif event["name"] == "push":
            out.setdefault(event["args"]["clock"], []).append(("early " if event["ts"] < ends else "") + event["args"]["what"])
    return out


EARLY = ["early out.w, out.b, hidden2.w, hidden2.b", "early hidden1.w, hidden1.b", "hidden0.w, hidden0.b"]
AT_ONCE = ["hidden0.w, hidden0.b, hidden1.w, hidden1.b, hidden2.w, hidden2.b, out.w, out.b"]


@pytest.mark.skipif(not launcher(), reason="there is no mpirun")
def test_the_bits_are_the_same_and_the_trace_shows_the_pushes(tmp_path: Path) -> None:
    done = mpirun(3, ["-c", JOB, str(tmp_path)])
    assert done.code == 0, done
    assert bits(tmp_path / "layered") == bits(tmp_path / "whole")
    assert pushes(tmp_path / "layered.json") == {clock: EARLY for clock in range(6)}
    assert pushes(tmp_path / "whole.json") == {clock: AT_ONCE for clock in range(6)}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"staleness": 1}, {"dtype": "bfloat16"}])
def test_in_one_process(tmp_path: Path, options: dict[str, Any]) -> None:
    for name, model in models().items():
        mpips.fit(data=data(), model=model, checkpoint=str(tmp_path / name), trace=str(tmp_path / f"{name}.json"),
                  **OPTIONS, **options)
    assert bits(tmp_path / "layered") == bits(tmp_path / "whole")
    early = pushes(tmp_path / "layered.json")[3]
    if "clip_norm" in options:
        assert early == AT_ONCE
    elif "dtype" in options:  # half as many bytes: two matrices make a push
        assert early == ["early out.w, out.b, hidden2.w, hidden2.b, hidden1.w, hidden1.b", "hidden0.w, hidden0.b"]
    else:
        assert early == EARLY
