"""Pairs of users and items, what is held out, recall, and the baselines; and the pairs of words of a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpips.errors import UsageError
from mpips.nn.ranking import recall_at
from mpips.train.identifiers import identifiers, standard_library
from mpips.train.interactions import Interactions, popularity, recall, svd
from mpips.train.text import Pairs, Text, nearest_words, reference


def some(seed: int = 0) -> Interactions:
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, 3, (40, 1)) == np.arange(60) % 3  # three kinds of users, each with items of its kind
    return Interactions.of(*np.nonzero(draw.random((40, 60)) < np.where(kind, 0.5, 0.05)), where="here")


def test_the_split_parts_the_pairs() -> None:
    data = some()
    train, held = data.split(0.25, seed=1)
    assert len(train.users) + len(held.users) == len(data.users)
    assert not train.have(held.users, held.items).any()
    assert data.have(held.users, held.items).all()
    assert (np.bincount(held.users, minlength=40) == np.bincount(data.users) // 4).all()
    assert (data.split(0.25, seed=1)[1].items == held.items).all()
    assert (data.dense(np.arange(40)).sum(axis=0) == data.counts).all()


def test_recall_by_hand() -> None:
    scores = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    seen = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]) == 1
    held = np.array([[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]) == 1
    np.testing.assert_array_equal(recall_at(scores, seen, held, 1), [0, 1, np.nan])
    np.testing.assert_array_equal(recall_at(scores, seen, held, 2), [0.5, 0.5, np.nan])
    with pytest.raises(UsageError, match="k 5 is not from 1 to 4"):
        recall_at(scores, seen, held, 5)
    with pytest.raises(UsageError, match="not all"):
        recall_at(scores, seen[:2], held, 2)


@pytest.mark.parametrize("engine", ["numpy", "scipy"])
def test_the_svd_is_that_of_the_dense_matrix(engine: str) -> None:
    if engine == "scipy":
        pytest.importorskip("scipy")
    train, held = some().split(0.2)
    u, s, v = np.linalg.svd(train.dense(np.arange(40)).astype(float))
    exact = (u[:, :3] * s[:3]) @ v[:3]
    np.testing.assert_allclose(svd(train, 3, engine=engine)(np.arange(40)), exact, atol=0.02 if engine == "numpy" else 1e-8)
    assert recall(svd(train, 3, engine=engine), train, held, k=10, batch=7) > 1.5 * recall(popularity(train), train, held, k=10)
    with pytest.raises(UsageError, match="rank 40 is not from 1 to 39"):
        svd(train, 40)


def test_identifiers_of_a_directory(tmp_path: Path) -> None:
    assert identifiers('def f(x, y=0x1F, *, z="a\\"b"):\n  """doc"""  # no\n  return x.real + f\'{x}\' if 1e5 else é') == {
        "f", "x", "y", "z", "real", "é"}
    for name, text in {"a.py": "x = y", "b.py": "y = x", "c.py": "x", "tests/d.py": "x = y"}.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    data = standard_library(tmp_path, per_module=2, per_name=2)
    assert data.user_names == ("a.py", "b.py")
    assert data.item_names == ("x", "y")
    with pytest.raises(UsageError, match="no user with 20 items that 5 users have"):
        standard_library(tmp_path)
    with pytest.raises(UsageError, match="no user"):
        standard_library(tmp_path / "nothing")


def test_the_reference_is_a_text() -> None:
    text = Text.of(reference(), least=5)
    assert len(text.words) > 30_000
    assert (np.diff(text.counts) <= 0).all()
    assert "exception" in text.names
    train, held = text.split(0.1)
    assert len(train.words) + len(held.words) == len(text.words)
    assert not np.isin(held.part, train.part).any()
    with pytest.raises(UsageError, match="no word comes up 5 times"):
        Text.of([["a", "b"]])


def test_pairs_are_near_and_of_one_paragraph() -> None:
    text = Text.of([["a", "b", "c", "d"], ["e", "f"], ["g"]], least=1)
    name = np.array(text.names)
    centers, contexts = Pairs(text, window=1, sample=0).of(np.arange(7), 0)
    assert sorted(zip(name[centers], name[contexts], strict=True)) == [
        ("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "c"), ("e", "f"), ("f", "e")]
    assert Pairs(text, window=1, sample=0).of(np.arange(0), 0)[0].shape == (0,)
    pairs = Pairs(text, window=3, sample=0)
    many = [pairs.of(np.array([0]), epoch) for epoch in range(300)]
    reach = np.bincount([len(contexts) for _, contexts in many], minlength=4)
    assert reach[0] == 0
    assert (reach[1:] > 70).all(), "1, 2 and 3 words, each as often"
    assert all((one[1] == pairs.of(np.array([0]), epoch)[1]).all() for epoch, one in enumerate(many))


def test_frequent_words_are_left_out_now_and_then() -> None:
    text = Text.of([["a"] * 900 + ["b"] * 100], least=1)
    centers, _ = Pairs(text, window=1, sample=0.1).of(np.arange(1000), 0)
    share = np.bincount(centers, minlength=2) / 2
    assert abs(share[0] - 300) < 60
    assert abs(share[1] - 100) < 3


def test_nearest_words() -> None:
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0, 0]])
    assert nearest_words(vectors, ("a", "b", "c", "d"), ["a", "c", "x"], k=1) == {"a": ["b"], "c": ["b"]}
