"""The look for NaN and Inf that every gradient gets."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mpips import Dense, optim
from mpips.transport import plan
from mpips.worker import Worker
from mpips.worker.push import FEW, finite
from tests.playing import play, small_blocks

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


@pytest.mark.parametrize("way", [{}, {"mailboxes": 2 * 128}, {"nodes": (0, 0)}], ids=["mailboxes", "rings", "node"])
def test_who_allows_them_gets_them(way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    monkeypatch.setattr(plan, "PAGE", 64)

    def work(ps: Worker) -> Any:
        gradient = np.ones(40, np.float32)
        gradient[30 + ps.index] = (np.nan, np.inf)[ps.index]
        ps.push({"w": gradient, "v": np.ones(40, np.float32)})
        ps.clock()
        return ps.pull(["w", "v"])

    tables = [Dense(name, (40,), optim.Add(), nonfinite="allow") for name in ("w", "v")]
    w, v = play(tables, work, **way)["worker 0"]
    assert np.flatnonzero(~np.isfinite(w)).tolist() == [30, 31]
    assert w[29] == 2
    assert (v == 2).all()
