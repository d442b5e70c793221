"""Texts as bags of hashed words and pairs of words: no vocabulary, any word of any text has its id.

>>> some = Texts.of([b"the cat sat", b"the cat ran off"])
>>> some.count, some.common(np.array([0]), np.array([1]))[1].size          # the, cat, the cat
(2, 3)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mpips.directory import mix

Array = np.ndarray[Any, np.dtype[Any]]

BITS = 40  # of an id: a million words share theirs with another one about once
LONGEST = 16  # bytes of a word that count
WORD = re.compile(rb"[a-z]{2,}")


def hashed(words: Sequence[bytes]) -> Array:
    """Return the ids of words, (n,) int64 from 0 below 2**BITS."""
    parts = np.array(words, f"S{LONGEST}").view("<i8").reshape(-1, 2)
    return _cut(mix(mix(parts[:, 0]).view(np.int64) ^ parts[:, 1]))


def crossed(first: Array, second: Array) -> Array:
    """Return an id for each pair of ids, where (a, b) is another than (b, a)."""
    return _cut(mix(mix(first).view(np.int64) + second))


def _cut(words: Array) -> Array:
    words >>= np.uint64(64 - BITS)
    return words.view(np.int64)


class Common(NamedTuple):
    """What pairs of texts share: feature `ids[k]` occurs `left[k]` and `right[k]` times in the two texts of pair `pair[k]`."""

    pair: Array
    ids: Array
    left: Array
    right: Array


@dataclass(frozen=True)
class Texts:
    """Bags of features, one text after the other.

    Attributes:
        edges: (texts + 1,), where each begins in the others.
        ids: its different features, ascending.
        times: how often each occurs.
    """

    edges: Array
    ids: Array
    times: Array

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """Take words of at least two letters, in lower case, and pairs of neighbours."""
        words = [WORD.findall(text.lower()) for text in texts]
        lengths = np.array([len(some) for some in words], np.int64)
        ids = hashed([word for some in words for word in some])
        text = np.repeat(np.arange(len(words)), lengths)
        inside = np.flatnonzero(text[1:] == text[:-1])
        ids = np.append(ids, crossed(ids[inside], ids[inside + 1]))
        text = np.append(text, text[inside])
        order = np.lexsort((ids, text))
        ids, text = ids[order], text[order]
        new = np.flatnonzero(np.append(True, (ids[1:] != ids[:-1]) | (text[1:] != text[:-1]))[: len(ids)])
        edges = np.searchsorted(text[new], np.arange(len(words) + 1))
        return cls(edges, ids[new], np.diff(np.append(new, len(ids))))

    @property
    def count(self) -> int:
        """How many texts there are."""
        return len(self.edges) - 1

    def take(self, which: Array) -> tuple[Array, Array]:
        """Return (lengths, places): how many features each of these texts has, and where they stand in `ids`, in this order."""
        lengths = self.edges[which + 1] - self.edges[which]
        start = np.cumsum(lengths) - lengths
        return lengths, np.repeat(self.edges[which] - start, lengths) + np.arange(lengths.sum())

    def common(self, left: Array, right: Array) -> Common:
        """Return the features that text `left[k]` and text `right[k]` share, for all k."""
        both = []
        for which in (left, right):
            lengths, places = self.take(which)
            both.append((np.repeat(np.arange(len(which)), lengths), places))
        (pair, at), (other, there) = both
        known, number = np.unique(np.append(self.ids[at], self.ids[there]), return_inverse=True)
        number = number.reshape(-1)
        keys, others = pair * len(known) + number[: len(at)], other * len(known) + number[len(at) :]
        found = np.searchsorted(others, keys).clip(0, max(len(others) - 1, 0))
        hit = np.flatnonzero(others[found] == keys) if len(others) else np.zeros(0, np.int64)
        return Common(pair[hit], self.ids[at[hit]], self.times[at[hit]], self.times[there[found[hit]]])


class TfIdf:
    """Cosine of vectors of (1 + log times) * log(texts / texts with the feature): what there was before anything was learned.

    (Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988.) Features that none of `known` has weigh as
    much as those that one of them has.
    """

    def __init__(self, texts: Texts, known: Array) -> None:
        self.texts = texts
        ids, number = np.unique(texts.ids, return_inverse=True)
        self._ids, self._seen = ids, np.bincount(number.reshape(-1)[texts.take(known)[1]], minlength=len(ids))
        self._idf = np.log((1 + len(known)) / np.maximum(self._seen, 1))
        square = (self._weight(texts.ids, texts.times)) ** 2
        total = np.append(0.0, np.cumsum(square))
        self._norm = np.sqrt(np.maximum(total[texts.edges[1:]] - total[texts.edges[:-1]], 1e-12))

    def seen(self, ids: Array) -> Array:
        """Return how many texts of `known` have each of these features of the texts."""
        count: Array = self._seen[np.searchsorted(self._ids, ids)]
        return count

    def _weight(self, ids: Array, times: Array) -> Array:
        weight: Array = (1 + np.log(times)) * self._idf[np.searchsorted(self._ids, ids)]
        return weight

    def cosine(self, left: Array, right: Array) -> Array:
        """Return it for text `left[k]` and text `right[k]`, (pairs,)."""
        pair, ids, first, second = self.texts.common(left, right)
        product = np.bincount(pair, self._weight(ids, first) * self._weight(ids, second), minlength=len(left))
        cosine: Array = product / (self._norm[left] * self._norm[right])
        return cosine
