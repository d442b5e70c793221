from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.sketch import MOST, Sketch


@given(st.lists(st.sets(st.integers(-1 << 63, (1 << 63) - 1), max_size=30), max_size=10))
def test_a_count_is_never_too_low(batches: list[set[int]]) -> None:
    sketch, true = Sketch(1024), Counter[int]()
    for batch in batches:
        ids = np.array(sorted(batch), np.int64)
        true.update(batch)
        assert (sketch.add(ids) >= [true[k] for k in ids.tolist()]).all()
    ids = np.array(list(true), np.int64)
    assert (sketch.count(ids) >= [true[k] for k in ids.tolist()]).all()


def test_a_count_is_seldom_too_high() -> None:
    sketch, ids = Sketch(1 << 15), np.arange(4000)
    sketch.add(ids)
    assert (sketch.add(ids[::2]) == 2).mean() > 0.99
    assert (sketch.count(np.arange(10_000, 20_000)) == 0).mean() > 0.98


def test_a_count_stays_at_the_top() -> None:
    sketch = Sketch(16)
    sketch.counts[:] = MOST
    sketch.add(np.array([3]))
    assert sketch.counts.min() == MOST


def test_a_long_stream_of_ids_does_not_fill_it() -> None:
    """Ids that come once each are hardly ever taken for ones that came before."""
    sketch = Sketch(1 << 12)
    seen = np.concatenate([sketch.add(np.arange(k, k + 100)) for k in range(0, 100_000, 100)])
    assert (seen > 1).mean() < 0.05


def some(random: Any, n: int) -> Any:
    return random.choice(100_000, n, replace=False)


@given(st.integers(0, 1 << 30), st.lists(st.integers(8, 12), min_size=1, max_size=4), st.integers(8, 12))
def test_what_others_have_counted_is_not_too_low(seed: int, widths: list[int], width: int) -> None:
    """Ids spread over sketches of any widths; one of any width takes them all in, and goes on counting."""
    random, true, sketch = np.random.default_rng(seed), Counter[int](), Sketch(1 << width)
    for k, bits in enumerate(widths):
        other = Sketch(1 << bits)
        for _ in range(3):
            ids = some(random, 30) * len(widths) + k
            true.update(ids.tolist())
            other.add(ids)
        sketch.absorb(other.counts, other.added)
    more = np.array(sorted(true), np.int64)
    assert (sketch.count(more) >= [true[k] for k in more.tolist()]).all()
    assert (sketch.add(more) > [true[k] for k in more.tolist()]).all()


@pytest.mark.parametrize("width", [1 << 12, 1 << 14, 1 << 16])
def test_what_others_have_counted_is_seldom_too_high(width: int) -> None:
    random, sketch = np.random.default_rng(3), Sketch(width)
    for k in range(2):
        other = Sketch(1 << 14)
        for _ in range(2):
            other.add(np.arange(k, 1000, 2))
        sketch.absorb(other.counts, other.added)
    assert (sketch.count(np.arange(1000)) == 2).mean() > 0.99
    assert (sketch.count(some(random, 10_000) + 1000) == 0).mean() > 0.98
    assert sketch.added / width >= 2000 / (1 << 14)  # as full as they were


def test_a_copy_goes_on_as_the_original() -> None:
    random, one, two = np.random.default_rng(5), Sketch(256), Sketch(256)
    for _ in range(3):
        one.add(some(random, 40))
    two.absorb(one.counts, one.added)
    for _ in range(9):  # through halvings
        ids = some(random, 40)
        assert (one.add(ids) == two.add(ids)).all()
        assert (one.counts == two.counts).all()
