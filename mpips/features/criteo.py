r"""Criteo's format of click logs: a line is a label, 13 whole numbers and 26 categories, with a tab between two of them.

    0\t1\t1\t5\t0\t1382\t...\t68fd1e64\t80e26c9b\t...

The label is 0 or 1, a category up to 8 hexadecimal digits; numbers and categories may be missing, which is an empty field.
(The Kaggle challenge of 2014 and the terabyte of 2015 are such files; their test sets without labels are not.)

All fields of a block are parsed at once, eight bytes at a time in one 64-bit word (SWAR: SIMD within a register): a NumPy pass
over a column of words does a step of all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from mpips.errors import UsageError
from mpips.features.lines import Block, Lines

Array = np.ndarray[Any, np.dtype[Any]]

NUMBERS, CATEGORIES = 13, 26
FIELDS = 1 + NUMBERS + CATEGORIES
TAB, END, MINUS = 9, 10, 45
SEPARATOR, SIGN, OTHER = 1, 2, 3  # what a byte may be besides a hexadecimal digit, which is 0
WORD = 8  # bytes
HEAD = 1 << 16  # bytes of a file's beginning that tell how long its lines are
LONGEST = 15  # digits of a number: float64 has all of them

_KINDS = np.full(256, OTHER, np.uint8)
_KINDS[np.frombuffer(b"0123456789abcdefABCDEF", np.uint8)] = 0
_KINDS[[TAB, END]], _KINDS[MINUS] = SEPARATOR, SIGN
KINDS = _KINDS.tobytes()
SEPARATORS = np.array([TAB] * (FIELDS - 1) + [END], np.uint8)
KEEP = np.array([((1 << 64) - 1) << (8 * (WORD - n)) & ((1 << 64) - 1) for n in range(WORD + 1)], np.uint64)  # the last n bytes
ZEROS = np.uint64(0x3030303030303030)  # "00000000"


class Clicks(NamedTuple):
    """Lines as arrays: labels (n,) float32 of 0 and 1, numbers (n, 13) float64 with NaN where one is missing, ids (n, 26) int64.

    A category's id is its column times 2**33, and its value + 1, or 0 if it is missing: no two categories share one.
    """

    labels: Array
    numbers: Array
    ids: Array

    def dense(self) -> Array:
        """Return what a network can take of the numbers, (n, 26) float32: sign(x) log(1 + |x|), and where there is one."""
        there = ~np.isnan(self.numbers)
        x = np.where(there, self.numbers, 0.0)
        return np.concatenate((np.copysign(np.log1p(np.abs(x)), x), there), axis=1, dtype=np.float32)


class Damaged(UsageError):
    """A line that is none of the format; `line` is its number from 0 in the text that was parsed."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


