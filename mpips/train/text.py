"""Text for skip-gram: words, their vocabulary, and the pairs of words that stand near each other.

`reference` is the text of Python's own language reference, which every Python brings for `help()`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.train.data import SPLIT, permutation

Array = np.ndarray[Any, np.dtype[Any]]

STREAM = 0x74657874  # second half of Philox' key: which words are left out, and how far a window reaches
WORD = re.compile(r"[a-z_]+")


def reference() -> list[list[str]]:
    """Return the paragraphs of the language reference as lists of words in small letters, each paragraph once."""
    from pydoc_data.topics import topics

    parts = (WORD.findall(part) for name in sorted(topics) for part in re.split(r"\n\s*\n", topics[name].lower()))
    return [list(words) for words in dict.fromkeys(map(tuple, parts)) if words]


@dataclass(frozen=True)
class Text:
    """Words by number, one paragraph after the other.

    Attributes:
        words: (n,) int64, numbers in `names`.
        part: (n,) int64, which paragraph each stands in.
        names: the vocabulary, the most frequent word first.
    """

    words: Array
    part: Array
    names: tuple[str, ...]

    @classmethod
    def of(cls, paragraphs: list[list[str]], least: int = 5) -> Text:
        """Number the words that come up `least` times or more and drop the rest."""
        part = np.repeat(np.arange(len(paragraphs)), [len(words) for words in paragraphs])
        names, words, counts = np.unique(np.array([*chain.from_iterable(paragraphs)], dtype=str), return_inverse=True,
                                         return_counts=True)
        order = np.argsort(-counts, kind="stable")[:np.count_nonzero(counts >= least)]
        if not order.size:
            raise UsageError(f"text: no word comes up {least} times")
        number = np.full(len(names), -1)
        number[order] = np.arange(order.size)
        words = number[words]
        return cls(words[words >= 0], part[words >= 0], tuple(names[order].tolist()))

    @cached_property
    def counts(self) -> Array:
        """How often each word of the vocabulary comes up."""
        return np.bincount(self.words, minlength=len(self.names))

    def split(self, fraction: float, seed: int = 0) -> tuple[Text, Text]:
        """Return (text to train on, text that is held out), whole paragraphs, both with this vocabulary."""
        parts = int(self.part.max()) + 1
        held = np.zeros(parts, bool)
        held[permutation(parts, seed, SPLIT)[:round(parts * fraction)]] = True
        held = held[self.part]
        return Text(self.words[~held], self.part[~held], self.names), Text(self.words[held], self.part[held], self.names)


@dataclass(frozen=True)
class Pairs:
    """Pairs (center, context) of a text, a new choice in every epoch.

    As in word2vec: a word of frequency f is left out with chance 1 - sqrt(sample / f), before windows are laid, and the window of
    each center reaches 1 to `window` words to both sides, drawn anew.

    Args:
        text: where the words stand.
        window: words to each side at most, from 1.
        sample: the threshold; 0 leaves no word out.
        seed: of both choices.
    """

    text: Text
    window: int = 5
    sample: float = 1e-3
    seed: int = 0

    def of(self, positions: Array, epoch: int) -> tuple[Array, Array]:
        """Return (centers, contexts), (n,) int64 each, of the words at some positions of the text in an epoch."""
        kept, place, reach = self._epoch(epoch)
        at = place[positions]
        at = at[at >= 0]
        steps = np.concatenate([np.arange(-self.window, 0), np.arange(1, self.window + 1)])
        near = at[:, None] + steps
        inside = (near >= 0) & (near < len(kept)) & (np.abs(steps) <= reach[at][:, None])
        near = np.clip(near, 0, max(0, len(kept) - 1))
        inside &= self.text.part[kept[near]] == self.text.part[kept[at]][:, None]
        which, _ = np.nonzero(inside)
        return self.text.words[kept[at[which]]], self.text.words[kept[near[inside]]]

    def _epoch(self, epoch: int) -> tuple[Array, Array, Array]:
        """Return positions that are kept, where each position stands among them (-1: nowhere), and how far their windows reach."""
        known: dict[int, tuple[Array, Array, Array]] = self._known
        if epoch not in known:
            words, counts = self.text.words, self.text.counts
            bits = np.random.Philox(key=np.array([self.seed, STREAM], np.uint64), counter=np.array([0, 0, 0, epoch], np.uint64))
            chance = np.sqrt(self.sample * len(words) / np.maximum(counts, 1)) if self.sample else np.ones(len(counts))
            kept = np.flatnonzero((bits.random_raw(len(words)) >> np.uint64(11)) * 0.5**53 < chance[words])
            place = np.full(len(words), -1)
            place[kept] = np.arange(len(kept))
            known.clear()  # one epoch after the other
            known[epoch] = kept, place, 1 + (bits.random_raw(len(kept)) % np.uint64(self.window)).astype(np.int64)
        return known[epoch]

    @cached_property
    def _known(self) -> dict[int, tuple[Array, Array, Array]]:
        return {}


def nearest_words(vectors: Array, names: tuple[str, ...], words: list[str], k: int = 8) -> dict[str, list[str]]:
    """Return for each word of the vocabulary the k others whose vectors, (words, dim), have the largest cosine with its own."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    number = {name: at for at, name in enumerate(names)}
    known = [word for word in words if word in number]
    at = np.array([number[word] for word in known], np.int64)
    cosine = unit[at] @ unit.T
    cosine[np.arange(len(at)), at] = -np.inf
    order = np.argsort(-cosine, axis=1)[:, :k]
    return {word: [names[n] for n in row] for word, row in zip(known, order.tolist(), strict=True)}
