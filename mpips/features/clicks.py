"""Click logs of a hidden model, in Criteo's shape: the best that anybody can predict is known.

Categories follow Zipf laws over vocabularies from ten to a hundred thousand, numbers are counts with heavy tails, some of both
are missing. The log odds of a click are a sum over the categories' weights, products of hidden vectors of some of them, and
curves over the numbers. All of these follow from the seed and the fields of a line alone: `odds` knows the true probability for
any line that was parsed, and nobody can have a better AUC than it but by luck.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpips.directory import mix
from mpips.errors import UsageError
from mpips.features.criteo import CATEGORIES, NUMBERS, TAB, Clicks, parse
from mpips.init_rows import fill

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 1 << 13  # lines that are made at a time
MEANS = np.linspace(0, 4, NUMBERS)  # of the logarithms of numbers
LATENT = 4  # numbers in a category's hidden vector
PAIRED = 12  # the first columns, whose neighbours have a say together
DIGITS = 10  # room for a number
SIZES = np.rint(np.geomspace(10, 100_000, CATEGORIES)).astype(np.int64)  # of the vocabularies


@dataclass(frozen=True)
class Hidden:
    """The model behind a file: its seed, and how strong its parts are in units of log odds.

    >>> hidden = Hidden(seed=1)
    >>> clicks = parse(hidden.text(0, 100))
    >>> clicks.ids.shape, hidden.odds(clicks).shape
    ((100, 26), (100,))
    """

    seed: int = 0
    bias: float = -1.9
    weight: float = 0.3
    product: float = 0.35
    curve: float = 0.3

    def odds(self, clicks: Clicks) -> Array:
        """Return the true log odds of lines, (n,) float64."""
        n = len(clicks.labels)
        known = np.unique(clicks.ids, return_inverse=True)
        hidden = fill(np.empty((len(known[0]), 1 + LATENT), np.float64), known[0], seed=self.seed, stream=1, law=(0.0, 0.0, 1.0))
        each = hidden[known[1].reshape(-1)].reshape(n, CATEGORIES, 1 + LATENT)
        own = each[:, :, 0] @ np.linspace(1.5, 0.3, CATEGORIES)  # what is rare matters less, or nobody could learn it
        some = each[:, :PAIRED, 1:]
        pairs = (some[:, :-1] * some[:, 1:]).sum((1, 2)) / np.sqrt(LATENT)
        x = np.log1p(np.abs(np.nan_to_num(clicks.numbers)))
        shape = fill(np.empty((NUMBERS, 4), np.float64), np.arange(NUMBERS), seed=self.seed, stream=2, law=(0.0, 0.0, 1.0))
        bend = np.where(np.isnan(clicks.numbers), shape[:, 3], shape[:, 0] * np.sin(x + shape[:, 1]) + 0.3 * shape[:, 2] * (x - 2))
        total: Array = self.bias + self.weight * own + self.product * pairs + self.curve * bend.sum(1)
        return total

    def text(self, first: int, lines: int) -> bytes:
        """Return lines in Criteo's format; line k is the same whatever is made with it, if `first` is a multiple of CHUNK."""
        draw = np.random.default_rng([self.seed, first])
        level = draw.standard_normal((lines, 1))
        numbers = np.floor(np.expm1(np.abs(1.2 * draw.standard_normal((lines, NUMBERS)) + 0.5 * level + MEANS)))
        numbers[:, 1] -= 2  # Criteo's second number goes down to -3
        there = draw.random((lines, NUMBERS + CATEGORIES)) >= np.linspace(0, 0.4, NUMBERS + CATEGORIES)[::-1]
        ranks = np.stack([self._ranks(int(size), draw.random(lines)) for size in SIZES], 1)
        salt = np.array(self.seed << 40 & (1 << 64) - 1, np.uint64).view(np.int64)
        names = mix(ranks + (np.arange(CATEGORIES) << 33) + salt) & np.uint64(0xFFFFFFFF)
        cells = [_decimal(numbers[:, k], there[:, k]) for k in range(NUMBERS)]
        cells += [_hexadecimal(names[:, k], there[:, NUMBERS + k]) for k in range(CATEGORIES)]
        body = np.concatenate(cells, axis=1)
        text = _lines(np.full(lines, ord("0"), np.uint8), body)
        odds = self.odds(parse(text))
        return _lines((draw.random(lines) < 1 / (1 + np.exp(-odds))).astype(np.uint8) + np.uint8(ord("0")), body)

    @staticmethod
    def _ranks(size: int, uniform: Array) -> Array:
        """Return draws from 0 below `size` where rank k has a share of 1 / (k + 1)."""
        shares = np.cumsum(1.0 / np.arange(1, size + 1))
        ranks: Array = np.searchsorted(shares, uniform * shares[-1], side="right").clip(0, size - 1)
        return ranks


def _decimal(values: Array, there: Array) -> Array:
    """Return whole numbers as rows of bytes, a tab before and zeros, which are no part of the text, in front of the digits."""
    size, left = np.abs(values).astype(np.int64), np.zeros((len(values), DIGITS + 2), np.uint8)
    left[:, 0] = TAB
    digits = (size[:, None] // 10 ** np.arange(DIGITS - 1, -1, -1)) % 10
    shown = np.maximum.accumulate(digits > 0, axis=1)
    shown[:, -1] = True
    left[:, 2:] = np.where(shown & there[:, None], digits + ord("0"), 0)
    left[:, 1] = np.where((values < 0) & there, ord("-"), 0)
    return left


def _hexadecimal(values: Array, there: Array) -> Array:
    """Return 32-bit numbers as rows of a tab and 8 digits, or zeros for those that are missing."""
    out = np.full((len(values), 9), TAB, np.uint8)
    nibbles = (values[:, None] >> np.arange(28, -4, -4, dtype=np.uint64)) & np.uint64(15)
    out[:, 1:] = np.where(there[:, None], np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.view(np.int64)], 0)
    return out


def _lines(labels: Array, body: Array) -> bytes:
    """Return labels and fields as text."""
    cells = np.concatenate((labels[:, None], body, np.full((len(body), 1), ord("\n"), np.uint8)), axis=1)
    return cells[cells > 0].tobytes()


def make(path: str | Path, lines: int, hidden: Hidden) -> int:
    """Write a file of so many lines, compressed if it ends in .gz, and beside it PATH.hidden.json; return the bytes of text.

    It has its name only when it is whole.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a file")  # /dev/null would be no device any more
    part = path.with_name(path.name + ".tmp")
    size = 0
    try:
        with gzip.open(part, "wb", compresslevel=1) if path.suffix == ".gz" else part.open("wb") as file:
            for first in range(0, lines, CHUNK):
                size += file.write(hidden.text(first, min(CHUNK, lines - first)))
        beside(path).write_text(json.dumps(asdict(hidden)) + "\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"{path}: {error.strerror or error}") from None
    return size


def beside(path: str | Path) -> Path:
    """Return where `make` notes what made a file."""
    return Path(f"{path}.hidden.json")


def made(path: str | Path) -> Hidden | None:
    """Return the model that made a file, None for one that `make` has not made."""
    note = beside(path)
    if not note.exists():
        return None
    try:
        return Hidden(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{note}: {error}") from None
