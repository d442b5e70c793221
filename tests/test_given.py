"""Numbers as user code has them: any integer will do wherever there is one to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpips
from mpips.cluster.roles import assign
from mpips.cluster.run import checked, threads_of
from mpips.given import whole
from mpips.nn import Dense, Sequential
from mpips.sampling import Sampler
from mpips.train.config import parse


class Three:
    """As a tensor library's integer may be: neither Python's nor NumPy's."""

    def __index__(self) -> int:
        return 3


RULE = mpips.optim.SGD(lr=0.1)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), Three()], ids=repr)
def test_an_integer_of_any_kind_is_one_of_python(value: Any) -> None:
    found = whole(value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), 3.0, np.float32(3), "3", None, Fraction(3), np.array([3]), [3]])
def test_what_is_no_integer(value: Any) -> None:
    assert whole(value) is None


def test_the_range_is_half_open() -> None:
    assert [whole(n, 1, 3) for n in range(5)] == [None, 1, 2, None, None]


def options(one: Callable[[int], Any]) -> list[Any]:
    """What has numbers of this kind, in a form to compare."""
    job = checked(**{name: p.default for name, p in mpips_run_parameters()} | {
        "work": print, "tables": [], "read": print, "servers": one(1), "readers": one(1), "seed": one(3), "reserve": one(5),
        "mailboxes": one(7), "threads": one(2), "timeout": one(9)})
    born = mpips.Rows("word", None, one(2), RULE, capacity=one(9), admit=one(2), ttl=one(4), staleness=one(1), decay=one(0))
    checkpoints = mpips.Checkpoints("runs", every=one(5), keep_last=one(2))
    sampler = Sampler(one(9), seed=one(4))
    step = mpips.optim.Step(0.1, one(3))
    return [
        job.facts(), json.dumps([checkpoints.every, checkpoints.keep_last]),
        checked(**{name: p.default for name, p in mpips_run_parameters()} | {
            "work": print, "tables": [], "servers": (one(2), "first")}).facts()["servers"],
        assign([0, 0, 1, 1], one(1), one(1)), threads_of(one(2)), json.dumps(step.describe()),
        json.dumps([table.describe() for table in (born, mpips.Rows("user", one(4), one(2), RULE),
                                                   mpips.Dense("w", (one(3), one(2)), RULE, mpips.init.normal(seed=one(1))))]),
        mpips.Dense("v", one(3), RULE).shape, Dense(one(3)), Sequential([Dense(one(3))], input_shape=one(2)).input_shape,
        sampler.draw(one(4), worker=one(1), clock=one(2)).tolist(),
        parse({"epochs": one(2), "batch": one(3), "model": {"name": "mlp", "hidden": [one(3)]}, "servers": [one(1), "first"]}),
    ]


def mpips_run_parameters() -> Any:
    from inspect import signature

    return signature(mpips.run).parameters.items()


@pytest.mark.parametrize("one", [np.int64, np.uint8], ids=lambda one: one.__name__)
def test_options_take_any_integer(one: Callable[[int], Any]) -> None:
    assert options(one) == options(int)


def test_a_whole_run_with_integers_of_numpy(tmp_path: Path) -> None:
    def work(ps: mpips.Worker) -> int:
        ps.cache("user", rows=np.int64(4))
        ps.intent("user", [0], at_clock=np.uint8(1))
        ps.push("w", np.ones(3, np.float32))
        ps.clock()
        return int(ps.pull("user", rows=[0]).size)

    tables = [mpips.Dense("w", np.int64(3), RULE), mpips.Rows("user", np.int64(8), np.int64(2), RULE)]
    assert mpips.run(work, tables, servers=np.int64(2), seed=np.int64(3), threads=np.int64(1), device="cpu", meta={"a": 1},
                     checkpoint=mpips.Checkpoints(tmp_path, every=np.int64(1), keep_last=np.int64(1))) == [2]
    with mpips.Saved(tmp_path / "step-00000001") as saved:
        assert saved.seed == 3
