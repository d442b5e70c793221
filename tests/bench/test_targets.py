from __future__ import annotations

from typing import Any

import pytest

from mpips.bench.crew import Case
from mpips.bench.report import limit_of, rows
from mpips.bench.targets import TARGETS, Target, check


def made(seconds: dict[Case, float], workers: int = 1) -> list[dict[str, Any]]:
    return rows({case: [value] for case, value in seconds.items()}, workers, 1)


BIG = 10_000_000


def test_limits_follow_each_other_or_go_on_together() -> None:
    seconds = {Case("copy", 8): 2.0, Case("update", 8, "sgd"): 3.0, Case("update of W", 8, "sgd"): 7.0,
               Case("update", 8, "adam"): 1.0}
    assert limit_of(Case("push", 8, "sgd", "0"), seconds, 1) == ("copy | update", 3.0)
    assert limit_of(Case("push", 8, "adam", "0"), seconds, 1) == ("copy | update", 2.0)
    assert limit_of(Case("round", 8, "sgd", "0"), seconds, 1)[1] == 5.0
    assert limit_of(Case("round", 8, "sgd", "0"), seconds, 2)[1] == 9.0
    assert limit_of(Case("round", 8, "sgd", "none"), seconds, 2)[1] == 5.0  # each push is an update of its own
    assert limit_of(Case("two-sided", 8), seconds, 1)[1] == 5.0
    assert limit_of(Case("round", 9, "sgd", "0"), seconds, 1) == ("copy | update + copy", None)
    assert limit_of(Case("view", 8, "sgd", "0"), seconds, 1) == ("", None)


def test_limits_of_rows() -> None:
    seconds = {Case("copy", 8): 2.0, Case("take", 8): 4.0, Case("take unsorted", 8): 5.0, Case("row update", 8, "sgd"): 3.0,
               Case("row update", 8, "adam"): 1.0}
    for workers in (1, 2):
        assert limit_of(Case("pull of rows", 8, "sgd", "none"), seconds, workers) == ("take", 4.0)
        assert limit_of(Case("push of named rows", 8, "adam", "0"), seconds, workers) == ("copy | row update", 2.0)
        assert limit_of(Case("round of rows", 8, "sgd", "0"), seconds, workers)[1] == 7.0
        assert limit_of(Case("round of unsorted rows", 8, "sgd", "0"), seconds, workers)[1] == 8.0
    assert limit_of(Case("born by push", 8, "sgd", "none"), seconds, 1) == ("", None)


def test_targets_of_rows() -> None:
    seconds = {Case("take", 640_000): 1.0, Case("pull of rows", 640_000, "sgd", "0"): 1.25, Case("two-sided rows", 640_000): 6.0,
               Case("round of rows", 640_000, "sgd", "0"): 3.0, Case("round of named rows", 640_000, "sgd", "0"): 3.5,
               Case("born by push", 160_000, "sgd", "none"): 2e6}
    found = {v.target.text: (v.value, v.short) for v in check(made(seconds)) if v.value is not None}
    assert found == {"two-sided over round of rows": (2.0, True), "speed of a pull of rows, of a take's": (0.8, False),
                     "round of named rows over round of rows": (pytest.approx(3.5 / 3), False),
                     "rows of 16 born in a second on a server": (2e6, False)}


def test_medians_and_spread() -> None:
    row, = rows({Case("copy", 8): [1.0, 2.0, 3.0, 4.0, 100.0]}, 1, 2)
    assert (row["median"], row["samples"], row["servers"]) == (3.0, 5, 2)
    assert row["low"] == pytest.approx(1.4)
    assert row["high"] == pytest.approx(61.6)


def test_what_is_reached_what_falls_short_and_what_was_not_measured() -> None:
    seconds = {Case("copy", BIG): 5.0, Case("pull", BIG, "sgd", "0"): 5.5, Case("update", BIG, "sgd"): 9.0,
               Case("push", BIG, "sgd", "0"): 12.0, Case("view", 8, "sgd", "0"): 1e-6, Case("view", 9, "sgd", "0"): 1e-3,
               Case("numba on workers"): 0.0}
    verdicts = check(made(seconds))
    by = {str(v.target.text): v for v in verdicts}
    assert by["speed of a pull with out=, of a copy's"].value == pytest.approx(5 / 5.5)
    assert not by["speed of a pull with out=, of a copy's"].short
    push = by["push until applied, over the longer of copy and update"]
    assert push.value == pytest.approx(12 / 9)
    assert push.short
    assert "FALLS SHORT" in str(push)
    assert [(v.size, v.short) for v in verdicts if v.target.text == "seconds of a view"] == [(8, False), (9, True)]
    assert not by["workers that have imported numba"].short
    assert by["two-sided over round, 100 M"].value is None
    assert str(by["two-sided over round, 100 M"]).startswith("not measured")


def test_a_target_of_two_workers_looks_only_there() -> None:
    seconds = {Case("two-sided", BIG): 4.0, Case("round", BIG, "sgd", "0"): 2.0}
    text = "two-sided over round, 2 workers"
    assert [v.value for v in check(made(seconds, 1)) if v.target.text == text] == [None]
    assert [v.value for v in check(made(seconds, 2)) if v.target.text == text] == [2.0]


def test_a_factor_of_a_limit() -> None:
    target = Target("", "update adam", "2 bytes", at_most=1.0, size=8)
    verdict, = check(made({Case("update", 8, "adam"): 3.0, Case("bytes", 8): 2.0}), [target])
    assert verdict.value == 0.75


def test_every_target_has_one_bound_and_a_text_of_its_own() -> None:
    assert all((t.at_most is None) != (t.at_least is None) for t in TARGETS)
    assert len({t.text for t in TARGETS}) == len(TARGETS)
