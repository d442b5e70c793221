"""Sums and means of bags, against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips import nn
from mpips.errors import UsageError


@settings(max_examples=30)
@given(bags=st.lists(st.lists(st.integers(-4, 4), max_size=4), max_size=5), dim=st.integers(1, 3))
def test_sum_and_mean_are_those_of_a_loop(bags, dim):
    known = nn.Bags(np.array([i for bag in bags for i in bag], np.int64), np.array([len(bag) for bag in bags], np.int64))
    assert known.ids.tolist() == sorted({i for bag in bags for i in bag})
    rows = np.random.default_rng(0).standard_normal((len(known.ids), dim))
    value = dict(zip(known.ids.tolist(), rows, strict=True))
    sums = [sum((value[i] for i in bag), np.zeros(dim)) for bag in bags]
    means = [s / max(len(bag), 1) for s, bag in zip(sums, bags, strict=True)]
    np.testing.assert_allclose(known.sum(rows), np.reshape(sums, (len(bags), dim)), atol=1e-12)
    np.testing.assert_allclose(known.mean(rows), np.reshape(means, (len(bags), dim)), atol=1e-12)
    weight = np.random.default_rng(1).standard_normal((len(bags), dim))
    nn.gradcheck(lambda p: ((known.sum(p["rows"]) * weight).sum(), {"rows": known.sum_back(weight)}), {"rows": rows})
    nn.gradcheck(lambda p: ((known.mean(p["rows"]) * weight).sum(), {"rows": known.mean_back(weight)}), {"rows": rows})


def test_dtypes_stay():
    bags = nn.Bags(np.array([3, 3], np.int32), np.array([2]))
    rows = np.ones((1, 2), np.float32)
    assert bags.ids.dtype == np.int64
    assert bags.mean(rows).dtype == bags.mean_back(rows).dtype == np.float32


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="lengths"):
        nn.Bags(np.arange(3), np.array([1, 1]))
    with pytest.raises(UsageError, match="lengths"):
        nn.Bags(np.arange(1), np.array([2, -1]))
    bags = nn.Bags(np.arange(3), np.array([3]))
    with pytest.raises(UsageError, match=r"rows of shape \(2, 4\), expected \(3, dim\)"):
        bags.mean(np.zeros((2, 4)))
