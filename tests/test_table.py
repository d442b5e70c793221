"""What a table may be, and what is said about one that may not."""

from __future__ import annotations

import json
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips import Dense, Rows, init, optim
from mpips.errors import UsageError
from mpips.server.catalogue import table_of
from mpips.table import DTYPES, NONFINITE, check_tables, dtype_name

SGD = optim.SGD(lr=0.1)


def dense(**changes: Any) -> Dense:
    return Dense(**{"name": "w", "shape": (3,), "optimizer": SGD, **changes})


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 4), (2, 3, 4), (1,) * 8])
def test_any_shape(shape: tuple[int, ...]) -> None:
    t = dense(shape=shape, dtype="float64")
    assert (t.shape, t.size, t.nbytes) == (shape, int(np.prod(shape)), 8 * int(np.prod(shape)))


@pytest.mark.parametrize("shape", [[2, 3], np.array([2, 3]), (np.int64(2), 3)])
def test_a_shape_becomes_a_tuple_of_ints(shape: Any) -> None:
    t = dense(shape=shape)
    assert t.shape == (2, 3)
    assert [type(n) for n in t.shape] == [int, int]


def test_a_number_is_the_shape_of_a_vector() -> None:
    assert dense(shape=5).shape == (5,)


@pytest.mark.parametrize(("given_", "name", "size", "compute"), [
    ("float32", "float32", 4, "float32"), (np.float32, "float32", 4, "float32"), (np.dtype("f8"), "float64", 8, "float64"),
    (float, "float64", 8, "float64"), ("float16", "float16", 2, "float32"), ("bfloat16", "bfloat16", 2, "float32"),
    (ml_dtypes.bfloat16, "bfloat16", 2, "float32"),
])
def test_dtypes(given_: Any, name: str, size: int, compute: str) -> None:
    t = dense(dtype=given_)
    assert (t.dtype, t.np_dtype, t.np_dtype.itemsize, t.half) == (name, DTYPES[name], size, size == 2)
    assert t.compute_dtype == np.dtype(compute)


@pytest.mark.parametrize("staleness", [0, 1, 1000, None, np.int64(3)])
def test_staleness(staleness: Any) -> None:
    assert dense(staleness=staleness).staleness == staleness


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "table '': a name"), ({"name": None}, "table None: a name"), ({"name": "a/b"}, "table 'a/b': a name"),
    ({"name": ".a"}, "table '.a': a name"), ({"name": "a\0"}, r"table 'a\x00': a name"),
    ({"name": "a\nb"}, r"table 'a\nb': a name"),
    ({"name": "\udc80"}, r"table '\udc80': a name"), ({"name": 7}, "table 7: a name"),
    *(({"shape": shape}, f"table 'w': shape {shape!r} is not") for shape in
      ("abc", 3.5, None, -1, (-1,), (2.0,), (True,), ((1, 2),), ("2",), (1 << 40, 1 << 40))),
    *(({"staleness": s}, f"table 'w': staleness {s!r} is neither None (asynchronous) nor")
      for s in (-1, 1.5, True, "none", float("inf"))),
    *(({"dtype": d}, "table 'w': dtype") for d in ("int32", "flot32", None, complex, np.int8, object, ["float32"], 4)),
    *(({"optimizer": o}, f"table 'w': optimizer {o!r} is not one of mpips.optim, such as SGD(lr=0.1)")
      for o in ("sgd", None, optim.SGD, 0.1)),
    *(({"combine": c}, "table 'w': combine") for c in ("avg", None, ["sum"], 1)),
    *(({"nonfinite": n}, "table 'w': nonfinite") for n in ("ignore", None, True)),
    *(({"master": m}, "table 'w': master") for m in ("yes", None, 1)),
    *(({"init": i}, "table 'w': init") for i in (0.0, None, init.zeros, np.zeros(3), "zeros")),
    ({"init": [1.0]}, "table 'w': init [1.0] is not one of mpips.init, such as zeros() or array(values)"),
    ({"init": init.array(np.zeros(4))}, "table 'w': the initial array has shape (4,), the table (3,)"),
    ({"init": init.array(0.0)}, "table 'w': the initial array has shape (), the table (3,)"),
    ({"init": init.array(["a", "b", "c"])}, "table 'w': the initial array is of <U1"),
    ({"init": init.array([1j, 0, 0])}, "table 'w': the initial array is of complex128"),
    ({"init": init.array([None] * 3)}, "table 'w': the initial array is of object"),
]


