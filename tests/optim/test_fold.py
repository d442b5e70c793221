"""Folds against one NumPy expression for the whole array, bit by bit, on both engines."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.errors import UsageError
from mpips.optim import ENGINES, OPTIMIZERS, Fold, Optimizer, make
from mpips.optim.engine import LARGE
from mpips.optim.fold import SLICE
from mpips.table import DTYPES, Dense

Array = np.ndarray[Any, np.dtype[Any]]
NAMES = [name for name, rule in OPTIMIZERS.items() if not rule.row_slots]
LONG = 2 * SLICE // 8 + 77  # more than one slice for every dtype


def bits(*arrays: Array) -> list[bytes]:
    """Return arrays as bytes, every NaN as the same one."""
    return [np.where(np.isnan(a), a.dtype.type(np.nan), a).tobytes() for a in arrays]


def naive(rule: Optimizer, w: Array, slots: Sequence[Array], grads: Sequence[Array], step: int, scale: float,
          master: bool) -> tuple[Array, list[Array]]:
    """Return (new w, new slots) of one fold, whole arrays at a time."""
    kind = np.float64 if w.dtype == np.float64 else np.float32
    rest = list(slots)
    wide = rest.pop(0) if master else w.astype(kind)
    g = grads[0].astype(kind) if grads else np.zeros(w.size, kind)
    for more in grads[1:]:
        g = g + more.astype(kind)
    if scale != 1:
        g = g * kind(scale)
    if rule.clip is not None:
        g = np.clip(g, kind(-rule.clip), kind(rule.clip))
    if rule.weight_decay and not rule.decoupled:
        g = g + kind(rule.weight_decay) * wide
    new, *after = rule.rule(wide, g, *rest, *map(kind, rule.scalars(step, rule.rate(step - 1))))
    if rule.bounds is not None:
        new = np.clip(new, kind(rule.bounds[0]), kind(rule.bounds[1]))
    return new.astype(w.dtype), [new, *after] if master else after


def check(rule: Optimizer, dtype: str, engine: str, size: int, grads: int, scale: float = 1.0, master: bool = True,
          steps: int = 3, combine: str = "sum") -> None:
    """Fold a few times and compare all bits with the naive way."""
    table = Dense("w", shape=(size,), optimizer=rule, dtype=dtype, master=master, combine=combine)
    fold = Fold(rule, table, engine)
    random = np.random.default_rng(size + grads)
    start = random.standard_normal(size)
    w = start.astype(table.np_dtype)
    slots = fold.new_slots(start.astype(table.compute_dtype))
    assert tuple(slots) == fold.names
    mine = list(slots.values())
    theirs = [s.copy() for s in mine]
    want, out = w.copy(), np.empty_like(w)
    for step in range(1, steps + 1):
        gs = [random.standard_normal(size).astype(table.np_dtype) for _ in range(grads)]
        before = bits(*gs, w)
        fold(w, out, mine, gs, step=step, clock=step - 1, scale=scale)
        assert bits(*gs, w) == before
        want, theirs = naive(rule, want, theirs, gs, step, scale, fold.master)
        assert bits(out, *mine) == bits(want, *theirs)
        w, out = out, w


@pytest.fixture(params=["numpy", "numba"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_and_dtype(name: str, dtype: str, engine: str) -> None:
    check(make(name, lr=0.05), dtype, engine, size=101, grads=1)
    check(make(name, lr=0.05, clip=0.8, weight_decay=0.1), dtype, engine, size=33, grads=2, scale=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 7, LONG])
@pytest.mark.parametrize("grads", [0, 1, 2, 5])
def test_every_size_and_number_of_gradients(size: int, grads: int, dtype: str, engine: str) -> None:
    check(optim.Momentum(0.1), dtype, engine, size, grads, steps=2)


@pytest.mark.parametrize("options", [{"clip": 0.5}, {"weight_decay": 0.2}, {"clip": 0.5, "weight_decay": 0.2}])
@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 3])
def test_scale_clip_and_decay(options: dict[str, float], scale: float, engine: str) -> None:
    check(optim.SGD(0.1, **options), "float32", engine, LONG, grads=1, scale=scale)
    for grads in (1, 2, 4, 5):
        check(optim.Momentum(0.1, **options), "float64", engine, 1001, grads, scale=scale, combine="mean")
    check(optim.Adam(0.1, **options), "bfloat16", engine, 99, grads=3, scale=scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds(dtype: str, engine: str) -> None:
    check(optim.SGD(0.5, bounds=(-0.25, 1.0)), dtype, engine, LONG, grads=1)
    check(optim.SGD(0.5, bounds=(-0.25, 1.0), clip=0.5, weight_decay=0.2), dtype, engine, 101, grads=2, scale=0.5, combine="mean")
    check(optim.SGD(0.5, bounds=(-0.25, 1.0)), dtype, engine, 101, grads=5)
    check(optim.Adam(0.5, bounds=(0.1, 1.0)), dtype, engine, 101, grads=1, master=False)


def test_bounds_keep_nan_and_give_zeros_that_are_positive(engine: str) -> None:
    rule = optim.Add(bounds=(0.0, 1e300))  # float32 has no such number
    fold, new = Fold(rule, Dense("w", (40,), rule), engine), np.empty(40, np.float32)
    for w in (-0.0, np.nan, -1.0, 3e38):
        fold(np.full(40, w, np.float32), new, [], [np.full(40, -0.0, np.float32)], step=1, clock=0)
        assert bits(new) == bits(np.full(40, max(w, 0.0) if w != 0 else 0.0, np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [5, LONG])
def test_half_without_a_master(dtype: str, size: int, engine: str) -> None:
    check(optim.Adam(0.1), dtype, engine, size, grads=2, master=False)


def test_decay_is_decoupled_where_the_rule_says_so(engine: str) -> None:
    check(optim.AdamW(0.1, weight_decay=0.3), "float32", engine, 50, grads=1)
    check(optim.Lion(0.1, weight_decay=0.3), "float32", engine, 50, grads=1)


def test_a_schedule_sees_the_clock(engine: str) -> None:
    check(optim.SGD(optim.Step(1.0, every=1, gamma=0.3)), "float32", engine, 20, grads=1)


def test_a_master_keeps_what_the_table_rounds_away(engine: str) -> None:
    rule = optim.SGD(1.0)
    for master, want in ((True, 1 + 2**-7), (False, 1.0)):
        fold = Fold(rule, Dense("w", shape=(1,), optimizer=rule, dtype="bfloat16", master=master), engine)
        w = np.ones(1, DTYPES["bfloat16"])
        new, slots = w.copy(), list(fold.new_slots(np.ones(1, np.float32)).values())
        for step in range(1, 4):  # 3 x 2^-9 is more than half of the last place of 1, 2^-9 is less
            fold(w, new, slots, [np.full(1, -(2.0**-9), w.dtype)], step=step, clock=0)
            w, new = new, w
        assert float(w[0]) == want


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_round_to_nearest_even(dtype: str, engine: str) -> None:
    rule = optim.Add()
    kind = DTYPES[dtype]
    one = np.array([1.0], kind)
    ulp = np.nextafter(one, one * 2) - one
    value = np.float32(1) + np.float32(ulp[0]) * np.array([0.5, 1.5, 0.5001, 1.4999], np.float32)
    fold = Fold(rule, Dense("w", shape=(4,), optimizer=rule, dtype=dtype), engine)
    new = np.empty(4, kind)
    fold(np.ones(4, kind), new, [value], [], step=1, clock=0)
    np.testing.assert_array_equal((new.astype(np.float64) - 1) / float(ulp[0]), [0, 2, 1, 1])


def test_values_and_gradients_may_be_read_only(engine: str) -> None:
    rule = optim.SGD(0.5)
    fold = Fold(rule, Dense("w", shape=(3,), optimizer=rule), engine)
    w, g = np.ones(3, np.float32), np.ones(3, np.float32)
    w.flags.writeable = g.flags.writeable = False
    new = np.empty(3, np.float32)
    fold(w, new, [], [g], step=1, clock=0)
    fold(w, new, [], [g, g], step=1, clock=0)
    assert new.tolist() == [0.0, 0.0, 0.0]


def test_slots_start_from_what_the_rule_says() -> None:
    rule = optim.Adagrad(0.1, initial_accumulator=0.5)
    half = Dense("w", shape=(3,), optimizer=rule, dtype="float16")
    slots = Fold(rule, half).new_slots(np.array([1, 2, 3], np.float16))
    assert {k: v.tolist() for k, v in slots.items()} == {"master": [1, 2, 3], "accumulator": [0.5, 0.5, 0.5]}
    assert {v.dtype for v in slots.values()} == {np.dtype(np.float32)}
    slots = Fold(rule, Dense("w", shape=(3,), optimizer=rule, dtype="float64")).new_slots(np.ones(3))
    assert {k: v.dtype for k, v in slots.items()} == {"accumulator": np.dtype(np.float64)}


def test_nothing_as_large_as_the_table_is_allocated(engine: str) -> None:
    rule = optim.Adam(0.1, clip=1.0, weight_decay=0.1)
    size = 1 << 21
    fold = Fold(rule, Dense("w", shape=(size,), optimizer=rule), engine, workers=2)
    w, new, g = np.ones((3, size), np.float32)
    slots = list(fold.new_slots(w).values())
    tracemalloc.start()
    try:
        fold(w, new, slots, [g, g], step=1, clock=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * SLICE < w.nbytes / 2


def test_overflow_is_silent_as_in_a_compiled_loop(engine: str) -> None:
    rule = optim.RMSProp(0.1)
    fold = Fold(rule, Dense("w", shape=(3,), optimizer=rule), engine)
    new = np.empty(3, np.float32)
    g = np.array([3e38, np.inf, np.nan], np.float32)
    fold(np.ones(3, np.float32), new, [np.zeros(3, np.float32)], [g], step=1, clock=0)
    np.testing.assert_array_equal(new, [1, np.nan, np.nan])


def test_auto_takes_numba_for_large_tables_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = optim.SGD(0.1)
    small, large = (Dense("w", shape=(n,), optimizer=rule) for n in (LARGE - 1, LARGE))
    assert Fold(rule, small).engine == "numpy"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)  # what an import of something not installed finds
        assert Fold(rule, large).engine == "numpy"
        with pytest.raises(UsageError, match=r"fold engine 'numba': .*numba.*mpips\[fast\]"):
            Fold(rule, small, "numba")
    pytest.importorskip("numba")
    assert Fold(rule, large).engine == "numba"


def test_unknown_engine() -> None:
    rule = optim.SGD(0.1)
    with pytest.raises(UsageError, match=f"fold engine 'cuda' is not one of {', '.join(ENGINES)}"):
        Fold(rule, Dense("w", shape=(1,), optimizer=rule), "cuda")


def test_an_optimizer_of_another_kind() -> None:
    class Strange:
        slots = ()

        def describe(self) -> dict[str, Any]:
            return {}

    table = Dense("w", shape=(1,), optimizer=Strange())
    with pytest.raises(UsageError, match=r"table 'w': optimizer .*Strange.* is not one of mpips.optim"):
        Fold(table.optimizer, table)


def test_importing_the_room_does_not_import_numba() -> None:
    code = "import sys, mpips.optim; sys.exit('numba' in sys.modules or 'mpi4py.MPI' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