@dataclass
class Criteo:
    """A file of clicks.

    Attributes:
        lines: its blocks.
        bytes, seconds: of text that was read and parsed so far, and how long that took.

    >>> for clicks in Criteo("day_0.gz").clicks(ps.index, ps.workers):                # doctest: +SKIP
    ...     clicks.labels.mean()
    """

    lines: Lines
    bytes: int = 0
    seconds: float = 0.0

    @classmethod
    def open(cls, path: str | os.PathLike[str], batch: int = 2000) -> Criteo:
        """Open a file in blocks of about `batch` lines and look at its first one; UsageError if it is none of the format."""
        first = next(Lines(path, HEAD).blocks(stop=1), Block(0, b""))
        file = cls(Lines(path, -(-batch * len(first.text) // max(first.text.count(b"\n"), 1)) or 1))
        next(file.clicks(stop=1), None)
        if file.lines.count < 2:
            raise UsageError(f"{file.lines.path}: {file.lines.size} bytes are one batch of {batch} lines; some of it is held out")
        return file

    @property
    def held_out(self) -> int:
        """The block at which the last tenth of the file begins, which is not to be trained on."""
        return self.lines.count - max(self.lines.count // 10, 1)

    def clicks(self, part: int = 0, parts: int = 1, start: int = 0, stop: int | None = None) -> Iterator[Clicks]:
        """Yield the lines of the blocks `start:stop` that are part `part` of `parts`; UsageError names file and line."""
        blocks = self.lines.blocks(part, parts, start, stop)
        began = perf_counter()
        for block in blocks:
            try:
                clicks = parse(block.text)
            except Damaged as error:
                raise UsageError(f"{self.lines.path}:{self.lines.line(block.start) + error.line}: {error}") from None
            self.bytes += len(block.text)
            self.seconds += perf_counter() - began
            yield clicks
            began = perf_counter()

    def steps(self, parts: int) -> int:
        """Return how many blocks before `held_out` a part has at most, which is known before anything is read."""
        return -(-self.held_out // parts)


def parse(text: bytes) -> Clicks:
    """Return the lines of a text that ends with a line's end; raise `Damaged` for one that is none of the format."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    kinds = np.frombuffer(text.translate(KINDS), np.uint8)
    data = np.frombuffer(b"0" * 2 * WORD + text, np.uint8)  # so that there are two words before the end of every field
    ends: Array = np.flatnonzero(kinds == SEPARATOR)
    if len(ends) % FIELDS or (data[ends + 2 * WORD].reshape(-1, FIELDS) != SEPARATORS).any():
        after = np.flatnonzero(data[ends + 2 * WORD] == END)
        raise _damaged(text, int(np.argmax(np.diff(after, prepend=-1) != FIELDS)))
    starts = np.append(0, ends + 1)[:-1].reshape(-1, FIELDS)
    ends = ends.reshape(-1, FIELDS)
    words = np.ndarray((len(data) - WORD + 1,), "<u8", data, strides=(1,))  # the one at each byte
    length = ends - starts

    low, high = 1, 1 + NUMBERS
    minus = kinds[starts[:, low:high]] == SIGN
    digits = length[:, low:high] - minus
    last = ends[:, low:high] + WORD  # where the word lies that ends with the field
    wrong = (minus & (digits == 0)) | (digits > LONGEST)
    numbers = _decimal(words[last], np.minimum(digits, WORD), wrong).astype(np.float64)
    more = np.nonzero(digits > WORD)
    if len(more[0]):
        long = np.zeros(len(more[0]), np.bool_)
        numbers[more] += 1e8 * _decimal(words[last[more] - WORD], np.clip(digits[more] - WORD, 0, WORD), long)
        wrong[more] |= long
    np.negative(numbers, out=numbers, where=minus)
    numbers[digits == 0] = np.nan

    size = length[:, high:]
    values = _hexadecimal(words[ends[:, high:] + WORD], np.minimum(size, WORD)).view(np.int64)
    values += 1
    values[size == 0] = 0
    values += np.arange(CATEGORIES) << 33

    labels = data[starts[:, 0] + 2 * WORD] - np.uint8(48)
    bad = wrong.any(1) | (size > WORD).any(1) | (length[:, 0] != 1) | (labels > 1)
    if kinds.size and (kinds.max() == OTHER or np.count_nonzero(kinds == SIGN) != np.count_nonzero(minus)):
        odd = (kinds == OTHER) | (kinds == SIGN)
        odd[starts[:, low:high][minus]] = False
        bad[np.searchsorted(ends[:, -1], np.flatnonzero(odd))] = True
    if bad.any():
        raise _damaged(text, int(np.argmax(bad)))
    return Clicks(labels.astype(np.float32), numbers, values)


def _decimal(words: Array, digits: Array, wrong: Array) -> Array:
    """Return the numbers that the last `digits` bytes of words are, uint64; set `wrong` where one is no digit."""
    words = (words & KEEP[digits]) | (ZEROS & ~KEEP[digits])
    high = np.uint64(0xF0F0F0F0F0F0F0F0)
    wrong |= ((words & high) | (((words + np.uint64(0x0606060606060606)) & high) >> np.uint64(4))) != np.uint64(0x3333333333333333)
    words -= ZEROS
    words = words * np.uint64(10) + (words >> np.uint64(8))  # every other byte is a number of two digits
    pairs = np.uint64(0x000000FF000000FF)
    first, second = words & pairs, (words >> np.uint64(16)) & pairs
    out: Array = (first * np.uint64(100 + (1000000 << 32)) + second * np.uint64(1 + (10000 << 32))) >> np.uint64(32)
    return out


def _hexadecimal(words: Array, digits: Array) -> Array:
    """Return the numbers that the last `digits` bytes of words are, uint64; other bytes than digits give anything."""
    words = words & KEEP[digits]
    letters = (words >> np.uint64(6)) & np.uint64(0x0101010101010101)
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words += letters * np.uint64(9)
    for bits, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        words = ((words & np.uint64(mask)) << np.uint64(bits)) | ((words >> np.uint64(2 * bits)) & np.uint64(mask))
    return words


def _damaged(text: bytes, line: int) -> Damaged:
    """Return what is wrong with a line."""
    fields = text.split(b"\n", line + 1)[line].split(b"\t")
    if len(fields) != FIELDS:
        return Damaged(line, f"{len(fields)} fields, expected {FIELDS}: a label, {NUMBERS} numbers and {CATEGORIES} categories")
    if fields[0] not in (b"0", b"1"):
        return Damaged(line, f"label {fields[0].decode(errors='replace')!r:.40} is neither 0 nor 1")
    for number, field in enumerate(fields[1:], 1):
        kind, form = (("a whole number of up to 15 digits", rb"-?\d{1,15}") if number <= NUMBERS else
                      ("up to 8 hexadecimal digits", rb"[0-9a-fA-F]{1,8}"))
        if field and not re.fullmatch(form, field):
            return Damaged(line, f"field {number + 1}: {field.decode(errors='replace')!r:.40} is not {kind}")
    raise AssertionError("a line that was found to be damaged is not")
