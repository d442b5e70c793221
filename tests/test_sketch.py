from __future__ import annotations

from collections import Counter

import numpy as np
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
