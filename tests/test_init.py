"""Initial values: the law of each initialiser, and that they depend on nothing but seed, table and block."""

from __future__ import annotations

from math import erf, sqrt
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips import Dense, init, optim
from mpips.errors import UsageError
from mpips.init import Init, fans
from mpips.layout import place
from mpips.server.store import Store
from mpips.transport.local import Local
from mpips.transport.plan import make_plan
from tests.playing import small_blocks

Array = np.ndarray[Any, np.dtype[Any]]
SGD = optim.SGD(lr=0.1)
N = 200_000
UNIFORM64 = [4596247028410301580, 4600057806755834052, 4603822071118523233, 4603970084172374068]


def values(how: Init, shape: tuple[int, ...] = (N,), dtype: Any = np.float32, *, seed: int = 0,
           name: str = "w", index: int = 0) -> Array:
    n = int(np.prod(shape))
    return how.block(name, shape, np.dtype(dtype), seed=seed, index=index, start=0, stop=n)


def distance(sample: Array, law: Any) -> float:
    """Kolmogorov's distance of a sample from a law; above 1.95 / sqrt(n) in one case of 1000."""
    ordered = np.sort(sample.astype(np.float64))
    expected = np.array([law(x) for x in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def normal_law(sigma: float) -> Any:
    return lambda x: 0.5 * (1 + erf(x / (sigma * sqrt(2))))


def uniform_law(low: float, high: float) -> Any:
    return lambda x: min(max((x - low) / (high - low), 0.0), 1.0)


LAWS: list[tuple[str, Init, tuple[int, ...], Any]] = [
    ("uniform", init.uniform(-3, 5), (N,), uniform_law(-3, 5)), ("default uniform", init.uniform(), (N,), uniform_law(-0.05, 0.05)),
    ("normal", init.normal(2.5), (N,), normal_law(2.5)), ("default normal", init.normal(), (N,), normal_law(0.05)),
    ("xavier", init.xavier(), (400, 500), uniform_law(-sqrt(6 / 900), sqrt(6 / 900))),
    ("xavier of a kernel", init.xavier(), (3, 3, 100, 200), uniform_law(-sqrt(6 / 2700), sqrt(6 / 2700))),
    ("he", init.he(), (400, 500), normal_law(sqrt(2 / 400))),
    ("he of a kernel", init.he(), (3, 3, 100, 200), normal_law(sqrt(2 / 900))),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("how", "shape", "law"), [row[1:] for row in LAWS], ids=[row[0] for row in LAWS])
def test_laws(how: Init, shape: tuple[int, ...], law: Any, dtype: Any) -> None:
    sample = values(how, shape, dtype)
    assert sample.dtype == dtype
    part = sample[:: len(sample) // 20_000]
    assert distance(part, law) < 1.95 / sqrt(len(part))
    neighbours = np.corrcoef(sample[:-1], sample[1:])[0, 1]
    assert abs(neighbours) < 4 / sqrt(len(sample))


@pytest.mark.parametrize(("shape", "expected"), [
    ((), (1, 1)), ((7,), (1, 7)), ((3, 5), (3, 5)), ((3, 3, 4, 8), (36, 72)), ((2, 4, 8), (8, 16)), ((0, 5), (0, 5)),
])
def test_fans(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert fans(shape) == expected


@pytest.mark.parametrize("how", [init.xavier(), init.he(), init.normal(), init.uniform(), init.constant(3)])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1)])
def test_small_shapes(how: Init, shape: tuple[int, ...]) -> None:
    out = values(how, shape)
    assert out.shape == (int(np.prod(shape)),)
    assert np.isfinite(out).all()


def test_constants_and_edges() -> None:
    assert (values(init.zeros(), (9,)) == 0).all()
    assert (values(init.constant(2.5), (9,), np.float16) == 2.5).all()
    assert (values(init.normal(0.0), (9,)) == 0).all()
    assert (values(init.uniform(3, 3), (9,)) == 3).all()
    out = values(init.uniform(1, 2))
    assert out.min() >= 1
    assert out.max() <= 2


def test_streams_differ_by_seed_table_and_block_and_by_nothing_else() -> None:
    how = init.normal()
    first = values(how, dtype=np.float64)
    np.testing.assert_array_equal(first, values(how, dtype=np.float64))
    for change in ({"seed": 1}, {"name": "v"}, {"index": 1}):
        other = values(how, dtype=np.float64, **change)
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / sqrt(N)
        assert not np.isin(other[:1000], first).any(), "streams overlap"
    np.testing.assert_array_equal(values(init.normal(seed=5)), values(how, seed=5))
    np.testing.assert_array_equal(values(init.normal(seed=5), seed=1), values(init.normal(seed=5), seed=2))
    np.testing.assert_array_equal(values(init.he(seed=(1 << 64) - 1), (2, 2)), values(init.he(), (2, 2), seed=(1 << 64) - 1))


def test_bits_are_the_same_for_ever() -> None:
    """A seed must mean the same in a later version, and on another machine."""
    assert values(init.uniform(0, 1), (4,), np.float64).view(np.uint64).tolist() == UNIFORM64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_tables_start_from_their_master(dtype: str) -> None:
    wide = values(init.normal(), dtype=np.float32)
    narrow = values(init.normal(), dtype=Dense("w", (1,), SGD, dtype=dtype).np_dtype)
    np.testing.assert_array_equal(narrow, wide.astype(narrow.dtype))


@pytest.mark.parametrize("given_", [
    np.arange(6).reshape(2, 3), np.arange(6.0).reshape(3, 2).T, [[0, 1, 2], [3, 4, 5]],
    np.arange(6, dtype=np.float16).reshape(2, 3),
    np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3), np.arange(6, dtype=">f8").reshape(2, 3),
])
def test_arrays(given_: Any) -> None:
    how = init.array(given_)
    Dense("w", (2, 3), SGD, how)
    for dtype in ("f4", "f8"):
        out = values(how, (2, 3), dtype)
        np.testing.assert_array_equal(out.reshape(2, 3), np.asarray(given_).astype(dtype))
        assert out.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(how.block("w", (2, 3), np.dtype("f4"), seed=0, index=0, start=2, stop=5),
                                  np.asarray(given_).astype("f4").reshape(-1)[2:5])


