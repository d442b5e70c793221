"""Criteo's format, against a parser of one line after the other."""

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips.errors import UsageError
from mpips.features.criteo import Criteo, Damaged, parse

NUMBER = st.none() | st.integers(-3, 10) | st.integers(-(10**15) + 1, 10**15 - 1)
CATEGORY = st.none() | st.integers(0, 2**32 - 1) | st.integers(0, 20)
LINE = st.tuples(st.integers(0, 1), st.tuples(*[NUMBER] * 13), st.tuples(*[CATEGORY] * 26), st.sampled_from(["08x", "x", "X"]))
GOOD = b"1" + b"\t7" * 13 + b"\t0a" * 26 + b"\n"


def written(label, numbers, categories, form):
    fields = [str(label), *("" if n is None else str(n) for n in numbers),
              *("" if c is None else format(c, form) for c in categories)]
    return "\t".join(fields)


@settings(max_examples=60)
@given(lines=st.lists(LINE, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
def test_every_field_is_what_was_written(lines, end):
    clicks = parse("".join(written(*line) + end for line in lines).encode())
    for k, (label, numbers, categories, _) in enumerate(lines):
        assert clicks.labels[k] == label
        for found, number in zip(clicks.numbers[k], numbers, strict=True):
            assert math.isnan(found) if number is None else found == number
        assert clicks.ids[k].tolist() == [(c << 33) + (0 if v is None else v + 1) for c, v in enumerate(categories)]
    assert clicks.labels.dtype == clicks.dense().dtype == np.float32


def test_no_lines():
    assert [array.shape for array in parse(b"")] == [(0,), (0, 13), (0, 26)]


def test_what_a_network_takes():
    x = parse(b"0\t\t0\t1\t-2" + b"\t" * 35 + b"\n").dense()[0]
    assert x[:4] == pytest.approx([0, 0, math.log(2), -math.log(3)])
    assert x[13:17].tolist() == [0, 1, 1, 1]


BAD = {
    b"1" + b"\t7" * 13 + b"\t0a" * 25: "39 fields, expected 40",
    b"1" + b"\t7" * 13 + b"\t0a" * 27: "41 fields, expected 40",
    b"": "1 fields, expected 40",
    b"2" + GOOD[1:-1]: "label '2' is neither 0 nor 1",
    GOOD[1:-1]: "label '' is neither",
    b"10" + GOOD[1:-1]: "label '10' is neither",
    b"1\tx" + b"\t7" * 12 + b"\t0a" * 26: "field 2: 'x' is not a whole number",
    b"1\ta" + b"\t7" * 12 + b"\t0a" * 26: "field 2: 'a' is not a whole number",
    b"1\t-" + b"\t7" * 12 + b"\t0a" * 26: "field 2: '-' is not a whole number",
    b"1\t7-7" + b"\t7" * 12 + b"\t0a" * 26: "field 2: '7-7' is not",
    b"1\t1.5" + b"\t7" * 12 + b"\t0a" * 26: r"field 2: '1\.5' is not",
    b"1\t1a345678901" + b"\t7" * 12 + b"\t0a" * 26: "field 2: '1a345678901' is not",
    b"1\t" + b"1" * 16 + b"\t7" * 12 + b"\t0a" * 26: "field 2: '1111111111111111' is not",
    b"1" + b"\t7" * 13 + b"\t0a" * 25 + b"\t0g": "field 40: '0g' is not up to 8 hexadecimal",
    b"1" + b"\t7" * 13 + b"\t-1" + b"\t0a" * 25: "field 15: '-1' is not",
    b"1" + b"\t7" * 13 + b"\t123456789" + b"\t0a" * 25: "field 15: '123456789' is not",
    b"1" + b"\t7" * 13 + b"\t\xff" + b"\t0a" * 25: "field 15: '�' is not",
}


@pytest.mark.parametrize("line", BAD)
def test_a_damaged_line_is_found_and_explained(line, tmp_path):
    with pytest.raises(Damaged, match=BAD[line]) as caught:
        parse(GOOD * 2 + line + b"\n" + GOOD)
    assert caught.value.line == 2
    path = tmp_path / "bad.txt.gz"
    path.write_bytes(gzip.compress(GOOD * 50 + line + b"\n" + GOOD * 50))
    with pytest.raises(UsageError, match=rf"bad\.txt\.gz:51: {BAD[line]}"):
        list(Criteo.open(path, 10).clicks())


@pytest.mark.parametrize("name", ["x", "x.gz"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_have_each_line_once_and_the_last_tenth_is_held_out(name, parts, tmp_path):
    text = b"".join(written(k % 2, [k] * 13, [k] * 26, "x").encode() + b"\n" for k in range(400))
    (tmp_path / name).write_bytes(gzip.compress(text) if name == "x.gz" else text)
    file = Criteo.open(tmp_path / name, batch=10)
    train, test = ([[c.numbers[:, 0].astype(int) for c in file.clicks(part, parts, *span)] for part in range(parts)]
                   for span in ((0, file.held_out), (file.held_out, None)))
    assert max(map(len, train)) <= file.steps(parts)
    seen = sorted(np.concatenate([c for part in train for c in part]).tolist())
    left = sorted(np.concatenate([c for part in test for c in part]).tolist())
    assert seen + left == list(range(400))
    assert 20 <= len(left) <= 60


def test_a_file_that_is_none_or_too_small(tmp_path):
    (tmp_path / "x").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="x:1: 1 fields, expected 40"):
        Criteo.open(tmp_path / "x")
    (tmp_path / "x").write_bytes(GOOD * 5)
    with pytest.raises(UsageError, match="are one batch of 10 lines"):
        Criteo.open(tmp_path / "x", 10)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UsageError, match="0 bytes"):
        Criteo.open(tmp_path / "x")
