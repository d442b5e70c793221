from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.errors import UsageError
from mpips.optim import Constant, Cosine, Schedule, Step, Warmup


@pytest.mark.parametrize("clock", [0, 1, 9, 10, 11, 29, 30, 1000])
def test_closed_forms(clock: int) -> None:
    assert Constant(0.3).at(clock) == 0.3
    assert Step(0.8, every=10, gamma=0.5).at(clock) == 0.8 * 0.5 ** math.floor(clock / 10)
    t = min(clock, 30) / 30
    assert Cosine(0.5, clocks=30, floor=0.1).at(clock) == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi * t)) / 2)


def test_clocks_may_be_a_number_of_numpy() -> None:
    made: Any = np.int64(30)
    for kind in (Cosine, Step, Warmup):
        assert json.dumps(kind(0.5, made).describe()) == json.dumps(kind(0.5, 30).describe())


def test_cosine_begins_and_ends_exactly() -> None:
    cosine = Cosine(0.7, clocks=13, floor=0.2)
    assert [cosine.at(0), cosine.at(13), cosine.at(14)] == [0.7, 0.2, 0.2]


def test_warmup_rises_in_equal_steps_then_hands_over() -> None:
    warm = Warmup(Cosine(1.0, clocks=8), clocks=4)
    assert [warm.at(t) for t in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [warm.at(t) for t in range(4, 14)] == [Cosine(1.0, clocks=8).at(t) for t in range(10)]


def test_warmup_of_a_number_and_of_a_warmup() -> None:
    assert [Warmup(0.9, clocks=2).at(t) for t in range(4)] == pytest.approx([0.3, 0.6, 0.9, 0.9])
    assert Warmup(Warmup(0.9, clocks=2), clocks=1).at(0) == pytest.approx(0.15)


def test_an_optimizer_follows_its_schedule() -> None:
    rule = optim.SGD(Step(1.0, every=2, gamma=0.5))
    assert [rule.rate(t) for t in range(5)] == [1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(("kind", "args", "text"), [
    (Constant, (-1.0,), "schedule constant: lr -1.0"),
    (Constant, ("0.1",), "schedule constant: lr '0.1' is not a finite number"),
    (Constant, (math.nan,), "schedule constant: lr nan"),
    (Step, (0.1, 0), "schedule step: every 0"),
    (Step, (0.1, 2.5), "schedule step: every 2.5"),
    (Cosine, (0.1, True), "schedule cosine: clocks True"),
    (Warmup, ("cosine", 3), "schedule warmup: then 'cosine'"),
])
def test_wrong_values_are_named(kind: type[Schedule], args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        kind(*args)
