from __future__ import annotations

import collections
import struct
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from mpips.cluster.results import DTYPES, MAGIC, decode, encode
from mpips.errors import MpipsError, UsageError

KEYS = (st.none() | st.booleans() | st.integers() | st.text() | st.binary(max_size=8)
        | st.tuples(st.integers(), st.text()))
SHAPES = hn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(SHAPES)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    out: np.ndarray[Any, Any] = np.frombuffer(raw, dtype).reshape(shape).copy()
    return out


LEAVES = KEYS | st.floats() | arrays() | arrays().filter(lambda a: a.size > 0).map(lambda a: a.reshape(-1)[0])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
                      | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


def same(a: Any, b: Any) -> bool:
    """Equal in type and in bits (so that NaN is NaN and -0.0 is not 0.0)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(k, j) and same(a[k], b[j]) for k, j in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize("value", [
    pytest.param(2**20000, id="large"), pytest.param({2**20000: 0}, id="key"), -(2**70), 0, "\udc80 and \0", b"", "",
    [], (), {}, float("nan"), -0.0, {1: "a", 2.5: 2}, np.float32(0.1),
    np.array(3.5), np.zeros((0, 3), "i2"), np.array([1, 2], ml_dtypes.bfloat16), np.bool_(True), [[[[None]]]],
])
def test_values_at_the_edges(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_arrays_come_back_writable_and_in_this_machines_order() -> None:
    for given_ in (np.arange(6, dtype=">f4").reshape(2, 3), np.arange(12.0, dtype="f4").reshape(3, 4).T[::2]):
        back = decode(encode(given_))
        np.testing.assert_array_equal(back, given_)
        assert back.dtype == np.float32
        back[0, 0] = 7


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(("value", "line"), [
    ({"a": [0, 1, 2, {1, 2}]}, "the result of worker 2: ['a'][3] is a set"),
    (object(), "the result of worker 2 is a object"),
    ([Point(1, 2)], "the result of worker 2: [0] is a Point"),
    ({"x": np.array(["a"])}, "the result of worker 2: ['x'] is an array of <U1"),
    (np.array([object()]), "the result of worker 2 is an array of object"),
    (np.zeros(2, [("a", "i4")]), "the result of worker 2 is an array of [('a', '<i4')]"),
    (np.ma.zeros(3), "the result of worker 2 is a MaskedArray"),
    ({frozenset(): 1}, "the result of worker 2: key frozenset() is a frozenset"),
    (np.datetime64("2020"), "the result of worker 2 is an array of datetime64[Y]"),
])
def test_anything_else_is_refused_by_its_place(value: Any, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        encode(value, "the result of worker 2")
    assert str(caught.value).startswith(line + ";")
    assert "\n" not in str(caught.value)


def test_a_list_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="nested deeper than 64"):
        encode(loop)


GOOD = encode({"loss": [0.5, np.arange(5)], "name": b"x"})


@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(at: int, bit: int) -> None:
    bad = bytearray(GOOD)
    bad[at] ^= 1 << bit
    with pytest.raises(MpipsError, match="a result that came over MPI"):
        decode(bad)


@given(keep=st.integers(0, len(GOOD) - 1))
def test_every_cut_is_found(keep: int) -> None:
    with pytest.raises(MpipsError, match="a result that came over MPI"):
        decode(GOOD[:keep])


def forged(header: bytes, body: bytes = b"") -> bytes:
    rest = struct.pack("<I", len(header)) + header + body
    return MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


@pytest.mark.parametrize("header", [
    b"", b"{}", b"[]", b"7", b"\xff", b"[" * 5000, b'["p", "os"]', b'["l", 7]', b'["d", [1]]',
    b'["d", [[["l", []], ["n"]]]]',
    b'["y", 0, 99]', b'["y", -1, 1]', b'["y", "0", 1]', b'["i", "0q"]', b'["i", 5]', b'["f", "00"]', b'["s"]',
    b'["a", "object", [1], 0]', b'["a", "int8", [-4, -4], 0]', b'["a", "int8", [9], 0]', b'["a", "int8", ["1"], 0]',
    b'["a", "int8"]', b'["a", "float64", [99999999999999999999, 0], 0]', b'["a", "bool", [1.0], 0]',
])
def test_what_has_a_good_checksum_but_makes_no_sense(header: bytes) -> None:
    with pytest.raises(MpipsError, match="a result that came over MPI cannot be read"):
        decode(forged(header, b"0123"))


@given(st.binary())
def test_any_bytes_raise_one_kind_of_error(data: bytes) -> None:
    for message in (data, forged(data)):
        try:
            decode(message)
        except MpipsError:
            continue
