"""Values of rows by id: the law of each initialiser, and that they depend on nothing but seed, table, id and column."""

from __future__ import annotations

import zlib
from math import cos, erf, log, pi, sin, sqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips import init, init_rows
from mpips.errors import UsageError
from mpips.init import Init
from tests.test_init import distance

Array = np.ndarray[Any, np.dtype[Any]]
N, DIM = 20_000, 10
EXTREMES = np.array([0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 32])
RANDOM = {"uniform": init.uniform(-3, 5), "normal": init.normal(2.5), "xavier": init.xavier(), "he": init.he()}
KINDS = {**RANDOM, "constant": init.constant(1.5)}
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def rows(how: Init, ids: Any = N, dim: int = DIM, dtype: Any = np.float32, *, seed: int = 0, name: str = "w") -> Array:
    ids = np.arange(ids) if isinstance(ids, int) else ids
    return how.rows(name, dim, np.dtype(dtype), seed=seed, ids=ids)


def law_of(how: Init, shape: tuple[int, int]) -> tuple[Any, float]:
    """The distribution function and the standard deviation."""
    low, high, sigma = how._bounds(shape)
    if sigma is not None:
        return lambda x: 0.5 * (1 + erf(x / (sigma * sqrt(2)))), sigma
    return lambda x: min(max((x - low) / (high - low), 0.0), 1.0), (high - low) / sqrt(12)


def test_philox_gives_its_authors_numbers() -> None:
    """Known answers of Random123, tests/kat_vectors: philox4x32, 10 rounds."""
    cases = [([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
             ([0xFFFFFFFF] * 4, (1 << 64) - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
             ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822,
              [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1])]
    for counter, key, expected in cases:
        words = np.array(counter, np.uint64)[:, None]
        init_rows.philox(words, key)
        assert words[:, 0].tolist() == expected


def reference(seed: int, name: str, id_: int, column: int, wide: bool) -> tuple[float, float]:
    """One uniform and one normal value, as the documentation of the module has it, in Python numbers."""
    each, width = (2, 64) if wide else (4, 32)
    a, b, c, d = id_ & 0xFFFFFFFF, (id_ >> 32) & 0xFFFFFFFF, column // each, zlib.crc32(name.encode())
    key, other = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (second >> 32) ^ b ^ key, second & 0xFFFFFFFF, (first >> 32) ^ d ^ other, first & 0xFFFFFFFF
        key, other = (key + 0x9E3779B9) & 0xFFFFFFFF, (other + 0xBB67AE85) & 0xFFFFFFFF
    bits = [a << 32 | b, c << 32 | d] if wide else [a, b, c, d]
    k = column % each
    digits = 53 if wide else 24
    near, turn = bits[k - k % 2], bits[k - k % 2 + 1]
    sign = -1 if near >> (width - 1) else 1
    radius = sign * sqrt(-2 * log(((near & ((1 << (width - 1)) - 1)) + 1) / 2 ** (width - 1)))
    angle = pi * ((turn + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))) / 2**width
    return (bits[k] >> (width - digits)) / 2**digits, radius * (sin(angle) if k % 2 else cos(angle))


@given(seed=st.integers(0, (1 << 64) - 1), name=st.text(max_size=5), id_=st.integers(-(1 << 63), (1 << 63) - 1),
       dtype=st.sampled_from([np.float32, np.float64]))
def test_values_are_those_of_the_documentation(seed: int, name: str, id_: int, dtype: Any) -> None:
    found = [rows(how, np.array([id_]), 9, dtype, seed=seed, name=name)[0] for how in (init.uniform(0, 1), init.normal(1.0))]
    expected = np.array([reference(seed, name, id_, column, dtype == np.float64) for column in range(9)]).T
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=16 * np.finfo(dtype).eps)


@FLOATS
@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("ids", ["small", "any"])
def test_laws(kind: str, dtype: Any, ids: str) -> None:
    named = np.arange(N) if ids == "small" else np.random.default_rng(1).integers(-(1 << 63), (1 << 63) - 1, N)
    sample = rows(RANDOM[kind], named, dtype=dtype)
    assert sample.dtype == dtype
    law, sigma = law_of(RANDOM[kind], (DIM, DIM))
    wide = sample.astype(np.float64)
    n = wide.size
    centre = 1.0 if kind == "uniform" else 0.0
    assert abs(wide.mean() - centre) < 4 * sigma / sqrt(n)
    assert abs(wide.var() / sigma**2 - 1) < 4 * sqrt(2 / n)
    for part in (sample[:, 0], sample[:, 3], sample[:, DIM - 1], sample[:2000].ravel(), sample[::10].ravel()):
        assert distance(part, law) < 2.2 / sqrt(len(part))


