from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.optim import OPTIMIZERS, make
from mpips.optim.program import trace

Array = np.ndarray[Any, np.dtype[Any]]


def run(rule: Any, slots: list[Array], scalars: list[Any], w: Array, g: Array) -> tuple[Array, list[Array]]:
    program = trace(rule, len(slots), len(scalars))
    out = np.full_like(w, np.nan)
    slots = [s.copy() for s in slots]
    kept = w.copy(), g.copy()
    program(w, g, slots, scalars, out, [np.full_like(w, np.nan) for _ in range(program.scratch)])
    np.testing.assert_array_equal(kept, (w, g))
    return out, slots


@pytest.mark.parametrize("name", [name for name, rule in OPTIMIZERS.items() if not rule.row_slots])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_program_has_the_bits_of_its_rule(name: str, dtype: Any) -> None:
    rule = make(name, lr=0.1)
    random = np.random.default_rng(8)
    w, g, *slots = np.abs(random.standard_normal((2 + len(rule.slots), 37))).astype(dtype)
    scalars = [dtype(s) for s in rule.scalars(3, 0.1)]
    want = rule.rule(w, g, *slots, *scalars)
    got, after = run(rule.rule, slots, scalars, w, g)
    for a, b in zip([got, *after], want, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("rule", [
    lambda w, g, a, b, s: (a, a, a + b),
    lambda w, g, a, b, s: (a - b, g, w),
    lambda w, g, a, b, s: (w, a * s, a * s + b * a),  # the old slot is read after the new one is known
    lambda w, g, a, b, s: ((w - g) * (g - a) / (a - b), a, b + b),
    lambda w, g, a, b, s: (-w, -a, (a + w) * (a + w)),
    lambda w, g, a, b, s: (a * b + g, a + b, a + b + w),
])
def test_results_are_not_overwritten_while_they_are_needed(rule: Any) -> None:
    w, g, a, b = np.random.default_rng(9).standard_normal((4, 11))
    want = rule(w, g, a, b, 1.5)
    got, after = run(rule, [a, b], [1.5], w, g)
    np.testing.assert_array_equal([got, *after], want)


def test_registers_are_used_again() -> None:
    assert trace(optim.SGD.rule, 0, 1).scratch == 1
    assert trace(optim.Adam.rule, 2, 7).scratch == 2


@pytest.mark.parametrize(("rule", "text"), [
    (lambda w, g: (w + 1.0 * g,), "constant"),
    (lambda w, g: (np.exp(w),), "np.exp"),
    (lambda w, g: (w if w > g else g,), "np.greater"),
    (lambda w, g: (w or g,), "branch"),
    (lambda w, g: (np.add.reduce(w),), "np.add in this way"),
])
def test_a_rule_is_plain_arithmetic(rule: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        trace(rule, 0, 0)


def test_a_rule_does_not_exchange_its_slots() -> None:
    with pytest.raises(TypeError, match="exchange its slots"):
        trace(lambda w, g, a, b: (w + g, b, a), 2, 0)