@pytest.mark.parametrize(("changes", "says"), BAD, ids=lambda value: re.sub(r" at 0x\w+", "", str(value))[:40])
def test_what_is_wrong_is_one_line_that_names_the_table(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        dense(**changes)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tables", "says"), [
    ([dense(), dense(shape=(4,))], "table 'w' is declared twice"), ([dense(), "v"], "tables: 'v' is not a table"),
    ({"w": 1}, "tables: 'w' is not a table"), (None, "tables: None is not a list"), (dense(), "is not a list of tables"),
])
def test_lists_of_tables(tables: Any, says: str) -> None:
    with pytest.raises(UsageError, match=r"^tables|^table 'w'") as caught:
        check_tables(tables)
    assert says in str(caught.value)


def test_tables_may_be_any_iterable_and_none_at_all() -> None:
    assert check_tables(iter([dense()])) == [dense()]
    assert check_tables([]) == []


RULES = st.sampled_from([SGD, optim.Adam(lr=optim.Cosine(0.1, clocks=9), clip=1.0), optim.Add(), optim.FTRL(lr=0.1)])
INITS = st.sampled_from([init.zeros(), init.constant(2), init.uniform(-1, 2, seed=3), init.normal(0.1),
                         init.xavier(), init.he(seed=9)])
TABLES = st.builds(Dense, name=st.text("abc.é1 ", min_size=1).filter(lambda n: n[0] != "."),
                   shape=st.lists(st.integers(0, 5), max_size=3).map(tuple), optimizer=RULES, init=INITS,
                   staleness=st.none() | st.integers(0, 9), dtype=st.sampled_from(sorted(DTYPES)),
                   combine=st.sampled_from(["sum", "mean"]), nonfinite=st.sampled_from(NONFINITE), master=st.booleans())


@given(TABLES)
def test_a_description_is_json_and_says_everything(t: Dense) -> None:
    assert table_of(json.loads(json.dumps(t.describe()))) == t


@given(TABLES, TABLES)
def test_different_tables_have_different_descriptions(a: Dense, b: Dense) -> None:
    assert (a.describe() == b.describe()) == (a == b)


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        dense().shape = (4,)  # type: ignore[misc]


def test_dtype_names() -> None:
    assert {dtype_name(d) for d in DTYPES.values()} == set(DTYPES)


@pytest.mark.parametrize(("options", "says"), [
    ({"rows": 3, "capacity": 4}, "either rows=N"), ({"rows": None}, "either rows=N"), ({"rows": -1}, "rows -1"),
    ({"rows": 3, "dim": 0}, "dim 0"), ({"rows": 3, "dim": None}, "dim None"), ({"rows": 2.0}, "rows 2.0"),
    ({"rows": None, "capacity": 0}, "capacity 0"), ({"rows": 3, "dtype": "float16"}, "float32 or float64"),
    ({"rows": 3, "admit": 2}, "come and go"), ({"rows": None, "capacity": 9, "admit": 0}, "admit 0"),
    ({"rows": None, "capacity": 9, "admit": 1.5}, "admit 1.5"), ({"rows": None, "capacity": 9, "admit": True}, "admit True"),
    ({"rows": None, "capacity": 9, "init": init.array(np.ones((9, 2)))}, "init.array for rows=None"),
    ({"rows": 3, "decay": 1.0}, "decay 1.0"), ({"rows": 3, "decay": "no"}, "decay 'no'"),
    ({"rows": None, "capacity": 9, "ttl": 0}, "ttl 0"), ({"rows": None, "capacity": 9, "when_full": "newest"}, "when_full"),
])
def test_rows_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=f"^table 't': .*{says}"):
        Rows("t", **{"dim": 2, "optimizer": optim.SGD(lr=0.1), **options})