@FLOATS
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_values_fall_evenly_into_a_thousand_equal_parts(kind: str, dtype: Any) -> None:
    """Chi-square; a normal value by its distribution function, in which the joints of the series would show."""
    sample = rows({"uniform": init.uniform(0, 1), "normal": init.normal(1.0)}[kind], 100_000, 8, dtype).astype(np.float64).ravel()
    if kind == "normal":
        grid = np.linspace(-7, 7, 20_001)
        sample = np.interp(sample, grid, [0.5 * (1 + erf(x / sqrt(2))) for x in grid])
    counts = np.bincount((sample * 1000).astype(int).clip(0, 999), minlength=1000)
    expected = len(sample) / 1000
    assert ((counts - expected) ** 2 / expected).sum() < 999 + 4 * sqrt(2 * 999)


@FLOATS
@pytest.mark.parametrize("kind", RANDOM)
def test_neighbours_know_nothing_of_each_other(kind: str, dtype: Any) -> None:
    sample = rows(RANDOM[kind], 50_000, 8, dtype).astype(np.float64)
    sample -= sample.mean()
    pairs = [("column", sample[:, :-1], sample[:, 1:]), ("second column", sample[:, :-2], sample[:, 2:]),
             ("id", sample[:-1], sample[1:]), ("both", sample[:-1, :-1], sample[1:, 1:]), ("far id", sample[:-1024], sample[1024:])]
    for what, one, other in pairs:
        for power in (1, 2):  # squares too: a pair of Box and Muller shares its radius
            left, right = one.ravel() ** power, other.ravel() ** power
            assert abs(np.corrcoef(left, right)[0, 1]) < 4 / sqrt(left.size), (what, power)
    columns = np.corrcoef(sample.T) - np.eye(8)
    assert abs(columns).max() < 4.5 / sqrt(len(sample))


@FLOATS
@pytest.mark.parametrize("kind", RANDOM)
def test_streams_differ_by_seed_table_id_and_column_and_by_nothing_else(kind: str, dtype: Any) -> None:
    how = RANDOM[kind]
    first = rows(how, dtype=dtype)
    np.testing.assert_array_equal(first, rows(how, dtype=dtype))
    others = [rows(how, dtype=dtype, seed=1), rows(how, dtype=dtype, seed=1 << 32), rows(how, dtype=dtype, name="v"),
              rows(how, np.arange(N) + N, dtype=dtype), rows(how, np.arange(N) << 32, dtype=dtype)[1:], -first[:, ::-1]]
    for other in others:
        assert abs(np.corrcoef(first[: len(other)].ravel(), other.ravel())[0, 1]) < 4 / sqrt(other.size)
    assert len(np.unique(rows(how, 1000, dtype=np.float64))) == 1000 * DIM
    np.testing.assert_array_equal(rows(init.normal(seed=5), seed=1), rows(init.normal(seed=5), seed=2))
    np.testing.assert_array_equal(rows(init.normal(seed=5)), rows(init.normal(), seed=5))


@given(seed=st.integers(0, (1 << 64) - 1), dim=st.integers(0, 9), kind=st.sampled_from(sorted(KINDS)),
       dtype=st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16]), slice_=st.integers(1, 40),
       ids=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=30))
def test_a_row_is_the_same_in_any_company(seed: int, dim: int, kind: str, dtype: Any, slice_: int, ids: list[int]) -> None:
    named = np.array(ids, np.int64)
    whole = rows(KINDS[kind], named, dim, dtype, seed=seed)
    assert whole.shape == (len(ids), dim)
    assert whole.dtype == dtype
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init_rows, "SLICE", slice_)
        turned = rows(KINDS[kind], named[::-1], dim, dtype, seed=seed)[::-1]
    single = [rows(KINDS[kind], named[k : k + 1], dim, dtype, seed=seed)[0] for k in range(len(ids))]
    np.testing.assert_array_equal(whole, turned)
    np.testing.assert_array_equal(whole, np.array(single, dtype).reshape(whole.shape))


def test_columns_do_not_depend_on_how_many_there_are() -> None:
    for how in (init.normal(), init.uniform()):
        np.testing.assert_array_equal(rows(how, dim=7)[:, :5], rows(how, dim=5))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_rows_start_from_their_master(dtype: Any) -> None:
    np.testing.assert_array_equal(rows(init.normal(), dtype=dtype), rows(init.normal()).astype(dtype))


def test_fans() -> None:
    """Both are dim, however many rows there are."""
    unit = rows(init.normal(1.0), dtype=np.float64)
    np.testing.assert_allclose(rows(init.he(), dtype=np.float64), unit * sqrt(2 / DIM), rtol=1e-14)
    assert abs(abs(rows(init.xavier())).max() - sqrt(6 / 20)) < 1e-4


