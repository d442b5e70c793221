"""Waiting for some of the tables of a pull."""

from __future__ import annotations

import numpy as np
import pytest

import mpips
from mpips import Dense, optim
from mpips.errors import UsageError
from mpips.worker import Worker


@pytest.mark.parametrize("done", [False, True], ids=["under way", "done"])
@pytest.mark.parametrize("some", [[3], [-1], [0, 3], np.array([7])], ids=str)
def test_positions_that_are_none_are_refused(some: list[int], done: bool) -> None:
    def work(ps: Worker) -> list[float]:
        handle = ps.ipull(["a", "b", "c"])
        if done:
            handle.wait()
        with pytest.raises(UsageError, match=r"^take: .* of a pull of 3 tables, which are counted from 0$"):
            handle.take(some)
        return [float(array[0]) for array in handle.take([2, 0])]

    tables = [Dense(name, (1,), optim.SGD(lr=0.1), mpips.init.constant(i)) for i, name in enumerate("abc")]
    assert mpips.run(work, tables, device="cpu") == [[2.0, 0.0]]
