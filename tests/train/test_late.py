"""A table is waited for when the forward pass takes it, and nothing else changes by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpips
from mpips import Worker
from mpips.models import Layered, Model
from mpips.nn.layer import Grads, Params
from mpips.train.late import Late
from tests.mpirun import launcher, mpirun
from tests.train.test_early import OPTIONS, Whole, bits, data

TABLES = [mpips.Dense(name, (size,), mpips.optim.Momentum(lr=0.5, momentum=0.5))
          for name, size in (("a", 9), ("b", 1), ("c", 20), ("d", 3))]
JOB = """
import json, sys, time
import mpips
from mpips import layout
from mpips.server import server
from tests.train.test_early import data, OPTIONS
from tests.train.test_late import pairs

folder, layers, seconds, block, options = sys.argv[1], *json.loads(sys.argv[2])
layout.BLOCK = layout.WHOLE = block
fold = server.fold_span

def slow(*args):
    time.sleep(seconds)
    return fold(*args)

server.fold_span = slow
for name, model in pairs(layers).items():
    for more in ({}, {"resume": "latest", "epochs": 3}) if "adam" in str(options) else ({},):
        mpips.fit(data=data(), model=model, checkpoint={"directory": f"{folder}/{name}", "keep_last": 1},
                  trace=f"{folder}/{name}.json", **OPTIONS | options | more)
"""


def pairs(layers: int) -> dict[str, Model]:
    """The same model twice, one that takes its parameters when it needs them and one that has them all before."""
    mlp = mpips.models.make("mlp", inputs=6, outputs=3, hidden=[520] * layers)
    return {"late": mlp, "whole": Whole(mlp)}


class Some(Whole):
    """A model that looks at one of its parameters only, gives it as its own gradient, and may fail."""

    fails = False

    def __init__(self) -> None:
        super().__init__(pairs(3)["late"])
        self.loss_and_grads = self._loss_and_grads  # type: ignore[method-assign]

    def _loss_and_grads(self, params: Params, x: Any, y: Any) -> tuple[float, Grads]:
        first = params["hidden1.w"]
        if self.fails:
            raise RuntimeError("in the middle")
        return 0.0, {"hidden1.w": first}


class SomeLate(Some):
    def loss_and_grads_by_layer(self, params: Params, x: Any, y: Any, done: Callable[[Grads], None]) -> float:
        loss, grads = self._loss_and_grads(params, x, y)
        done(grads)
        return loss


def steps(ps: Worker, least: int) -> None:
    late, where = Late(ps, TABLES, least), dict[str, int]()
    value = slope = 0.0
    for clock in range(5):
        params = late.begin()
        assert (len(params), list(params), "c" in params, "x" in params) == (4, ["a", "b", "c", "d"], True, False)
        with pytest.raises(KeyError):
            params["x"]
        for name in ("c", "a", "d", "b")[clock % 2 :]:  # not all, and in no order
            assert set(params[name].tolist()) == {value}
            assert where.setdefault(name, id(params[name])) == id(params[name]), "the same array in every step"
        ps.push({table.name: np.full(table.shape, clock + 1, np.float32) for table in TABLES})
        ps.clock()
        slope = 0.5 * slope + clock + 1
        value -= 0.5 * slope


@pytest.mark.parametrize("least", [1, 40, 1000])
@pytest.mark.parametrize("staleness", [0, 2, None])
def test_values_and_arrays(least: int, staleness: int | None) -> None:
    tables = [replace(table, staleness=staleness if table.name in "ad" else 0) for table in TABLES]
    mpips.run(lambda ps: steps(ps, least), tables, servers=2, device="cpu")
    mpips.run(lambda ps: steps(ps, least), [replace(table, staleness=staleness) for table in TABLES], device="cpu")


def test_no_tables() -> None:
    def work(ps: Worker) -> None:
        assert dict(Late(ps, []).begin()) == {}

    mpips.run(work, TABLES, device="cpu")


@pytest.mark.skipif(not launcher(), reason="there is no mpirun")
@pytest.mark.parametrize(("ranks", "block", "options"), [
    (3, 4 << 20, {"optimizer": {"name": "adam", "lr": 0.01}}),
    (3, 1 << 18, {"combine_on": "node", "combine": "sum"}),
    (3, 1 << 18, {"mailboxes": 3 << 20}),
    (3, 1 << 18, {"clip_norm": 0.1, "servers": 2}),
    (2, 1 << 18, {"tables": {"hidden1.w": {"staleness": "asp"}, "out.w": {"staleness": 2}}}),
    (2, 4 << 20, {"staleness": "asp"}),
])
def test_the_bits_are_the_same(tmp_path: Path, ranks: int, block: int, options: dict[str, Any]) -> None:
    """Of slow servers; where there is staleness, of one worker."""
    done = mpirun(ranks, ["-c", JOB, str(tmp_path), json.dumps([3, 0.005, block, options])])
    assert done.code == 0, done
    assert bits(tmp_path / "late") == bits(tmp_path / "whole")


def pulls(trace: Path) -> list[str]:
    """Names of the tables that worker 0 read while it computed."""
    events = [e for e in json.loads(trace.read_text())["traceEvents"]]
    (pid,) = (e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == "worker 0")
    mine = [e for e in events if e["pid"] == pid and e["ph"] == "X"]
    computes = [(e["ts"], e["ts"] + e["dur"]) for e in mine if e["name"] == "compute"]
    return [name for e in mine if e["name"].startswith("pull") and any(begin < e["ts"] < end for begin, end in computes)
            for name in e["args"]["what"].split(", ") if name.endswith("w")]


@pytest.mark.skipif(not launcher(), reason="there is no mpirun")
def test_layers_compute_while_slow_servers_fold_those_behind_them(tmp_path: Path) -> None:
    done = mpirun(3, ["-c", JOB, str(tmp_path), json.dumps([5, 0.03, 4 << 20, {}])])
    assert done.code == 0, done
    assert bits(tmp_path / "late") == bits(tmp_path / "whole")
    found = pulls(tmp_path / "late.json")
    assert "hidden3.w" in found
    assert "hidden0.w" not in found, "it is needed at once"
    assert pulls(tmp_path / "whole.json") == []


def test_a_model_that_takes_only_some(tmp_path: Path) -> None:
    for name, model in {"late": SomeLate(), "whole": Some()}.items():
        assert isinstance(model, Layered) == (name == "late")
        mpips.fit(data=data(), model=model, checkpoint=str(tmp_path / name), **OPTIONS)
    assert bits(tmp_path / "late") == bits(tmp_path / "whole")


def test_a_model_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SomeLate, "fails", True)
    with pytest.raises(RuntimeError, match="in the middle"):
        mpips.fit(data=data(), model=SomeLate(), **OPTIONS)
