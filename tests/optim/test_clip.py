from __future__ import annotations

import math
from typing import Any, NamedTuple

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.errors import UsageError
from mpips.layout import grid
from mpips.optim import clip_by_norm


def test_a_small_gradient_is_returned_itself() -> None:
    g = np.array([3.0, 4.0], np.float32)
    out, norm = clip_by_norm(g, 5.0)
    assert out is g
    assert norm == 5.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(1e-3, 1e2))
def test_the_norm_is_cut_and_the_direction_stays(values: list[float], limit: float) -> None:
    g = np.array(values)
    out, norm = clip_by_norm(g, limit)
    assert norm == pytest.approx(math.sqrt(math.fsum(v * v for v in values)), rel=1e-12)
    want = g if norm <= limit else g * (limit / norm)
    np.testing.assert_array_equal(out, want)
    assert np.linalg.norm(out) <= limit * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_partial_sums_follow_the_grid(dtype: Any) -> None:
    random = np.random.default_rng(5)
    g = random.standard_normal((1100, 1003)).astype(dtype)
    flat, total = g.reshape(-1), 0.0
    cells = grid(g.size, g.dtype.itemsize)
    assert len(cells) > 1
    for start, stop in cells:
        total = float(np.sum(flat[start:stop].astype(np.float64) ** 2)) + total
    out, norm = clip_by_norm(g, 1.0)
    assert norm == math.sqrt(total)
    assert out.dtype == g.dtype
    assert out.shape == g.shape
    assert np.linalg.norm(out.astype(np.float64)) == pytest.approx(1.0, rel=2e-3)


def test_structures_keep_their_shape_and_the_order_of_a_dict_does_not_matter() -> None:
    random = np.random.default_rng(6)
    a, b, c = random.standard_normal((3, 4)), random.standard_normal(7), np.array(0.3)
    one, norm = clip_by_norm({"b": b, "a": a, "c": c}, 0.5)
    two, again = clip_by_norm({"a": a, "b": b, "c": c}, 0.5)
    assert norm == again
    assert list(one) == ["b", "a", "c"]
    for k in one:
        np.testing.assert_array_equal(one[k], two[k])
    for kind in (list, tuple):
        out, same = clip_by_norm(kind([a, b, c]), 0.5)
        assert same == norm
        assert type(out) is kind
        np.testing.assert_array_equal(out[1], one["b"])
    assert clip_by_norm([], 1.0) == ([], 0.0)
    assert clip_by_norm(np.empty((0, 3)), 1.0)[1] == 0.0


class Params(NamedTuple):
    w: Any
    b: Any


def test_a_named_tuple_stays_one() -> None:
    out, norm = clip_by_norm(Params(np.array([3.0]), np.array([4.0])), 1.0)
    assert norm == 5.0
    np.testing.assert_allclose(out.w, [0.6])
    np.testing.assert_allclose(out.b, [0.8])


def test_half_floats_keep_a_small_factor() -> None:
    g = np.full(4096, 3e4, np.float16)  # the factor, 5e-8, would be a denormal with one digit
    out, _ = clip_by_norm(g, 0.1)
    assert np.unique(out) == np.float16(0.1 / 64)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_left_for_the_push_to_report(bad: float) -> None:
    g = np.array([1.0, bad, 100.0])
    assert clip_by_norm(g, 1.0)[0] is g


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, "1", True])
def test_wrong_limits(limit: Any) -> None:
    with pytest.raises(UsageError, match="clip_by_norm: max_norm"):
        clip_by_norm(np.ones(2), limit)


def test_any_array_namespace() -> None:
    g = array_api_strict.asarray([[3.0, 0.0], [0.0, 4.0]], dtype=array_api_strict.float32)
    out, norm = clip_by_norm({"w": g}, 1.0)
    assert norm == 5.0
    assert out["w"].dtype == array_api_strict.float32
    assert bool(array_api_strict.all(abs(out["w"] - g / 5.0) < 1e-6))
