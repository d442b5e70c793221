"""Threads that share a fold: they cover it exactly, and the bits are those of one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips import Dense
from mpips.errors import UsageError
from mpips.optim import Fold, make
from mpips.optim.team import LINE, SMALLEST, Team


@given(st.integers(1, 9), st.integers(0, 12 * SMALLEST))
def test_parts_cover_everything_once(size: int, elements: int) -> None:
    parts: list[tuple[int, int]] = []
    Team(size).share(elements, lambda lo, hi: parts.append((lo, hi)))
    parts.sort()
    assert parts[0][0] == 0
    assert parts[-1][1] == elements
    assert len(parts) <= size
    for (_, stop), (start, _) in pairwise(parts):
        assert start == stop
        assert start % LINE == 0


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["sgd", "adam", "ftrl"])
def test_bits_do_not_depend_on_the_threads(name: str, engine: str) -> None:
    if engine == "numba":
        pytest.importorskip("numba")
    n = 3 * SMALLEST + 37
    random = np.random.default_rng(5)
    old, *grads = random.standard_normal((3, n)).astype(np.float32)
    results: list[list[Any]] = []
    for size in (1, 2, 3):
        table = Dense("w", (n,), make(name, lr=0.1, weight_decay=0.01))
        fold = Fold(table.optimizer, table, engine, team=Team(size))
        new, slots = np.empty_like(old), list(fold.new_slots(old).values())
        fold(old, new, slots, grads, step=1, clock=0, scale=0.5)
        results.append([new.tobytes(), *(slot.tobytes() for slot in slots)])
    assert results[0] == results[1] == results[2]


def test_what_a_part_raises_is_raised() -> None:
    def call(lo: int, hi: int) -> None:
        if lo:
            raise ValueError("part")

    with pytest.raises(ValueError, match="part"):
        Team(2).share(4 * SMALLEST, call)


def test_no_threads() -> None:
    with pytest.raises(UsageError, match="fold threads: 0 is not a number from 1"):
        Team(0)
