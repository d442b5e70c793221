"""The look for NaN and Inf that every gradient gets."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mpips
from mpips import Dense, Rows, optim
from mpips.errors import NonFiniteGradient, ProtocolError, UsageError
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


@pytest.mark.parametrize("rows", [None, [0]])
def test_a_sum_outlasts_an_earlier_push_that_is_refused(rows: list[int] | None) -> None:
    tables = [Dense("earlier", (1,), optim.Add(), staleness=None),
              Dense("t", (1, 1), optim.Add()) if rows is None else Rows("t", 1, 1, optim.Add())]
    one = np.ones((1, 1), np.float32)

    def work(ps: Worker) -> float:
        ps.push("t", one, more=True, rows=rows)
        for _ in range(2):  # in one process the server runs only while the worker waits: now no half is free
            ps.push("earlier", one[0])
        ps.ipush("earlier", np.full(1, np.nan, np.float32))
        with pytest.raises(NonFiniteGradient, match="table 'earlier'"):
            ps.push("t", one, rows=rows)
        ps.push("t", one, rows=rows)
        ps.clock()
        return float(ps.pull("t")[0, 0])

    assert mpips.run(work, tables, device="cpu") == [2.0]


def test_a_gradient_in_place_begins_when_its_block_does() -> None:
    """And not when `gradients` is called: what is begun between the two comes before it."""
    def work(ps: Worker) -> float:
        inside = ps.gradients("w")
        for _ in range(3):  # the last of them finds no half free, in one process, until the server runs
            ps.ipush("w", np.ones(1, np.float32))
        with inside as gradient:
            gradient[...] = 10
        ps.clock()
        return float(ps.pull("w")[0])

    assert mpips.run(work, [Dense("w", (1,), optim.Add(), staleness=None)], device="cpu") == [13.0]


def test_a_clock_does_not_end_inside_gradients() -> None:
    """The push, which comes when the block ends, would silently be of the next clock."""
    def work(ps: Worker) -> tuple[float, int]:
        with ps.gradients("w") as gradient:
            gradient[...] = 1
            with pytest.raises(ProtocolError, match=r"clock\(\) inside `with gradients\('w'\)`"):
                ps.clock()
        with pytest.raises(KeyError), ps.gradients("v"):
            raise KeyError
        now = ps.clock()
        return float(ps.pull("w")[0]), now

    assert mpips.run(work, [Dense(name, (1,), optim.Add()) for name in "wv"], device="cpu") == [(1.0, 1)]


def test_what_is_added_up_is_not_applied() -> None:
    def work(ps: Worker) -> None:
        handle = ps.ipush("w", np.ones(1, np.float32), more=True)
        handle.wait()
        assert (handle.test(), handle.test(applied=True)) == (True, False)
        with pytest.raises(ProtocolError, match="more=True"):
            handle.wait(applied=True)
        with pytest.raises(UsageError, match="MaskedArray"):
            ps.push("w", np.ma.masked_array(np.ones(1, np.float32), [True]))
        ps.push("w", np.ones(1, np.float32))

    mpips.run(work, [Dense("w", (1,), optim.Add())], device="cpu")
