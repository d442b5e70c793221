"""The directory: it is a dict, for any ids in any order, and it does not wear out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mpips import directory
from mpips.directory import Directory, mix, owners

Array = np.ndarray[Any, np.dtype[Any]]
MASK = (1 << 64) - 1
SEEDS = st.integers(0, 1 << 32)


def unshift(x: int, by: int) -> int:
    """The number of 64 bits whose xor with itself, shifted by `by` to the right, is x."""
    out = x
    for _ in range(64 // by):
        out = x ^ (out >> by)
    return out


def unmix(x: int) -> int:
    """The id with this hash."""
    x = unshift(x, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    x = unshift(x, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    x = unshift(x, 30)
    return x - (1 << 64) if x >> 63 else x


def ints(values: Any) -> Array:
    return np.array(list(values), np.int64)


EXTREMES = [0, 1, -1, -2, (1 << 63) - 1, -(1 << 63), 1 << 32, -(1 << 32)]
LOW_BITS = [k << 40 for k in range(-20, 20)]
HOME_0 = [unmix(k << 32) for k in range(40)]  # all of them begin at cell 0
HOME_LAST = [unmix((k << 32) | 0xFFFFFFFF) for k in range(40)]  # and these at the last one, and go on at 0
CROWD = [unmix((k << 32) | (0xFFFFFFFF if k % 2 else k % 7)) for k in range(100, 160)]
IDS = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-20, 20),
                *(st.sampled_from(some) for some in (EXTREMES, LOW_BITS, HOME_0, HOME_LAST, CROWD)))
MANY = st.lists(IDS, max_size=60)


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    """Java's SplittableRandom and Vigna's splitmix64.c give these for seed 0: the hash of k golden ratios."""
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(x) for x in mix(steps.view(np.int64)).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(ids=MANY)
def test_mix_has_an_inverse_and_leaves_its_argument(ids: list[int]) -> None:
    given_ = ints(ids)
    assert [unmix(x) for x in mix(given_).tolist()] == ids
    assert given_.tolist() == ids


@pytest.mark.parametrize("servers", [1, 2, 3, 7, 64])
def test_owners_share_evenly_and_leave_a_directory_even(servers: int) -> None:
    ids = np.arange(100_000)
    found = owners(ids, servers)
    assert found.dtype == np.int64
    counts = np.bincount(found, minlength=servers)
    assert len(counts) == servers
    expected = len(ids) / servers
    assert ((counts - expected) ** 2 / expected).sum() < servers + 5 * np.sqrt(2 * servers)
    cells = np.bincount((mix(ids[found == 0]) & np.uint64(63)).view(np.int64), minlength=64)
    expected = counts[0] / 64
    assert ((cells - expected) ** 2 / expected).sum() < 64 + 5 * np.sqrt(128)


class Machine(RuleBasedStateMachine):
    """Any calls in any order, beside a dict."""

    @initialize(capacity=st.sampled_from([0, 0, 50, 500]), few=st.sampled_from([0, 4, 128]), slice_=st.sampled_from([8, 1 << 14]))
    def start(self, capacity: int, few: int, slice_: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(directory, "FEW", few)
        self.patch.setattr(directory, "SLICE", slice_)
        self.real, self.model, self.next = Directory(capacity), dict[int, int](), 0

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(ids=MANY)
    def insert(self, ids: list[int]) -> None:
        new = [i for i in dict.fromkeys(ids) if i not in self.model]
        slots = range(self.next, self.next + len(new))
        self.next += len(new)
        self.real.insert(ints(new), ints(slots))
        self.model.update(zip(new, slots, strict=True))

    @rule(ids=MANY, data=st.data())
    def remove(self, ids: list[int], data: st.DataObject) -> None:
        if self.model:
            ids = ids + data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=60))
        expected = [self.model.get(i, -1) for i in ids]
        assert self.real.remove(ints(ids)).tolist() == expected
        for i in ids:
            self.model.pop(i, None)

    @rule(ids=MANY)
    def lookup(self, ids: list[int]) -> None:
        ids = ids + list(self.model)
        before = ints(ids)
        found = self.real.lookup(before)
        assert found.dtype == np.int64
        assert found.tolist() == [self.model.get(i, -1) for i in ids]
        assert before.tolist() == ids

    @rule()
    def clear(self) -> None:
        self.real.clear()
        self.model.clear()

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "real"):
            return
        assert len(self.real) == len(self.model)
        ids, slots = self.real.items()
        assert dict(zip(ids.tolist(), slots.tolist(), strict=True)) == self.model
        assert len(ids) == len(self.model)
        cells = self.real._cells
        assert self.real._live == (cells[:, 1] >= 0).sum()
        assert self.real._gone == (cells[:, 1] == directory.GONE).sum()
        assert 2 * (self.real._live + self.real._gone) <= len(cells)


test_it_is_a_dict = Machine.TestCase


@given(seed=SEEDS, n=st.integers(0, 3000), steps=st.integers(1, 5))
def test_large_calls(seed: int, n: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.unique(rng.integers(-(1 << 63), (1 << 63) - 1, n))
    rng.shuffle(ids)
    slots = rng.permutation(len(ids))
    real = Directory()
    for part in np.array_split(np.arange(len(ids)), steps):
        real.insert(ids[part], slots[part])
    np.testing.assert_array_equal(real.lookup(ids), slots)
    gone, kept = slice(None, len(ids) // 2), slice(len(ids) // 2, None)
    np.testing.assert_array_equal(real.remove(ids[gone]), slots[gone])
    assert (real.lookup(ids[gone]) == -1).all()
    np.testing.assert_array_equal(real.lookup(ids[kept]), slots[kept])
    again = rng.integers(0, max(1, len(ids)), 2 * n) if len(ids) else np.zeros(0, int)
    np.testing.assert_array_equal(real.lookup(ids[again]), np.where(again < len(ids) // 2, -1, slots[again]))


@pytest.mark.parametrize("home", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("parts", [1, 7])
def test_a_thousand_ids_of_one_home(home: int, parts: int) -> None:
    ids = ints(unmix((k << 32) | home) for k in range(1000))
    real = Directory()
    for k, part in enumerate(np.array_split(ids, parts)):
        real.insert(part, np.arange(len(part)) + 1000 * k)
    np.testing.assert_array_equal(real.lookup(ids) % 1000, np.concatenate([np.arange(len(p)) for p in np.array_split(ids, parts)]))
    assert real.lookup(ints([unmix((1 << 50) | home)])).tolist() == [-1]
    real.remove(ids[1:])
    assert real.lookup(ids).tolist() == [0] + [-1] * 999


def test_it_does_not_wear_out() -> None:
    """Removing as many as come in keeps the cells, and the taken ones are never more than half."""
    real = Directory()
    real.insert(np.arange(1000), np.arange(1000))
    sizes = set()
    for k in range(300):
        real.remove(np.arange(100 * k, 100 * k + 100))
        real.insert(np.arange(1000 + 100 * k, 1100 + 100 * k), np.arange(100))
        sizes.add(real.nbytes)
    assert len(real) == 1000
    assert max(sizes) <= 4096 * 16
    real.remove(np.arange(40_000))
    assert len(real) == 0
    assert real.nbytes == directory.SMALLEST * 16, "what is empty is small again"


def test_a_full_directory_is_not_rebuilt_at_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Directory()
    real.insert(np.arange(1023), np.arange(1023))
    assert real.nbytes == 2048 * 16
    rebuilt: list[int] = []
    rebuild = Directory._rebuild
    monkeypatch.setattr(Directory, "_rebuild", lambda self, *rest: (rebuilt.append(1), rebuild(self, *rest)))
    for k in range(200):
        real.remove([k])
        real.insert([1023 + k], [k])
    assert len(rebuilt) <= 2
    assert len(real) == 1023


def test_reserved_room_is_neither_moved_nor_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Directory(10_000)
    real.insert(ints([5]), ints([50]))
    size = real.nbytes
    assert size == 2 * 16384 * 16
    real.insert(np.arange(100, 6100), np.arange(6000))
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "_rebuild", None)
        for k in range(4):
            real.insert(np.arange(k * 1000, k * 1000 + 900) + 10_000, np.arange(900))
    assert real.nbytes == size
    real.remove(real.items()[0])
    assert real.nbytes == size
    real.clear()
    assert real.nbytes == size == Directory(10_000).nbytes


def test_few_ids_for_much_room_do_not_touch_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Directory(1 << 20)
    monkeypatch.setattr(Directory, "_rebuild", None)
    for n in (1 << 15, 1 << 17):  # more than a pass works on, and than there are
        real.insert(np.arange(n) + n, np.arange(n))
    assert len(real) == 5 << 15
    assert real.lookup([1 << 17, (1 << 18) - 1]).tolist() == [0, (1 << 17) - 1]


def test_nothing() -> None:
    real = Directory()
    none = np.zeros(0, np.int64)
    real.insert(none, none)
    assert real.lookup(none).shape == real.remove(none).shape == (0,)
    assert real.lookup(none).dtype == real.remove(none).dtype == np.int64
    assert real.lookup([-1, 0]).tolist() == [-1, -1], "no id is taken for an empty cell"
    assert [a.dtype for a in real.items()] == [np.int64, np.int64]


def test_slots_of_32_bits() -> None:
    real = Directory()
    real.insert(ints([3, 4]), np.array([2**31 - 1, 0], np.int32))
    assert real.lookup([4, 3]).tolist() == [0, 2**31 - 1]
