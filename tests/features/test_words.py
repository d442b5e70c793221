"""Hashed words against dictionaries of words."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np

from mpips.features.words import BITS, Texts, TfIdf, crossed, hashed

TEXTS = [b"The cat sat on the mat", b"the cat; the dog", b"", b"a dog's bone, a bone", b"nothing shared here"]


def bags(text):
    words = [w for w in "".join(c if c.isalpha() else " " for c in text.decode().lower()).split() if len(w) > 1]
    return Counter([*words, *pairwise(words)])


def number(feature):
    return int(hashed([feature.encode()])[0] if isinstance(feature, str) else
               crossed(hashed([feature[0].encode()]), hashed([feature[1].encode()]))[0])


def test_texts_are_bags_of_words_and_of_neighbours():
    texts = Texts.of(TEXTS)
    for k, text in enumerate(TEXTS):
        span = slice(texts.edges[k], texts.edges[k + 1])
        expected = {number(feature): n for feature, n in bags(text).items()}
        assert dict(zip(texts.ids[span].tolist(), texts.times[span].tolist(), strict=True)) == expected
    assert texts.count == len(TEXTS)
    assert 0 <= texts.ids.min() <= texts.ids.max() < 1 << BITS
    assert number(("cat", "dog")) != number(("dog", "cat"))


def test_common_features_and_cosine():
    texts = Texts.of(TEXTS)
    left, right = map(np.ravel, np.meshgrid(np.arange(5), np.arange(5)))
    common, known = texts.common(left, right), [bags(t) for t in TEXTS]
    tfidf = TfIdf(texts, np.array([0, 1, 3]))
    seen = Counter(f for k in (0, 1, 3) for f in known[k])
    cosines = tfidf.cosine(left, right)

    def vector(bag):
        return {f: (1 + math.log(n)) * math.log(4 / max(seen[f], 1)) for f, n in bag.items()}

    for k, (i, j) in enumerate(zip(left, right, strict=True)):
        at = common.pair == k
        expected = {number(f): (known[i][f], known[j][f]) for f in known[i].keys() & known[j].keys()}
        found = zip(common.ids[at].tolist(), zip(common.left[at].tolist(), common.right[at].tolist(), strict=True), strict=True)
        assert dict(found) == expected
        a, b = vector(known[i]), vector(known[j])
        norms = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        assert math.isclose(cosines[k], sum(a[f] * b[f] for f in a.keys() & b.keys()) / norms if norms else 0, abs_tol=1e-9)


def test_nothing_in_common_with_nothing():
    texts = Texts.of([b"", b""])
    assert texts.common(np.array([0]), np.array([1])).pair.size == 0
