from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpips.checkpoint import summary
from mpips.checkpoint.read import Saved
from mpips.checkpoint.saver import DirectorySaver
from mpips.checkpoint.summary import entries, rows, stats
from mpips.server.saving import Cut
from mpips.table import Dense
from tests.checkpoint import making


def saved_with(folder: Path, values: np.ndarray[Any, Any]) -> Saved:
    table = Dense("w", values.shape, making.SGD, dtype=values.dtype.name, master=False)
    for _ in making.saving(DirectorySaver(folder), Cut((1,)), 2, [table], {("w", None): values.ravel()}):
        pass
    return Saved(folder / "step-00000001")


@settings(max_examples=25)
@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.float16]),
                  hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=9)))
def test_stats_are_those_of_the_whole_array(tmp_path_factory: pytest.TempPathFactory,
                                            values: np.ndarray[Any, Any]) -> None:
    with making.small_blocks(), saved_with(tmp_path_factory.mktemp("s"), values) as saved:
        found = stats(saved, "w")
    good = values[np.isfinite(values)].astype(np.float64)
    assert (found.shape, found.dtype) == (list(values.shape), values.dtype.name)
    assert found.nonfinite == values.size - good.size
    assert found.zeros == np.count_nonzero(good == 0)
    if not good.size:
        assert (found.min, found.max, found.mean, found.norm) == (None, None, None, None)
        return
    scale = np.abs(good).max() or 1.0
    assert (found.min, found.max) == (good.min(), good.max())
    assert found.mean is not None
    assert found.mean / scale == pytest.approx((good / scale).mean(), abs=1e-12)
    assert found.norm is not None
    assert found.norm / scale == pytest.approx(np.linalg.norm(good / scale))


@given(st.slices(7))
@settings(max_examples=30)
def test_rows_are_those_of_numpy(tmp_path_factory: pytest.TempPathFactory, which: slice) -> None:
    which = slice(which.start, which.stop)
    values = np.arange(21, dtype=np.float32).reshape(7, 3)
    with making.small_blocks(), saved_with(tmp_path_factory.mktemp("r"), values) as saved:
        assert np.array_equal(rows(saved, "w", None, which), values[which])


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (0, 4)])
def test_rows_of_strange_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.float32)
    with saved_with(tmp_path, values) as saved:
        assert rows(saved, "w", None, slice(None)).shape == shape


def test_a_list_hides_nothing(tmp_path: Path) -> None:
    tables = [Dense("w", (5,), making.SGD)]
    steps = [making.save(tmp_path, tables, clocks=(c, 1), keep_last=None) for c in (1, 2, 3, 4, 5, 6)]
    (steps[1] / "manifest.json").unlink()
    (steps[2] / "manifest.json").write_bytes(b"{}")
    (steps[3] / "shard-0000-of-0002.h5").unlink()
    (steps[4] / "shard-0001-of-0002.h5").write_bytes(b"x")
    (steps[5] / "model.h5").unlink()
    found = entries(tmp_path)
    assert [e.step for e in found] == [1, 2, 3, 4, 5, 6]
    assert [e.state for e in found] == ["complete", "incomplete", "broken", "broken", "broken", "broken"]
    problems = [e.problem or "" for e in found]
    for words, problem in zip(("", "no manifest.json", "manifest.json: damaged", "shard-0000-of-0002.h5: missing",
                               "shard-0001-of-0002.h5: 1 bytes, ", "model.h5: missing"), problems, strict=True):
        assert problem.startswith(words)
    first = found[0]
    assert (first.tables, first.servers, first.clocks) == (1, 2, [1, 1])
    assert first.bytes == sum(p.stat().st_size for p in steps[0].iterdir())
    assert 0 <= first.age < 600
    assert entries(tmp_path / "missing") == []


def test_a_list_does_without_what_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that keeps the last three: whoever lists its directory is often slower."""
    step = making.save(tmp_path, [Dense("w", (9,), making.SGD)], clocks=(2,))
    monkeypatch.setattr(summary, "steps", lambda _: [(1, tmp_path / "step-00000001"), (2, step)])
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([*map(Path, sorted(self.glob("*"))), self / "shard-gone"]))
    assert [(entry.step, entry.state) for entry in entries(tmp_path)] == [(2, "complete")]


def test_a_list_says_what_it_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making.save(tmp_path, [Dense("w", (9,), making.SGD)], clocks=(2,))
    real = Path.iterdir

    def refuse(self: Path) -> Any:
        if self.name.startswith("step-"):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [(entry.state, entry.problem) for entry in entries(tmp_path)] == [("broken", "Permission denied")]
