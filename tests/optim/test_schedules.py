from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.errors import UsageError
from mpips.optim import Constant, Cosine, Exponential, InverseSqrt, OneCycle, Polynomial, Schedule, Step, Warmup


@pytest.mark.parametrize("clock", [0, 1, 9, 10, 11, 29, 30, 1000])
def test_closed_forms(clock: int) -> None:
    assert Constant(0.3).at(clock) == 0.3
    assert Step(0.8, every=10, gamma=0.5).at(clock) == 0.8 * 0.5 ** math.floor(clock / 10)
    t = min(clock, 30) / 30
    assert Cosine(0.5, clocks=30, floor=0.1).at(clock) == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi * t)) / 2)


@pytest.mark.parametrize("clock", [0, 1, 5, 6, 7, 19, 20, 21, 1000])
def test_more_closed_forms(clock: int) -> None:
    t = min(clock, 20)
    assert Exponential(0.8, gamma=0.9).at(clock) == pytest.approx(0.8 * 0.9**clock)
    assert Exponential(0.8, gamma=0.5, every=4).at(clock) == pytest.approx(0.8 * 0.5 ** (clock / 4))
    assert Polynomial(0.5, clocks=20).at(clock) == pytest.approx(0.5 * (1 - t / 20))
    assert Polynomial(0.5, clocks=20, power=0.9, floor=0.1).at(clock) == pytest.approx(0.1 + 0.4 * (1 - t / 20) ** 0.9)
    assert InverseSqrt((512 * 6) ** -0.5, clocks=6).at(clock) == pytest.approx(  # Vaswani et al., eq. 3, steps from 1
        512**-0.5 * min((clock + 1) ** -0.5, (clock + 1) * 6**-1.5))
    rising, falling = (1 - math.cos(math.pi * t / 6)) / 2, (1 + math.cos(math.pi * (t - 6) / 14)) / 2
    want = 0.05 + (0.5 - 0.05) * rising if t < 6 else 0.0005 + (0.5 - 0.0005) * falling
    assert OneCycle(0.5, clocks=20, div=10, final_div=100).at(clock) == pytest.approx(want)


def test_where_they_begin_and_end_exactly() -> None:
    assert [Polynomial(0.7, 13, 0.0, floor=0.2).at(t) for t in (0, 12, 13, 14)] == [0.7, 0.7, 0.2, 0.2]
    assert [InverseSqrt(0.7, 4).at(t) for t in (0, 3, 15)] == [0.175, 0.7, 0.35]
    assert [OneCycle(0.5, 10, rise=0.3, div=2, final_div=5).at(t) for t in (0, 3, 10, 11)] == [0.25, 0.5, 0.05, 0.05]
    assert OneCycle(0.5, 10, rise=0).at(0) == 0.5, "no rise at all"


@pytest.mark.parametrize("then", [Exponential(0.4, 0.9), Polynomial(0.4, 8), InverseSqrt(0.4, 1), OneCycle(0.4, 8, rise=0.0)],
                         ids=lambda then: then.name)
def test_a_warmup_goes_before_any(then: Schedule) -> None:
    warm = Warmup(then, clocks=3)
    assert [warm.at(t) for t in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert [warm.at(t) for t in range(3, 20)] == [then.at(t) for t in range(17)]


def test_one_cycle_is_that_of_pytorch() -> None:
    """But for PyTorch's phases, each of which is one step shorter, so that its lowest rate is that of the last step."""
    torch = pytest.importorskip("torch")
    rule = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(rule, max_lr=0.5, total_steps=1001, pct_start=0.3)
    ours = OneCycle(0.5, clocks=1000)
    for t in range(1000):
        assert ours.at(t) == pytest.approx(theirs.get_last_lr()[0], abs=0.004)
        rule.step()
        theirs.step()


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
    (Exponential, (0.1, 0.9, 0), "schedule exponential: every 0 is not a number of clocks from 1"),
    (Polynomial, (0.1, 10, -1), "schedule polynomial: power -1.0 is not a number from 0"),
    (InverseSqrt, (0.1, 0), "schedule inversesqrt: clocks 0 is not a number of clocks from 1"),
    (OneCycle, (0.1, 10, 1.0), "schedule onecycle: rise 1.0 is not below 1"),
    (OneCycle, (0.1, 10, 0.3, 0.5), "schedule onecycle: div 0.5 is not a number from 1"),
    (OneCycle, (0.1, 10, 0.3, 25, 0), "schedule onecycle: final_div 0.0 is not a number from 1"),
])
def test_wrong_values_are_named(kind: type[Schedule], args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        kind(*args)
