"""The look for NaN and Inf that every gradient gets."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mpips.worker.push import FEW, finite

LARGEST = {np.float32: 3e38, np.float64: 1e308, np.float16: 65504.0, ml_dtypes.bfloat16: 3e38}


@pytest.mark.parametrize("size", [1, 10, FEW, FEW + 1, 100_000])
@pytest.mark.parametrize("dtype", LARGEST)
def test_numbers_are_told_from_what_is_none_without_a_warning(dtype: Any, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finite(np.zeros(size, dtype))
        assert finite(np.full(size, LARGEST[dtype], dtype)), "a sum that overflows"
        for bad in (np.nan, np.inf, -np.inf):
            values = np.ones(size, dtype)
            values[size // 2] = bad
            assert not finite(values)
        assert size == 1 or not finite(np.array([np.inf, -np.inf] * (size // 2), dtype))