def test_edges() -> None:
    assert (rows(init.zeros()) == 0).all()
    assert (rows(init.normal(0.0)) == 0).all()
    assert (rows(init.uniform(3, 3)) == 3).all()
    unit = rows(init.uniform(0, 1), 100_000)
    assert unit.min() >= 0
    assert unit.max() < 1
    for how in KINDS.values():
        assert np.isfinite(rows(how, EXTREMES)).all()
        assert rows(how, 0).shape == (0, DIM)
        assert rows(how, 3, 0).shape == (3, 0)


@FLOATS
def test_logarithm_sine_and_cosine_are_right_to_the_last_bits(dtype: Any) -> None:
    digits = np.finfo(dtype)
    special = [1.0, 1 - 2.0**-24, sqrt(0.5)]
    x = np.concatenate([np.random.default_rng(0).random(50_000), 0.5 ** np.arange(1, 63), special]).astype(dtype)
    exact = -2 * np.log(x.astype(np.longdouble))
    assert (abs(init_rows._minus_two_log(x.copy()) - exact) <= 3 * np.spacing(abs(exact.astype(dtype)))).all()
    t = x - dtype(0.5)
    angle = t.astype(np.longdouble) * np.longdouble(pi)
    assert abs(init_rows.series(init_rows.COS[dtype], t * t) - np.cos(angle)).max() <= 2 * digits.eps
    assert abs(init_rows.series(init_rows.SIN[dtype], t * t) * t - np.sin(angle)).max() <= 2 * digits.eps


@FLOATS
def test_the_farthest_values(dtype: Any) -> None:
    """All bits zero are the farthest value, all bits one of the smallest; neither is infinite."""
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    values = np.empty((4, 2), dtype)
    top = bits.type(1 << (8 * bits.itemsize - 1))
    near = np.array([[0, top, top - bits.type(1), ~bits.type(0)]], bits)
    init_rows._normal(near, np.zeros((1, 4), bits), values, 1.0)
    limit = sqrt(2 * np.log(2) * (8 * bits.itemsize - 1))
    np.testing.assert_allclose(values[:, 0], [limit, -limit, 0, 0], rtol=1e-6)
    assert (values[:, 1] == 0).all()


BITS: dict[str, list[int]] = {
    "uniform float32": [
        1044127036, 1063021990, 1065353028, 1059132609, 1063779827, 1051912036, 1058509346, 1051109476, 1064532674],
    "normal float32": [
        1067722254, 3206097577, 3148552851, 3217653206, 1056215774, 1062605248, 3212143857, 3217618494, 3202691861],
    "uniform float64": [
        4595786701308049104, 4594629434176487564, 4605893842587577107, 4603842756035280830, 4603327485768830624,
        4599158679179154120, 4603508144567118470, 4605893616679704157, 4604015504180090733],
    "normal float64": [
        4608342828456879823, 4604018351654493783, 13828901121796228622, 13823691257744135442, 4609898589418523245,
        4605098481310959393, 13833512540820177997, 4605375145237492164, 13832406091767034987],
}


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@FLOATS
def test_bits_are_the_same_for_ever(kind: str, dtype: Any) -> None:
    """A seed must mean the same in a later version, and on another machine."""
    how = {"uniform": init.uniform(0, 1), "normal": init.normal(1.0)}[kind]
    found = rows(how, np.array([0, -7, 1 << 40]), 5, dtype, seed=(1 << 40) + 3, name="emb")[:, [0, 1, 4]].ravel()
    assert found.view(f"u{found.itemsize}").tolist() == BITS[f"{kind} {np.dtype(dtype)}"]


@pytest.mark.parametrize("values", [np.arange(6).reshape(3, 2), np.arange(6.0).reshape(2, 3).T,
                                    np.arange(6).astype(ml_dtypes.bfloat16).reshape(3, 2)])
def test_arrays(values: Any) -> None:
    out = rows(init.array(values), np.array([2, 0, 2]), 2)
    np.testing.assert_array_equal(out, values[[2, 0, 2]].astype("f4"))
    assert out.dtype == np.float32


@pytest.mark.parametrize(("ids", "dim", "says"), [
    ([0, 3], 2, "table 'w': row 3 is not one of the initial array's 3"),
    ([-1], 2, "table 'w': row -1 is not one of the initial array's 3"),
    ([0], 4, "table 'w': the initial array has shape (3, 2), a row 4 elements"),
])
def test_what_an_array_has_not(ids: list[int], dim: int, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        rows(init.array(np.zeros((3, 2))), np.array(ids), dim)
    assert str(caught.value) == says
