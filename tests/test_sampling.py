"""Negative samples: the law they follow, that they come again, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mpips.errors import UsageError
from mpips.sampling import Sampler, alias_table


def chi_square(ids: np.ndarray, chances: np.ndarray) -> float:
    """Return how many standard deviations the statistic lies above its mean (Wilson and Hilferty, PNAS 17, 1931)."""
    expected = chances * ids.size
    assert expected[expected > 0].min() > 5
    found = np.bincount(ids.reshape(-1), minlength=len(chances))
    assert not found[chances == 0].any()
    free = np.count_nonzero(chances) - 1
    statistic = np.sum((found - expected)[chances > 0] ** 2 / expected[chances > 0])
    return float(((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / np.sqrt(2 / (9 * free)))


@pytest.mark.parametrize("counts", [None, [1] * 50, range(50), [10**4] + [10] * 49, [0, 3] * 25, [0] * 49 + [7]], ids=str)
@pytest.mark.parametrize("power", [0.75, 1, 0])
def test_ids_follow_the_law(counts: object, power: float) -> None:
    sampler = Sampler(50, counts if counts is None else list(counts), power=power, seed=5)  # type: ignore[call-overload]
    weights = np.ones(50) if counts is None else np.array(list(counts), float)  # type: ignore[call-overload]
    expected = np.where(weights > 0, weights**power, 0) / np.where(weights > 0, weights**power, 0).sum()
    np.testing.assert_allclose(sampler.probabilities, expected, rtol=1e-12)
    ids = sampler.draw((400, 1000))
    assert ids.dtype == np.int64
    if np.count_nonzero(expected) == 1:
        assert (ids == expected.argmax()).all()
    else:
        assert chi_square(ids, expected) < 4


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 30_000])
@pytest.mark.parametrize("law", ["even", "random", "pareto", "ramp", "some"])
def test_the_alias_table_is_the_law(n: int, law: str) -> None:
    draw = np.random.default_rng(n)
    weights = {"even": np.ones(n), "random": draw.random(n), "pareto": draw.pareto(0.5, n) + 1e-9, "ramp": np.arange(n) + 1.0,
               "some": np.append(1.0, draw.random(n - 1) < 0.3)}[law]
    keep, alias = alias_table(weights)
    assert keep.min() >= 0
    assert keep.max() <= 1
    chances = (keep + np.bincount(alias, 1 - keep, n)) / n
    np.testing.assert_allclose(chances, weights / weights.sum(), rtol=0, atol=1e-12)
    assert (chances[weights == 0] == 0).all()


def test_every_worker_step_and_draw_has_a_stream_of_its_own_that_comes_again() -> None:
    places = [{"worker": 0, "clock": 0}, {"worker": 1, "clock": 0}, {"worker": 0, "clock": 1}, {"number": 1}]
    for counts in (None, np.arange(1000)):
        drawn = [Sampler(1000, counts, seed=3).draw(200, **at) for at in places]
        again = [Sampler(1000, counts, seed=3).draw(200, **at) for at in reversed(places)]
        assert all((one == other).all() for one, other in zip(drawn, reversed(again), strict=True))
        drawn.append(Sampler(1000, counts, seed=4).draw(200, **places[0]))
        assert len({ids.tobytes() for ids in drawn}) == len(drawn)
        assert max(np.mean(a == b) for a in drawn for b in drawn if a is not b) < 0.05
    assert Sampler(1000, seed=3).draw(4, worker=1, clock=2).tolist() == [514, 133, 274, 703], "other bits than ever before"


@pytest.mark.parametrize("shape", [(), 0, 3, (2, 0), (2, 3, 4)])
def test_shapes(shape: int | tuple[int, ...]) -> None:
    assert Sampler(5, [1, 2, 3, 4, 5]).draw(shape).shape == (shape if isinstance(shape, tuple) else (shape,))


def test_positives_are_avoided_where_there_is_anything_else() -> None:
    sampler = Sampler(3, [10, 1, 1])
    positives = np.arange(300)[:, None] % 2
    ids = sampler.draw((300, 20), avoid=positives)
    assert not (ids == positives).any()
    assert (sampler.draw((300, 20), avoid=lambda ids: ids < 2) == 2).all()
    assert set(sampler.draw(1000, avoid=lambda ids: np.ones(ids.shape, bool)).tolist()) <= {0, 1, 2}, "no end, but for TRIES"
    keeps = Sampler(4).draw(100, avoid=9)
    assert (keeps == Sampler(4).draw(100)).all()
    rest = np.array([0, 2, 3, 5, 10])
    away = Sampler(5, [1, 2, 3, 5, 10], power=1).draw(100_000, avoid=0)
    assert chi_square(away, np.where(np.arange(5), rest, 0) / rest.sum()) < 4


@pytest.mark.parametrize(("make", "why"), [
    (lambda: Sampler(0), "rows 0 is not a whole number from 1"),
    (lambda: Sampler(True), "rows True"),
    (lambda: Sampler(2, seed=-1), "seed -1 is not a whole number from 0"),
    (lambda: Sampler(2, seed=1.5), "seed 1.5"),
    (lambda: Sampler(2, power=-1), "power -1 is not a number from 0"),
    (lambda: Sampler(2, power=np.nan), "power nan"),
    (lambda: Sampler(2, power="1"), "power '1'"),
    (lambda: Sampler(2, [1, 2, 3]), r"counts of shape \(3,\) and dtype int64; expected 2 numbers"),
    (lambda: Sampler(2, [[1], [2, 3]]), "counts of shape"),
    (lambda: Sampler(2, ["a", "b"]), "counts of shape .* dtype <U1"),
    (lambda: Sampler(2, [1, -2]), "count -2 of row 1 is not a number from 0"),
    (lambda: Sampler(2, [np.nan, 1]), "count nan of row 0"),
    (lambda: Sampler(2, [0, 0]), "all counts are 0"),
    (lambda: Sampler(2).draw(-1), "shape -1"),
    (lambda: Sampler(2).draw((2, 1.0)), "shape 1.0"),
    (lambda: Sampler(2).draw(2, worker=-1), "worker -1"),
    (lambda: Sampler(2).draw(2, clock=1 << 63), "clock 9223372036854775808"),
    (lambda: Sampler(2).draw(2, avoid=[1, 2, 3]), r"broadcast to \(2,\)"),
    (lambda: Sampler(2).draw(2, avoid=[0.5, 1]), r"broadcast to \(2,\)"),
    (lambda: Sampler(2).draw(2, avoid=lambda ids: ids), r"avoid gave int64 of shape \(2,\), expected booleans"),
    (lambda: Sampler(2).draw(2, avoid=lambda ids: True), "avoid gave bool of shape"),
])
def test_bad_input_is_named(make: object, why: str) -> None:
    with pytest.raises(UsageError, match=f"^sampler: .*{why}"):
        make()  # type: ignore[operator]
