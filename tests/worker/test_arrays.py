"""Arrays of other libraries that lie on the host: taken and filled where they are."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import array_api_strict
import numpy as np
import pytest

import mpips
from mpips import Dense, Rows, optim
from mpips.errors import UsageError
from mpips.worker import Worker
from mpips.worker.arrays import deliver, flat, target
from mpips.worker.rows import gradient_of, ids_of, rows_target


class Foreign:
    """An array of a library that knows nothing of NumPy but DLPack."""

    def __init__(self, array: np.ndarray[Any, Any], kind: int = 1) -> None:
        self.array, self.kind = array, kind
        self.shape, self.dtype = array.shape, f"foreign.{array.dtype}"

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0


class Stubborn(Foreign):
    """A tensor that cannot be handed out, as one that requires a gradient."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("Can't export tensors\nthat require gradient")


W = Dense("w", (2, 3), optim.Add())
USER = Rows("user", 9, 3, optim.Add())
ONES = np.ones((2, 3), np.float32)
# NumPy before 2.1 has no way to know whether a foreign array may be written to.
WRITABLE = np.from_dlpack(Foreign(np.zeros(1))).flags.writeable
needs_writable = pytest.mark.skipif(not WRITABLE, reason="this NumPy takes arrays by DLPack read-only")


@pytest.mark.parametrize("make", [Foreign, array_api_strict.asarray], ids=["foreign", "strict"])
def test_a_gradient_is_not_copied(make: Any) -> None:
    ours = ONES.copy()
    theirs = make(ours)
    for found in (flat(None, W, theirs), gradient_of(None, USER, (2,), theirs)):
        assert np.shares_memory(found, np.from_dlpack(theirs))
        assert found.flags.c_contiguous
        assert (found == 1).all()


def test_a_gradient_in_another_order_is_copied() -> None:
    ours = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert flat(None, W, Foreign(ours)).tolist() == [0, 2, 4, 1, 3, 5]
    assert gradient_of(None, USER, (2,), Foreign(ours)).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_ids_may_be_foreign() -> None:
    assert ids_of(None, USER, Foreign(np.array([[3, 1]], np.int32)), "pull").tolist() == [[3, 1]]
    with pytest.raises(UsageError, match="table 'user': rows of a pull are whole numbers, not float64"):
        ids_of(None, USER, Foreign(np.ones(2)), "pull")
    with pytest.raises(UsageError, match=r"table 'user': rows of a pull: .*Stubborn \(2, 3\) .*: Can't export"):
        ids_of(None, USER, Stubborn(ONES), "pull")


@needs_writable
def test_what_a_pull_fills_is_what_it_returns() -> None:
    ours = np.zeros((2, 3), np.float32)
    theirs = Foreign(ours)
    values, delivered = target(None, W, theirs)
    values[:] = 7
    assert delivered is theirs
    assert (ours == 7).all()
    values, result = rows_target(None, USER, np.arange(2), theirs)
    values[:] = 8
    assert result() is theirs
    assert (ours == 8).all()


def test_an_array_of_cupy_without_a_gpu_is_told_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=Foreign))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"lies on DLPack device 2, not on the host; mpips\.run\(\.\.\., device='gpu'\)"):
        flat(None, W, Foreign(ONES, kind=2))


def test_on_a_worker_with_a_gpu_they_stay_on_the_host() -> None:
    device: Any = SimpleNamespace(owns=lambda x: False, empty=None, deliver=None)
    theirs = Foreign(ONES)
    assert deliver(device, W, ONES.reshape(-1), theirs) is theirs
    assert np.shares_memory(flat(device, W, theirs), ONES)
    if WRITABLE:
        assert rows_target(device, USER, np.arange(2), theirs)[1]() is theirs


