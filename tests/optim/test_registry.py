from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.errors import UsageError
from mpips.optim import OPTIMIZERS, SCHEDULES, Optimizer, make, make_schedule

SOME: list[Optimizer] = [
    *(make(name, lr=0.25, clip=2.0) for name in OPTIMIZERS),
    optim.Adam(optim.Warmup(optim.Step(0.1, 5), clocks=3), beta1=0.5, weight_decay=0.1),
    optim.AdamW(optim.Cosine(0.1, 50, floor=0.01)),
    *(optim.SGD(schedule) for schedule in (optim.Exponential(0.1, 0.9, 5), optim.Polynomial(0.1, 50, 2), optim.InverseSqrt(0.1, 9),
                                           optim.OneCycle(0.1, 50, div=10), optim.Warmup(optim.Polynomial(0.1, 50), 3))),
    *(make(name, lr=0.25, bounds=(-1, 2.5)) for name in OPTIMIZERS),
]


def test_names_are_those_of_configuration_files() -> None:
    assert list(OPTIMIZERS) == ["sgd", "momentum", "nesterov", "adagrad", "rowadagrad", "rmsprop", "adadelta", "adam",
                                "adamw", "amsgrad", "lion", "ftrl", "add"]
    assert list(SCHEDULES) == ["constant", "step", "exponential", "polynomial", "cosine", "onecycle", "inversesqrt", "warmup"]


@pytest.mark.parametrize("rule", SOME, ids=lambda r: r.name)
def test_what_is_described_can_be_made_again(rule: Optimizer) -> None:
    assert make(**json.loads(json.dumps(rule.describe()))) == rule


def test_bounds_are_a_list_in_json() -> None:
    rule = make("sgd", lr=0.1, bounds=[0, np.float32(0.5)])
    assert rule.bounds == (0.0, 0.5)
    assert json.dumps(rule.describe()["bounds"]) == "[0.0, 0.5]"


def test_numbers_of_any_kind_become_floats() -> None:
    rule = make("adam", lr=1, beta1=np.float32(0.5))
    assert json.dumps([rule.lr, rule.describe()["beta1"]]) == "[1.0, 0.5]"


def test_lr_as_a_dict_is_a_schedule() -> None:
    rule = make("sgd", lr={"name": "warmup", "clocks": 4, "then": {"name": "cosine", "lr": 0.5, "clocks": 10}})
    assert rule == optim.SGD(optim.Warmup(optim.Cosine(0.5, 10), 4))


@pytest.mark.parametrize(("name", "options", "text"), [
    ("adamax", {"lr": 0.1}, "optimizer 'adamax' is not one of sgd, momentum, .*, add"),
    (["sgd"], {"lr": 0.1}, "is not one of"),
    ("adam", {"lr": 0.1, "beta": 0.9}, "optimizer adam: unknown option 'beta'; it has lr, weight_decay, clip, bounds, beta1,"),
    ("adam", {}, "optimizer adam: lr is missing"),
    ("adam", {"lr": "0.1"}, "optimizer adam: lr '0.1' is not a finite number"),
    ("adam", {"lr": 0.1, "beta1": True}, "optimizer adam: beta1 True is not a finite number"),
    ("adam", {"lr": 0.1, "beta1": None}, "optimizer adam: beta1 None"),
    ("adam", {"lr": 0.1, "beta2": 1.0}, r"optimizer adam: beta2 1.0 is not in \[0, 1\)"),
    ("amsgrad", {"lr": 0.1, "beta2": 1.0}, "optimizer amsgrad: beta2"),
    ("nesterov", {"lr": 0.1, "momentum": -0.1}, "optimizer nesterov: momentum"),
    ("sgd", {"lr": -0.1}, r"optimizer sgd: lr -0.1 is not in \[0, inf\)"),
    ("sgd", {"lr": abs}, "optimizer sgd: lr <built-in function abs> is not one of mpips.optim.schedules, nor a number"),
    ("sgd", {"lr": math.inf}, "optimizer sgd: lr inf is not a finite number"),
    ("sgd", {"lr": 0.1, "clip": 0}, "optimizer sgd: clip 0.0"),
    ("sgd", {"lr": 0.1, "weight_decay": math.nan}, "optimizer sgd: weight_decay nan"),
    ("sgd", {"lr": 0.1, "bounds": 1.0}, r"optimizer sgd: bounds 1.0 is not a pair \(low, high\)"),
    ("sgd", {"lr": 0.1, "bounds": (0.0, 1.0, 2.0)}, "optimizer sgd: bounds .* is not a pair"),
    ("sgd", {"lr": 0.1, "bounds": (1.0, 1)}, "optimizer sgd: bounds: low 1.0 is not below high 1.0"),
    ("sgd", {"lr": 0.1, "bounds": (0.0, math.inf)}, "optimizer sgd: bounds: inf is not a finite number"),
    ("ftrl", {"lr": 0.0}, "optimizer ftrl: lr 0.0 is not above 0"),
    ("ftrl", {"lr": {"name": "constant", "lr": 0.1}}, "optimizer ftrl: lr is a schedule"),
    ("sgd", {"lr": {"lr": 0.1}}, "optimizer sgd: lr: a schedule needs a name, one of constant, step"),
    ("sgd", {"lr": {"name": "poly", "lr": 0.1}}, "schedule 'poly' is not one of constant, step, exponential, .*, warmup"),
    ("sgd", {"lr": {"name": "step", "lr": 0.1}}, "schedule step: every is missing"),
    ("sgd", {"lr": {"name": "step", "lr": 0.1, "each": 3}}, "schedule step: unknown option 'each'; it has lr, every"),
])
def test_wrong_input_is_named(name: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        make(name, **options)
    assert "\n" not in str(caught.value)


def test_schedules_by_name() -> None:
    assert make_schedule("warmup", clocks=2, then=0.1) == optim.Warmup(0.1, 2)
    with pytest.raises(UsageError, match="schedule warmup: then: a schedule needs a name"):
        make_schedule("warmup", clocks=2, then={})
