"""The layout: every element in one block, every block in one place, by a grid that knows nothing of servers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips import Dense, layout, optim
from mpips.layout import ALIGN, Layout, align, grid, place
from mpips.table import DTYPES

SGD = optim.SGD(lr=0.1)
SMALL = 256  # bytes of a block here, so that small tables have many


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK", SMALL)
        patch.setattr(layout, "WHOLE", SMALL)
        yield


SHAPES = st.just(()) | st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple)
KINDS = st.lists(st.tuples(SHAPES, st.sampled_from(sorted(DTYPES))), max_size=6)
SERVERS = st.integers(1, 9)


def tables(kinds: list[tuple[tuple[int, ...], str]], prefix: str = "t") -> list[Dense]:
    return [Dense(f"{prefix}{k}", shape, SGD, dtype=dtype) for k, (shape, dtype) in enumerate(kinds)]


def check(made: Layout) -> None:
    """Everything that must hold of any layout."""
    for number, table in enumerate(made.tables):
        blocks = [b for b in made.blocks if b.table == number]
        covered = np.zeros(table.size, int)
        for b in blocks:
            covered[b.start : b.stop] += 1
        assert (covered == 1).all(), "every element lies in exactly one block"
        assert [(b.start, b.stop) for b in blocks] == grid(table.size, table.np_dtype.itemsize)
        assert [b.index for b in blocks] == list(range(len(blocks)))
        assert all(b.stop > b.start for b in blocks), "no block is empty"
        assert [b for run in made.runs[number] for b in run.blocks] == blocks, "runs are the blocks, in the order of elements"
        for run in made.runs[number]:
            assert run.blocks
            assert (run.start, run.stop) == (run.blocks[0].start, run.blocks[-1].stop)
            size = table.np_dtype.itemsize
            for k, b in enumerate(run.blocks):
                assert (b.server, b.slot) == (run.server, run.slot + k)
                assert b.offset == run.offset + (b.start - run.start) * size, "a run is contiguous in its region"
        servers = [run.server for run in made.runs[number]]
        assert len(set(servers)) == len(servers), "one run on a server"
        if table.nbytes <= SMALL:
            assert len(servers) <= 1, "a small table is not split"
    for server in range(made.servers):
        mine = list(made.on(server))
        assert sorted(b.slot for b in mine) == list(range(made.slots[server]))
        at = 0
        for b in sorted(mine, key=lambda b: b.offset):
            assert b.offset % ALIGN == 0
            assert b.offset >= at, "two blocks overlap"
            at = b.offset + (b.stop - b.start) * made.tables[b.table].np_dtype.itemsize
        assert at <= made.nbytes[server]
        assert made.nbytes[server] % ALIGN == 0
        assert bool(mine) == bool(made.nbytes[server])


@given(KINDS, SERVERS)
def test_exact_cover_without_overlap(kinds: list[Any], servers: int) -> None:
    check(place(tables(kinds), servers))


@given(KINDS, SERVERS, SERVERS)
def test_the_grid_does_not_depend_on_the_servers(kinds: list[Any], one: int, other: int) -> None:
    cells = [[(b.table, b.index, b.start, b.stop) for b in place(tables(kinds), n).blocks] for n in (one, other)]
    assert cells[0] == cells[1]


@given(KINDS, KINDS, SERVERS)
def test_a_table_is_cut_alike_in_any_company(kinds: list[Any], others: list[Any], servers: int) -> None:
    alone = [[(b.index, b.start, b.stop) for b in place([t], 1).blocks] for t in tables(kinds)]
    made = place([*tables(others, "other"), *tables(kinds)], servers)
    for k, cells in enumerate(alone):
        assert [(b.index, b.start, b.stop) for b in made.blocks if b.table == len(others) + k] == cells


@given(KINDS, KINDS, SERVERS)
def test_what_is_added_leaves_the_rest_where_it_stands(kinds: list[Any], later: list[Any], servers: int) -> None:
    before = place(tables(kinds), servers)
    made = place(tables(later, "later"), servers, before)
    check(made)
    assert made.tables == (*before.tables, *tables(later, "later"))
    assert made.blocks[: len(before.blocks)] == before.blocks
    assert made.runs[: len(before.runs)] == before.runs
    assert all(a >= b for a, b in zip(made.nbytes, before.nbytes, strict=True))
    one_by_one = before
    for table in tables(later, "later"):
        one_by_one = place([table], servers, one_by_one)
    assert one_by_one == made, "added together or one by one, the layout is the same"


@given(KINDS, SERVERS)
def test_equal_inputs_give_equal_layouts_and_others_other_digests(kinds: list[Any], servers: int) -> None:
    made = place(tables(kinds), servers)
    assert made == place(tables(kinds), servers)
    assert made.digest() == place(tables(kinds), servers).digest()
    assert made.digest() != place(tables(kinds), servers + 1).digest()
    assert made.digest() != place([*tables(kinds), Dense("more", (1,), SGD)], servers).digest()


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=8), SERVERS)
def test_balance(sizes: list[int], servers: int) -> None:
    """No server has more than the mean and one table's largest run and one block, roughly what greedy placing promises."""
    made = place([Dense(f"t{k}", (n,), SGD) for k, n in enumerate(sizes)], servers)
    runs = [sum(align((b.stop - b.start) * 4) for b in run.blocks) for table in made.runs for run in table]
    assert max(made.nbytes) <= sum(made.nbytes) / servers + max(runs)
    if max(sizes) * 4 > SMALL * servers:
        assert min(made.nbytes) > 0, "a table of more blocks than servers has some on each"


def test_more_servers_than_blocks() -> None:
    made = place([Dense("w", (100,), SGD), Dense("v", (3,), SGD)], 9)
    check(made)
    assert sorted(made.slots, reverse=True) == [1, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0, 2)])
def test_empty_tables_have_no_block(shape: tuple[int, ...]) -> None:
    made = place([Dense("empty", shape, SGD), Dense("w", (3,), SGD)], 2)
    check(made)
    assert made.runs[0] == ()
    assert len(made.blocks) == 1


def test_a_number_is_one_block() -> None:
    made = place([Dense("scalar", (), SGD, dtype="float16")], 2)
    check(made)
    assert [(b.start, b.stop, b.server) for b in made.blocks] == [(0, 1, 0)]


def test_no_tables() -> None:
    assert place([], 3) == Layout((), 3, (), (), (0, 0, 0), (0, 0, 0))


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8]))
def test_grid(size: int, itemsize: int) -> None:
    cells = grid(size, itemsize)
    assert [a for a, _ in cells] == list(range(0, size, SMALL // itemsize))
    assert all(b == a for (_, b), (a, _) in itertools.pairwise(cells))
    assert (cells[-1][1] if cells else 0) == size


@given(st.integers(0, 1 << 50), st.sampled_from([8, 64, 4096]))
def test_align(n: int, to: int) -> None:
    assert n <= align(n, to) < n + to
    assert align(n, to) % to == 0


def test_blocks_of_the_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK", 2 << 20)
    monkeypatch.setattr(layout, "WHOLE", 2 << 20)
    assert all(1 << 20 <= (b - a) * 4 <= 4 << 20 for a, b in grid(10_000_000, 4)[:-1]), "DESIGN: 1 to 4 MB"
    made = place([Dense("w", (10_000_000,), SGD)], 3)
    assert max(made.slots) - min(made.slots) <= 1