def test_what_is_written_to_an_array_later_is_not_in_the_table() -> None:
    given_ = np.zeros((2, 3))
    how = init.array(given_)
    given_ += 1
    assert not values(how, (2, 3)).any()
    assert how == init.array(np.zeros((2, 3)))


def test_a_read_only_array_is_not_copied() -> None:
    given_ = np.arange(3.0)
    given_.flags.writeable = False
    held = init.array(given_).values
    assert held is not None
    assert np.shares_memory(held, given_)


def test_a_transposed_array_is_copied_once_and_not_for_each_block() -> None:
    given_ = np.arange(6.0).reshape(2, 3).T
    how = init.array(given_)
    assert how.values is not None
    assert how.values.flags.c_contiguous
    np.testing.assert_array_equal(values(how, (3, 2)), given_.reshape(-1))


def test_a_description_does_not_read_the_array_again(monkeypatch: pytest.MonkeyPatch) -> None:
    how = init.array([1.0, 2.0])
    first = how.describe()
    monkeypatch.setattr(init.zlib, "crc32", lambda *args: pytest.fail("a checkpoint describes every table"))
    assert how.describe() == first


def test_different_arrays_are_different_initialisers() -> None:
    assert init.array([1.0, 2.0]) != init.array([1.0, 2.5])
    assert init.array([1.0, 2.0]) == init.array(np.array([1.0, 2.0]))
    assert init.array(np.ones(3, ml_dtypes.bfloat16)) == init.array(np.ones(3, ml_dtypes.bfloat16))
    assert init.array(2.0) == init.array(np.float64(2.0))


def test_arrays_are_compared_by_their_bytes() -> None:
    assert init.array([1.0, 2.0]).describe() == init.array(np.array([1.0, 2.0])).describe()
    assert init.array([1.0, 2.0]).describe() != init.array([1.0, 2.5]).describe()


@pytest.mark.parametrize(("make", "says"), [
    (lambda: init.constant(cast("Any", "x")), "init constant: value 'x'"),
    (lambda: init.constant(cast("Any", None)), "init constant: value None"),
    (lambda: init.constant(float("nan")), "init constant: value nan"), (lambda: init.constant(True), "init constant: value True"),
    (lambda: init.uniform(1, 0), "init uniform: low 1.0 is above high 0.0"),
    (lambda: init.uniform(0, float("inf")), "init uniform: high inf"),
    (lambda: init.normal(-1), "init normal: stddev -1.0 is below 0"),
    (lambda: init.normal(cast("Any", "a")), "init normal: stddev 'a'"),
    (lambda: init.normal(seed=-1), "init normal: seed -1"), (lambda: init.he(seed=cast("Any", 1.5)), "init he: seed 1.5"),
    (lambda: init.xavier(seed=cast("Any", "a")), "init xavier: seed 'a'"),
    (lambda: init.uniform(seed=1 << 64), "init uniform: seed 18446744073709551616"),
    (lambda: init.array([[1], [1, 2]]), "init array: "),
])
def test_what_is_wrong_is_one_line(make: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value).startswith(says)


@given(servers=st.integers(1, 6), workers=st.integers(1, 3), seed=st.integers(0, (1 << 64) - 1),
       dtype=st.sampled_from(["float32", "float16"]))
def test_values_do_not_depend_on_the_number_of_servers(servers: int, workers: int, seed: int, dtype: str) -> None:
    """By the servers' own way, from the tables to what a pull would read."""
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        tables = [Dense("a", (7, 11), SGD, init.normal(), dtype=dtype), Dense("b", (), SGD, init.he()),
                  Dense("c", (0, 2), SGD, init.xavier()),
                  Dense("d", (13, 3), SGD, init.xavier(seed=4))]
        found = [read(tables, n, w, seed) for n, w in ((1, 1), (servers, workers))]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def read(tables: list[Dense], servers: int, workers: int, seed: int) -> list[Array]:
    plan = make_plan(tables, servers=servers, workers=workers)
    transport = Local([m.size for m in plan.maps])
    stores = [Store(transport, plan, s, seed=seed) for s in range(servers)]
    out = [np.empty(t.size, t.np_dtype) for t in tables]
    for block in place(tables, servers).blocks:
        store = stores[block.server]
        out[block.table][block.start : block.stop] = store.copy(store.spans[block.slot], 0)
    return out
