"""The generator: its files are of the format, and it knows their odds."""

import os

import numpy as np
import pytest

from mpips.errors import UsageError
from mpips.features.clicks import CHUNK, Hidden, beside, made, make
from mpips.features.criteo import Clicks, Criteo, parse
from mpips.nn import auc


def everything(path):
    return Clicks(*map(np.concatenate, zip(*Criteo.open(path).clicks(), strict=True)))


def test_a_file_and_what_made_it(tmp_path):
    hidden = Hidden(seed=3)
    assert make(tmp_path / "a", 9000, hidden) == (tmp_path / "a").stat().st_size
    make(tmp_path / "b.gz", 9000, hidden)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.hidden.json", "b.gz", "b.gz.hidden.json"]
    clicks, same = everything(tmp_path / "a"), everything(tmp_path / "b.gz")
    for one, other in zip(clicks, same, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(clicks.labels) == 9000 > CHUNK
    assert made(tmp_path / "a") == hidden
    assert made(tmp_path / "c") is None
    odds = hidden.odds(clicks)
    assert clicks.labels.mean() == pytest.approx((1 / (1 + np.exp(-odds))).mean(), abs=0.02)
    assert 0.75 < auc(odds, clicks.labels) < 0.95
    assert 0.1 < np.isnan(clicks.numbers).mean() < 0.6
    assert np.nanmin(clicks.numbers) == -2


def test_odds_depend_on_the_line_and_the_seed_alone():
    clicks = parse(Hidden(seed=1).text(0, 50))
    np.testing.assert_allclose(Hidden(seed=1).odds(Clicks(*(a[20:30] for a in clicks))), Hidden(seed=1).odds(clicks)[20:30])
    assert not np.allclose(Hidden(seed=2).odds(clicks), Hidden(seed=1).odds(clicks))


def test_bad_input_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="nowhere/x"):
        make(tmp_path / "nowhere" / "x", 10, Hidden())
    assert not list(tmp_path.iterdir())
    os.mkfifo(tmp_path / "pipe")  # as /dev/null, of which root would make a file
    with pytest.raises(UsageError, match="pipe: is not a file"):
        make(tmp_path / "pipe", 10, Hidden())
    beside(tmp_path / "x").write_text("{")
    with pytest.raises(UsageError, match=r"x\.hidden\.json"):
        made(tmp_path / "x")


@pytest.mark.parametrize("seed", [1 << 23, 2026112200, (1 << 64) - 1])
def test_any_seed_that_a_run_takes(seed):
    assert len(parse(Hidden(seed=seed).text(0, 10)).labels) == 10