@pytest.mark.parametrize(("given", "says"), [
    (Foreign(np.ones((3, 2), np.float32)), r"\(3, 2\)"),
    (Foreign(np.ones((2, 3))), r"\(2, 3\) of .*float64"),
    (array_api_strict.ones((2, 3), dtype=array_api_strict.float64), r"\(2, 3\) of .*float64"),
    (Foreign(ONES, kind=2), r"tests.Foreign \(2, 3\) of foreign.float32 lies on DLPack device 2, not on the host"),
    (Stubborn(ONES), "Stubborn .*: Can't export tensors that require gradient"),
])
def test_what_does_not_fit_is_told_with_the_table(given: Any, says: str) -> None:
    for name, verb in (("w", lambda: flat(None, W, given)), ("w", lambda: target(None, W, given)),
                       ("user", lambda: gradient_of(None, USER, (2,), given)),
                       ("user", lambda: rows_target(None, USER, np.arange(2), given))):
        with pytest.raises(UsageError, match=f"^table '{name}': .*{says}") as caught:
            verb()
        assert "\n" not in str(caught.value)


def test_what_may_not_be_written_to_is_not_filled() -> None:
    ours = np.zeros((2, 3), np.float32)
    ours.flags.writeable = not WRITABLE  # an older NumPy does not even hand out what is read-only
    for one in (lambda: target(None, W, Foreign(ours)), lambda: rows_target(None, USER, np.arange(2), Foreign(ours))):
        with pytest.raises(UsageError, match=r"^table '\w+': out must be .*writable.*; by DLPack this one is read-only"):
            one()


def steps(ps: Worker, out: Any, gradient: Any, rows: Any, ids: Any) -> list[Any]:
    """A step with dense tables and rows, of arrays of any kind."""
    ps.push({"w": gradient})
    ps.push("user", rows, rows=ids)
    ps.clock()
    return [ps.pull("w", out=out), ps.pull("user", rows=ids)]


@needs_writable
def test_a_whole_run_with_foreign_arrays() -> None:
    def work(ps: Worker) -> list[Any]:
        w, user = steps(ps, Foreign(np.zeros((2, 3), np.float32)), Foreign(ONES), Foreign(ONES), Foreign(np.array([3, 1])))
        return [w.array, user]

    (found,) = mpips.run(work, [W, USER], device="cpu") or []
    assert [array.tolist() for array in found] == [ONES.tolist()] * 2


@needs_writable
def test_tensors_of_pytorch() -> None:
    torch = pytest.importorskip("torch")

    def work(ps: Worker) -> Any:
        w, user = torch.zeros(2, 3), torch.zeros(2, 3)
        ones = torch.ones(2, 3)
        got, rows = steps(ps, w, ones, ones, torch.tensor([3, 1]))
        assert got is w
        ps.pull(["w"], out=[w])
        assert ps.pull("user", rows=torch.tensor([3, 1]), out=user) is user
        ps.push("w", torch.arange(6.0).reshape(3, 2).T)
        learned = torch.nn.Parameter(torch.ones(2, 3))
        for wrong in (lambda: ps.push("w", learned), lambda: ps.pull("w", out=learned)):
            with pytest.raises(UsageError, match=r"table 'w': .*torch.* requires? grad.*detach"):
                wrong()
        for wrong in (torch.ones(2, 3).to_sparse(), torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3, device="meta")):
            with pytest.raises(UsageError, match=r"table 'w': .*torch.Tensor"):
                ps.push("w", wrong)
        with pytest.raises(UsageError, match=r"table 'w': a push takes .*, not torch.Tensor \(2, 3\) of torch.float64"):
            ps.push("w", torch.ones(2, 3, dtype=torch.float64))
        ps.clock()
        ps.pull("w", out=learned.detach())
        return [array.tolist() for array in (w, rows, user, learned)]

    (found,) = mpips.run(work, [W, USER], device="cpu") or []
    assert found == [ONES.tolist()] * 3 + [[[1, 3, 5], [2, 4, 6]]]
