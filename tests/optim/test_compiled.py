"""The compiled loops against the programs: the same bits for every value a float can have."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpips import Dense, optim
from mpips.optim import OPTIMIZERS, Fold, Optimizer, make
from mpips.optim import compiled as compiling
from mpips.optim.compiled import compiled
from mpips.optim.program import trace

pytest.importorskip("numba")

Array = np.ndarray[Any, np.dtype[Any]]
RULES: list[Optimizer] = [
    *(make(name, lr=0.05) for name, rule in OPTIMIZERS.items() if not rule.row_slots),
    optim.FTRL(0.1, l1=0.5, l2=0.1),
    optim.Adam(0.1, eps=0.0),  # 0 / 0 where the gradient is 0
]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 5e-324, 1e-310, 1e-38, 3e38, -3e38, 1e300, np.inf, -np.inf, np.nan]


@cache
def loop_of(rule: Optimizer, scalars: int, dtype: np.dtype[Any]) -> Any:
    return compiled(rule.rule, len(rule.slots), scalars, dtype)


def compare(rule: Optimizer, w: Array, g: Array, slots: list[Array], step: int) -> None:
    kind = w.dtype.type
    scalars = [kind(s) for s in rule.scalars(step, 0.05)]
    program = trace(rule.rule, len(slots), len(scalars))
    loop = loop_of(rule, len(scalars), w.dtype)
    one, two = np.empty_like(w), np.empty_like(w)
    mine, theirs = [s.copy() for s in slots], [s.copy() for s in slots]
    with np.errstate(all="ignore"):
        program(w, g, mine, scalars, one, [np.empty_like(w) for _ in range(program.scratch)])
    loop(w, [g], theirs, scalars, two)
    for a, b in zip([one, *mine], [two, *theirs], strict=True):
        a, b = (np.where(np.isnan(x), kind(np.nan), x) for x in (a, b))  # one NaN is as good as another
        where = np.flatnonzero(a.view(f"u{a.itemsize}") != b.view(f"u{a.itemsize}"))
        assert not where.size, f"{rule.name}: {a[where[:3]]} is not {b[where[:3]]}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_bits_of_numbers_of_all_sizes(rule: Optimizer, dtype: Any) -> None:
    random = np.random.default_rng(12)
    n = 20_011  # long enough for the vector loop and its remainder; a contracted multiply-add differs in one of twenty
    with np.errstate(all="ignore"):
        arrays = random.standard_normal((2 + len(rule.slots), n)) * 10.0 ** random.integers(-9, 9, (1, n))
        special = random.integers(0, 40, arrays.shape) == 0
        arrays[special] = random.choice(SPECIAL, int(special.sum()))
        w, g, *slots = arrays.astype(dtype)
    compare(rule, w, g, slots, step=3)
    compare(rule, w, g, [np.abs(s) for s in slots], step=3)  # as a training has them: no root of a negative


@given(st.sampled_from(RULES), st.sampled_from([np.float32, np.float64]), st.integers(1, 100), st.data())
def test_bits_of_anything(rule: Optimizer, dtype: Any, step: int, data: st.DataObject) -> None:
    shape = (2 + len(rule.slots), data.draw(st.integers(1, 19)))
    w, g, *slots = data.draw(hnp.arrays(dtype, shape))
    if rule.name == "amsgrad":
        slots[2] = np.abs(slots[2])  # a largest square; of 0.0 and -0.0 a maximum may be either (IEEE 754-2008, 5.3.1)
    compare(rule, w, g, slots, step)


@given(st.sampled_from([optim.SGD(0.05), optim.Momentum(0.05), optim.Adam(0.05), optim.AMSGrad(0.05)]),
       st.sampled_from([np.float32, np.float64]), st.integers(0, 300), st.integers(0, 40), st.integers(1, 3),
       st.sampled_from([(False,) * 4, (True,) * 4]))
def test_bits_that_are_written_past_the_cache(rule: Optimizer, dtype: Any, n: int, first: int, count: int, change: Any) -> None:
    kind = np.dtype(dtype)
    scalars = [kind.type(s) for s in rule.scalars(3, 0.05)]
    draw = np.random.default_rng(n)
    w, *grads = draw.standard_normal((1 + count, n)).astype(dtype)
    mine, theirs = (np.abs(draw.standard_normal((len(rule.slots), n))).astype(dtype) for draw in map(np.random.default_rng, (1, 1)))
    more = [kind.type(x) for x in (0.5, 1.0, 0.25, -1.5, 1.5, 0)]
    near, far = (compiled(rule.rule, len(rule.slots), len(scalars), kind, change, (count,), large=large) for large in (False, True))
    room = np.full(n + 200, 9, dtype)
    begin = -room.ctypes.data % 64 // kind.itemsize + first * (first % 3)  # where a line begins, or anywhere
    one, two = np.empty_like(w), room[begin : begin + n]
    near(w, grads, list(mine), scalars, one, more)
    far(w, grads, list(theirs), scalars, two, more)
    assert two.tobytes() == one.tobytes()
    assert theirs.tobytes() == mine.tobytes()
    assert (room[:begin] == 9).all()
    assert (room[begin + n :] == 9).all()


@pytest.mark.parametrize(("elements", "made"), [(1 << 22, "p"), ((1 << 22) - 1, "")])
def test_only_values_that_are_too_many_for_the_cache_are_written_past_it(elements: int, made: str,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def spy(template: Any, rule: Any, change: Any, parts: Any, examples: Any, kind: str = "") -> Any:
        loop = built(template, rule, change, parts, examples, kind)
        return lambda *given: ran.append(kind) or loop(*given)

    built = compiling._compile
    monkeypatch.setattr(compiling, "_compile", spy)
    fold = Fold(optim.SGD(0.5), Dense("w", (256,), optim.SGD(0.5)), "numba", elements=elements)
    room = np.empty(256 + 64, np.float32)
    room = room[-room.ctypes.data % 64 // 4 :]
    w, new = np.ones(256, np.float32), room[:256]
    fold(w, new, [], [w], step=1, clock=0)
    assert (new == 0.5).all()
    assert ran == [made]


def test_rules_of_one_name_do_not_share_a_cached_loop() -> None:
    def first(w: Any, g: Any) -> Any:
        return (w + g,)

    def second(w: Any, g: Any) -> Any:
        return (w - g,)

    first.__qualname__ = second.__qualname__ = "rule"
    out = np.empty(1)
    for rule, want in ((first, 3.0), (second, 1.0)):
        compiled(rule, 0, 0, out.dtype)(np.array([2.0]), [np.array([1.0])], [], [], out)
        assert out[0] == want


def test_no_place_for_the_cache_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    out = np.empty(2)
    compiled(optim.SGD.rule, 0, 1, out.dtype)(np.ones(2), [np.ones(2)], [], [0.5], out)
    assert out.tolist() == [0.5, 0.5]
