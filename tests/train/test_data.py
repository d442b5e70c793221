"""Sources, splits, and the order of the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.errors import UsageError
from mpips.train import data
from mpips.train.config import Named
from mpips.train.data import Data, Order, Scale, load, permutation, source

orders = st.builds(Order, st.integers(1, 200), batch=st.integers(1, 20), workers=st.integers(1, 9),
                   seed=st.integers(0, 2**64 - 1))


@given(orders, st.integers(0, 3))
def test_each_sample_once_an_epoch(order: Order, epoch: int) -> None:
    clocks = range(epoch * order.steps, (epoch + 1) * order.steps)
    taken = np.concatenate([order.rows(clock, worker) for clock in clocks for worker in range(order.workers)])
    assert sorted(taken) == list(range(order.samples))
    assert {order.epoch(clock) for clock in clocks} == {epoch}


@given(orders, st.data())
def test_a_batch_depends_on_the_clock_alone(order: Order, choose: Any) -> None:
    fresh = Order(order.samples, batch=order.batch, workers=order.workers, seed=order.seed)
    clock = choose.draw(st.integers(0, 3 * order.steps))
    worker = choose.draw(st.integers(0, order.workers - 1))
    for before in range(clock):
        order.rows(before, worker)
    np.testing.assert_array_equal(order.rows(clock, worker), fresh.rows(clock, worker))


@given(orders)
def test_sizes(order: Order) -> None:
    for clock in range(order.steps):
        sizes = [len(order.rows(clock, worker)) for worker in range(order.workers)]
        assert max(sizes) <= order.batch
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == order.seen(clock + 1) - order.seen(clock)
    assert order.seen(order.steps) == order.samples


def test_the_step_of_all_workers_does_not_depend_on_their_number() -> None:
    one, four = Order(103, batch=8, workers=1, seed=5), Order(103, batch=2, workers=4, seed=5)
    for clock in range(2 * one.steps):
        together = np.concatenate([four.rows(clock, worker) for worker in range(4)])
        np.testing.assert_array_equal(one.rows(clock, 0), together)


sizes = st.tuples(st.integers(0, 30), st.integers(1, 50))


@given(st.integers(1, 60), st.lists(sizes, max_size=3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_steps_of_other_sizes_before_take_each_sample_once_an_epoch_too(samples: int, parts: list[tuple[int, int]], batch: int,
                                                                        workers: int, epochs: int) -> None:
    before = [(sum(steps for steps, _ in parts[:n + 1]), size) for n, (_, size) in enumerate(parts)]
    order = Order(samples, batch=batch, workers=workers, seed=7, before=before)
    behind = before[-1][0] if before else 0
    epochs += order.epoch(behind)  # so many are not over there
    taken = [np.concatenate([order.rows(clock, worker) for worker in range(workers)]) for clock in range(order.end(epochs))]
    assert [order.seen(clock + 1) - order.seen(clock) for clock in range(len(taken))] == [len(some) for some in taken]
    of_epochs = np.concatenate(taken).reshape(epochs, samples)
    assert all(sorted(some) == list(range(samples)) for some in of_epochs)
    assert order.end(order.epoch(behind)) <= behind


@given(orders, st.integers(1, 100), st.integers(0, 3))
def test_steps_of_the_same_size_before_change_nothing(order: Order, clock: int, epochs: int) -> None:
    again = Order(order.samples, batch=order.batch, workers=order.workers, seed=order.seed,
                  before=[(clock, order.batch * order.workers)])
    assert again.end(epochs) == order.end(epochs) == epochs * order.steps
    for near in (clock - 1, clock, clock + 1):
        np.testing.assert_array_equal(again.rows(near, 0), order.rows(near, 0))


def test_permutation_is_fixed_for_good() -> None:
    assert permutation(8, 1, 2).tolist() == [4, 2, 0, 6, 1, 5, 7, 3]
    assert permutation(100, 1, 2).tolist() != permutation(100, 1, 3).tolist()
    assert permutation(100, 1, 2).tolist() != permutation(100, 2, 2).tolist()


def test_digits() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    raw = source(Named("digits")).arrays()
    np.testing.assert_array_equal(raw.x, x)
    np.testing.assert_array_equal(raw.y, y)
    got = load(source(Named("digits", {"seed": 3})))
    assert (got.x.shape, got.x_test.shape, got.classes) == ((1438, 64), (359, 64), 10)
    assert (got.x.dtype, got.y.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(got.x.mean(axis=0), 0, atol=1e-5)
    again, other = load(source(Named("digits", {"seed": 3}))), load(source(Named("digits", {"seed": 4})))
    np.testing.assert_array_equal(got.x_test, again.x_test)
    assert not np.array_equal(got.y_test, other.y_test)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'digits' needs scikit-learn: pip install 'mpips\[examples\]'"):
        source(Named("digits")).check()


def test_linear() -> None:
    got = load(source(Named("linear", {"w": [1.0, -2.0], "b": 0.5, "noise": 0, "samples": 50})), np.float64)
    assert got.x.shape == (40, 2)
    assert got.y.shape == (40, 1)
    assert got.classes is None
    assert got.scale is None
    np.testing.assert_allclose(got.y, got.x @ [[1.0], [-2.0]] + 0.5)


def npz(folder: Path, **arrays: Any) -> Named:
    np.savez(folder / "some.npz", **arrays)
    return Named("npz", {"path": str(folder / "some.npz")})


def test_npz(tmp_path: Path) -> None:
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2], np.uint8)
    got = load(source(npz(tmp_path, x=x, y=y, x_test=x[:2], y_test=y[:2])))
    assert (len(got.x), len(got.x_test), got.classes) == (6, 2, 3)
    got = load(source(npz(tmp_path, x=x, y=y)))
    assert (len(got.x), len(got.x_test)) == (5, 1)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"x": [1.0]}, "has no array 'y'"),
    ({"y": [1.0]}, "has no array 'x'"),
    ({"x": [1.0], "y": [1.0], "x_test": [1.0]}, "has 'x_test' but no 'y_test'"),
    ({"x": [1.0], "y": [1.0, 2.0]}, "x has 1 samples, y has 2"),
    ({"x": [1.0], "y": ["a"]}, "expected an array of numbers"),
    ({"x": [1.0], "y": 3}, "expected an array of numbers"),
    ({"x": [1.0], "y": [-1]}, "classes count from 0"),
    ({"x": [], "y": []}, "no sample to train on"),
    ({"x": [[1.0]], "y": [1], "x_test": [[1.0, 2.0]], "y_test": [1]}, "another shape or kind"),
    ({"x": np.array([None]), "y": [1]}, "Object arrays cannot be loaded"),
])
def test_npz_errors(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(source(npz(tmp_path, **arrays)))


@pytest.mark.parametrize(("parts", "message"), [
    ({"x": [[1.0]], "y": np.zeros(1)}, "data: x is list, expected an array with an axis of samples"),
    ({"x": np.zeros((1, 2)), "y": np.float32(1)}, "data: y is float32, expected an array"),
    ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, "data: x has 4 samples, y has 3"),
    ({"x_test": np.zeros((4, 2)), "y_test": np.zeros(3)}, "data: x_test has 4 samples, y_test has 3"),
    ({"x_test": np.zeros((4, 2))}, "data: x_test and y_test go together"),
])
def test_wrong_arrays_of_ones_own(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        Data(**{"x": np.zeros((1, 2)), "y": np.zeros(1), **parts})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.bool_])
def test_labels_of_ones_own_are_classes_whatever_their_size(dtype: Any) -> None:
    data = Data(np.zeros((3, 2), np.float32), np.array([0, 1, 1], dtype))
    assert (data.classes, len(data.x_test), len(data.y_test)) == (2, 0, 0)


def test_npz_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.path .*none.npz: no such file"):
        source(Named("npz", {"path": str(tmp_path / "none.npz")})).check()
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UsageError, match=r"data.path .*text.npz: not a .npz file"):
        source(Named("npz", {"path": str(tmp_path / "text.npz")})).check()


@pytest.mark.parametrize(("named", "message"), [
    (Named("digit"), r"f.toml: data.source: unknown source 'digit'; did you mean 'digits'\?"),
    (Named("digits", {"path": "x"}), "f.toml: data.path: unknown key"),
    (Named("npz"), "f.toml: data.path: is required"),
    (Named("digits", {"test_fraction": 1.0}), "f.toml: data.test_fraction: expected float < 1"),
    (Named("linear", {"w": ["x"]}), r"f.toml: data.w\[0\]: expected float, got str"),
])
def test_source_errors(named: Named, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        source(named, "f.toml")


def test_scale_survives_json() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    x[:, 1] = 7
    scale = Scale.of(x)
    assert scale.std[1] == 1
    np.testing.assert_array_equal(Scale.restore(scale.describe())(x), scale(x))


def test_no_held_out_part() -> None:
    got = load(source(Named("linear", {"test_fraction": 0.0, "samples": 5})))
    assert isinstance(got, Data)
    assert (len(got.x), len(got.x_test)) == (5, 0)
