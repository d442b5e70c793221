"""Row folds against one `Fold` for each row alone, bit by bit, on both engines."""

from __future__ import annotations

import sys
from copy import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import optim
from mpips.errors import UsageError
from mpips.optim import ENGINES, OPTIMIZERS, Fold, Optimizer, RowFold, make
from mpips.optim.engine import LARGE
from mpips.optim.rowscalars import KNOWN, RowScalars, stepwise
from mpips.optim.team import Team
from mpips.table import Dense

Array = np.ndarray[Any, np.dtype[Any]]
FULL = {"clip": 0.8, "weight_decay": 0.1, "bounds": (-0.5, 0.0)}
RULES: list[Optimizer] = [
    *(make(name, lr=0.05) for name in OPTIMIZERS),
    *(make(name, lr=0.05, **FULL) for name in ("sgd", "rowadagrad", "amsgrad", "adamw", "ftrl")),
    optim.Adam(optim.Step(0.1, every=2)),
    optim.SGD(0.1, bounds=(0.0, 1.0)),
    optim.RowAdagrad(0.1, eps=1e-3, initial_accumulator=0.3, weight_decay=0.2),
]


@pytest.fixture(params=["numpy", "numba"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


@cache
def made(rule: Optimizer, dtype: Any, engine: str, mean: bool) -> RowFold:
    return RowFold(rule, dtype, 1, engine, rows=1, mean=mean)


def fold_of(rule: Optimizer, dtype: Any, dim: int, engine: str, mean: bool = False) -> RowFold:
    """Return a fold; to make one takes long, and a compiled loop is the same for every `dim`."""
    fold = copy(made(rule, dtype, engine, mean))
    fold.dim = dim
    return fold


def alone(rule: Optimizer, w: Array, slots: list[Array], row: int, step: int, g: Array, clock: int, scale: float) -> None:
    """Fold one row as a block of its own, by `Fold`, or literally where a row has a slot of one number."""
    if not rule.row_slots:
        fold, new = Fold(rule, Dense("w", (w.shape[1],), rule, dtype=w.dtype.name), "numpy"), np.empty_like(w[row])
        fold(w[row], new, [s[row] for s in slots], [g], step=step, clock=clock, scale=scale)
        w[row] = new
        return
    kind = w.dtype.type
    g = g * kind(scale)
    if rule.clip is not None:
        g = np.clip(g, kind(-rule.clip), kind(rule.clip))
    if rule.weight_decay:
        g = g + kind(rule.weight_decay) * w[row]
    slots[0][row] += np.sum(g * g) / kind(g.size)
    lr, eps = map(kind, rule.scalars(step, rule.rate(clock)))
    w[row] -= lr * g / (np.sqrt(slots[0][row]) + eps)
    if rule.bounds is not None:
        w[row] = np.clip(w[row], *map(kind, rule.bounds)) + kind(0)


def same(a: Array, b: Array) -> bool:
    """Whether two arrays have the same bits, every NaN as the same one."""
    nan = a.dtype.type(np.nan)
    return np.where(np.isnan(a), nan, a).tobytes() == np.where(np.isnan(b), nan, b).tobytes()


def check(rule: Optimizer, dtype: Any, dim: int, engines: tuple[str, ...], index: Array, steps: Array, random: Any,
          clock: int = 0, scale: float = 1.0, mean: bool = False, team: Team | None = None) -> None:
    """Fold twice on each engine and compare everything, also what is not touched."""
    capacity = int(index.max(initial=0)) + 3
    start = random.standard_normal((capacity, dim)).astype(dtype)
    given = fold_of(rule, dtype, dim, "numpy").new_slots(capacity)
    given = [np.abs(random.standard_normal(s.shape)).astype(dtype) for s in given]
    grads = [random.standard_normal((index.size, dim)).astype(dtype) for _ in range(2)]
    want, theirs = start.copy(), [s.copy() for s in given]
    for k, g in enumerate(grads):
        for row, step, one in zip(index.tolist(), steps.tolist(), g, strict=True):
            alone(rule, want, theirs, row, step + k, one, clock + k, scale)
    for engine in engines:
        fold = fold_of(rule, dtype, dim, engine, mean) if team is None else RowFold(
            rule, dtype, dim, engine, rows=1, team=team)
        w, mine, kept = start.copy(), [s.copy() for s in given], [g.copy() for g in grads]
        for k, g in enumerate(grads):
            fold(w, mine, index, steps + k, g, clock=clock + k, scale=scale)
        for a, b in zip([w, *mine, *grads], [want, *theirs, *kept], strict=True):
            assert same(a, b), (engine, rule)


@pytest.mark.parametrize(("rule", "dtype"), [(r, "float32") for r in RULES] + [(r, "float64") for r in RULES[::4]],
                         ids=lambda r: r if isinstance(r, str) else r.name + "-full" * (r.clip is not None))
def test_every_rule(rule: Optimizer, dtype: str, engine: str) -> None:
    random = np.random.default_rng(4)
    index = random.permutation(60)[:41]
    check(rule, dtype, 19, (engine,), index, random.integers(1, 9, 41), random)
    check(rule, dtype, 19, (engine,), index.astype(np.int32), np.full(41, 3), random, scale=1 / 3)


ONES = ["numpy"]
try:
    import numba  # noqa: F401
    ONES.append("numba")
except ImportError:
    pass


@settings(deadline=None)  # a loop is compiled when it is first asked for
@given(st.sampled_from(RULES), st.sampled_from(["float32", "float64"]), st.integers(1, 40), st.integers(0, 2**32 - 1),
       st.lists(st.integers(0, 99), unique=True, max_size=40), st.integers(1, 200), st.sampled_from([1.0, 0.25, 1 / 7]),
       st.booleans())
def test_any_rows_have_the_bits_of_each_row_alone(rule: Optimizer, dtype: str, dim: int, seed: int, rows: list[int],
                                                  longest: int, scale: float, wide: bool) -> None:
    random = np.random.default_rng(seed)
    index = np.array(rows, np.int64 if wide else np.int32)
    check(rule, dtype, dim, tuple(ONES), index, random.integers(1, longest + 1, index.size), random, seed % 5, scale)


def test_a_mean_is_scaled_in_the_loop(engine: str) -> None:
    random = np.random.default_rng(5)
    for rule in (optim.Momentum(0.1, clip=0.1), optim.RowAdagrad(0.1, clip=0.1)):
        check(rule, "float32", 9, (engine,), np.arange(30)[::-1], np.ones(30, np.int64), random, scale=0.2, mean=True)


@pytest.mark.parametrize("rule", [optim.Adam(0.1), optim.SGD(0.1), optim.RowAdagrad(0.1, weight_decay=0.1)],
                         ids=lambda r: r.name)
@pytest.mark.parametrize("dim", [1, 100, 70_000])
def test_more_rows_than_a_slice_and_threads(rule: Optimizer, dim: int, engine: str) -> None:
    random = np.random.default_rng(6)
    rows = 200_000 // dim + 1 if dim > 1 else 9_000
    steps = random.integers(1, 50, rows)
    if dim > 1:
        check(rule, "float32", dim, (engine,), random.permutation(rows + 5)[:rows], steps, random)
    team, results = Team(3), []
    given, grads = random.standard_normal((2, 90_000, dim) if dim == 1 else (2, rows, dim)).astype("f4")
    index, steps = random.permutation(len(given)), random.integers(1, 50, len(given))
    for one in (None, team):
        fold = RowFold(rule, "f4", dim, engine, rows=1, team=one)
        w, slots = given.copy(), fold.new_slots(len(given))
        fold(w, slots, index, steps, grads, clock=0)
        results.append([w, *slots])
    assert all(same(a, b) for a, b in zip(*results, strict=True))


def test_values_that_are_not_finite(engine: str) -> None:
    for rule in (optim.SGD(0.1, clip=1.0, bounds=(-1.0, 0.0)), optim.RMSProp(0.1), optim.RowAdagrad(0.1)):
        fold = fold_of(rule, "float32", 4, engine)
        w, slots = np.zeros((2, 4), "f4"), fold.new_slots(2)
        fold(w, slots, np.array([1]), np.array([1]), np.array([[np.nan, np.inf, 3e38, 0]], "f4"), clock=0)
        assert np.isnan(w[1, 0])
        assert not w[0].any()


def test_bounds_settle_the_sign_of_zeros(engine: str) -> None:
    for bounds in ((0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0)):
        fold = fold_of(optim.Add(bounds=bounds), "float64", 3, engine)
        w = np.array([[-0.0, 0.0, -0.0]])
        fold(w, [], np.array([0]), np.array([1]), np.array([[-0.0, 0.0, -0.0]]), clock=0)
        assert not np.signbit(w).any()


def test_every_row_counts_its_own_folds_however_many() -> None:
    rule = optim.Adam(optim.Step(0.1, every=1))
    scalars = RowScalars(rule, np.dtype("f8"))
    for clock, steps in enumerate([[3, 1, 3], [5, 1, 2], [900, 901, 1], [KNOWN - 1, 7, 7], [KNOWN, 1, KNOWN + 5]]):
        for _ in range(2):
            table, which = scalars(np.array(steps), clock)
            assert which is not None
            assert table[which].tolist() == [list(rule.scalars(s, rule.rate(clock))) for s in steps]
    table, which = scalars(np.array([4, 4]), 0)
    assert which is None
    assert table.tolist() == [list(rule.scalars(4, 0.1))]


@pytest.mark.parametrize("size", [0, 1, 100])
def test_counts_of_some_rows(engine: str, size: int) -> None:
    """Those of the others stay."""
    for by, kind in ((1, np.int32), (2, np.int64)):
        counts, rows = np.arange(1 << 40, (1 << 40) + 200), np.random.default_rng(size).permutation(200)[:size].astype(kind)
        wanted = counts + by * np.isin(np.arange(200), rows)
        before = fold_of(RULES[0], "float32", 1, engine).count(counts, rows, by)
        assert before.tolist() == [(1 << 40) + row for row in rows.tolist()]
        assert (counts == wanted).all()


def test_rules_whose_scalars_follow_the_step() -> None:
    assert [name for name in OPTIMIZERS if stepwise(make(name, lr=0.1))] == ["adam", "adamw", "amsgrad"]


def test_slots_start_from_what_the_rule_says() -> None:
    fold = RowFold(optim.RowAdagrad(0.1, initial_accumulator=0.5), "float64", 3, rows=2)
    assert fold.names == ("accumulator",)
    (slot,) = fold.new_slots(2)
    assert slot.tolist() == [0.5, 0.5]
    fold = RowFold(optim.Adam(0.1), "float32", 3, rows=2)
    assert fold.names == ("m", "v")
    assert [(s.shape, s.dtype.name, s.any()) for s in fold.new_slots(2)] == [((2, 3), "float32", False)] * 2


def test_auto_takes_numba_for_large_tables_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = optim.SGD(0.1)
    assert RowFold(rule, "f4", 64, rows=LARGE // 64 - 1).engine == "numpy"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        assert RowFold(rule, "f4", 64, rows=LARGE // 64).engine == "numpy"
        with pytest.raises(UsageError, match=r"fold engine 'numba': .*numba.*mpips\[fast\]"):
            RowFold(rule, "f4", 64, "numba", rows=1)
    pytest.importorskip("numba")
    assert RowFold(rule, "f4", 64, rows=LARGE // 64).engine == "numba"


@pytest.mark.parametrize(("change", "text"), [
    ({"engine": "cuda"}, f"fold engine 'cuda' is not one of {', '.join(ENGINES)}"),
    ({"optimizer": "sgd"}, "row fold: optimizer 'sgd' is not one of mpips.optim"),
    ({"dtype": "float16"}, "row fold: dtype 'float16' is neither float32 nor float64"),
    ({"dim": 0}, "row fold: 0 elements in a row are not at least 1"),
])
def test_wrong_input_is_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        RowFold(**{"optimizer": optim.SGD(0.1), "dtype": "f4", "dim": 2, "rows": 3, **change})


def test_a_dense_table_has_no_rows() -> None:
    with pytest.raises(UsageError, match=r"table 'w': optimizer RowAdagrad\(.*\) keeps numbers for rows, which a dense"):
        Dense("w", (3, 4), optim.RowAdagrad(0.1))
