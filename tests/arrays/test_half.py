import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.arrays import from_words, to_words

BF16 = np.dtype(ml_dtypes.bfloat16)


def test_every_word_there_and_back():
    words = np.arange(1 << 16, dtype=np.uint16)
    wide = from_words(words)
    assert wide.dtype == np.float32
    assert wide.view(np.uint32).tolist() == (words.astype(np.uint32) << 16).tolist()
    number = ~np.isnan(wide)
    assert np.array_equal(wide[number], words.view(BF16).astype(np.float32)[number])
    assert np.array_equal(to_words(wide)[number], words[number])
    assert np.isnan(from_words(to_words(wide))[~number]).all()


def test_rounding_at_every_boundary_is_that_of_ml_dtypes():
    high = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)  # below, at and above the middle
    x = (high | low).view(np.float32)
    number = ~np.isnan(x)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(BF16)
    assert np.array_equal(to_words(x)[number], expected.view(np.uint16)[number])
    assert np.isnan(to_words(x).view(BF16)[~number].astype(np.float32)).all()
    assert np.array_equal(np.signbit(from_words(to_words(x))), np.signbit(x))


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_any_float(values):
    x = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        assert to_words(x).tolist() == x.astype(BF16).view(np.uint16).tolist()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)])
def test_any_shape(shape):
    x = np.ones(shape, np.float32)
    assert to_words(x).shape == shape
    assert to_words(x).dtype == np.uint16
    assert from_words(to_words(x)).shape == shape
    assert np.array_equal(from_words(to_words(x)), x)


def test_strided_and_largest():
    x = np.full((4, 6), np.finfo(np.float32).max, np.float32)[::2, ::3]
    assert np.isinf(from_words(to_words(x))).all()
    assert to_words(np.float32(-np.nan).reshape(()))[()] & 0x7FFF == 0x7FC0
    line = np.arange(10, dtype=np.float32)[::3]
    assert from_words(to_words(line)).tolist() == line.tolist()
