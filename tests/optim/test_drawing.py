"""Compiled drawing against the NumPy code that defines it: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpips import init, init_rows, optim
from mpips.init_rows import Law
from mpips.optim import drawing
from mpips.optim.rows import RowFold
from mpips.server.row_table import RowTable
from mpips.table import Rows
from mpips.transport.local import Local
from mpips.transport.words import MARK, WORD, RowPlace

pytest.importorskip("numba")

IDS = st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
NUMBERS = st.floats(-1e3, 1e3)
LAWS = st.one_of(st.tuples(NUMBERS, NUMBERS, st.none()),
                 st.tuples(st.just(0.0), st.just(0.0), st.floats(0, 1e3) | st.sampled_from([1e-40, 1e30])))


def compare(ids: Any, dim: int, dtype: Any, seed: int, stream: int, law: Law) -> None:
    one, two = np.full((2, len(ids), dim), np.nan, dtype)
    assert drawing.fill(two, ids, seed=seed, stream=stream, law=law) is two
    init_rows.fill(one, ids, seed=seed, stream=stream, law=law)
    bits = f"u{one.itemsize}"
    wrong = np.argwhere(one.view(bits) != two.view(bits))
    assert not len(wrong), f"{len(wrong)} differ, first at {wrong[0]}: {one[tuple(wrong[0])]!r} is not {two[tuple(wrong[0])]!r}"


@given(ids=st.lists(IDS, max_size=12).map(lambda ids: np.array(ids, np.int64)), dim=st.integers(1, 9) | st.just(64),
       dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, (1 << 64) - 1), stream=st.integers(0, (1 << 32) - 1),
       law=LAWS)
@example(ids=np.array([-1, 0]), dim=0, dtype=np.float32, seed=0, stream=0, law=(0.0, 1.0, None))
def test_bits_of_any_rows(ids: Any, dim: int, dtype: Any, seed: int, stream: int, law: Law) -> None:
    compare(ids, dim, dtype, seed, stream, law)


@FLOATS
@pytest.mark.parametrize("law", [(-0.05, 0.05, None), (0.0, 0.0, 0.05)])
@pytest.mark.parametrize("dim", [*range(1, 10), 64, 4 * drawing.SLICE + 3])
def test_bits_of_many_rows(dim: int, law: Law, dtype: Any) -> None:
    """Slices and their remainder; a contracted multiply-add would differ in one of twenty."""
    ids = np.random.default_rng(dim).integers(-(1 << 63), 1 << 63, 20_011 if dim <= 64 else 3)
    compare(ids, dim, dtype, (1 << 63) + 11, 0xFFFFFFFF, law)


def test_ids_that_are_a_view() -> None:
    compare(np.arange(-20, 20)[::-3], 5, np.float32, 1, 2, (0.0, 0.0, 1.0))


@pytest.mark.parametrize(("engine", "rows", "law", "drawn"), [
    ("numba", None, init.normal(), "compiled"), ("numpy", None, init.normal(), "numpy"), ("auto", None, init.he(), "numpy"),
    ("numba", 9, init.normal(), "numpy"), ("numba", None, init.zeros(), "not"),
])
def test_who_draws_on_a_server(engine: str, rows: int | None, law: init.Init, drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a row is born, what will draw it has been compiled."""
    calls: list[tuple[str, int]] = []
    for name, module in (("compiled", drawing), ("numpy", init_rows)):
        def spy(out: Any, ids: Any, *, name: str = name, fill: Any = module.fill, **more: Any) -> Any:
            calls.append((name, len(ids)))
            return fill(out, ids, **more)

        monkeypatch.setattr(module, "fill", spy)
    table = Rows("w", rows, 3, init=law, optimizer=optim.SGD(0.1), capacity=None if rows else 9)
    place = RowPlace(0, 9, 12, marks=0, values=9 * MARK, owners=9 * (MARK + 12) + 4)
    memory = np.zeros(9 * (MARK + 12 + WORD) + 4, np.uint8)
    made = RowTable(table, place, memory, RowFold(table.optimizer, "f4", 3, engine, rows=9), 0, 1, 0)
    assert calls == [("compiled", 0)] * (drawn == "compiled")
    out = np.empty((2, 3), np.float32)
    made.read(np.array([5, 7]), out) if rows is None else made.fill(Local([0]), None)
    assert [name for name, _ in calls[-1:]] == [drawn] * (drawn != "not")
