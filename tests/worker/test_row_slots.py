"""What a client remembers of where rows lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import Rows, optim
from tests.playing import play

IDS = np.arange(20) * 7


@pytest.mark.parametrize("seed", range(3))
def test_two_pulls_of_the_same_new_rows(seed: int) -> None:
    """Both look before either asks; the second finds what the first was told."""
    table = Rows("t", rows=None, capacity=100, dim=3, dtype="float64", optimizer=optim.Add(), staleness=1)

    def work(ps: Any) -> list[int]:
        for _ in range(3):
            ps.push("t", np.ones((20, 3)), rows=IDS)
            ps.clock()
        handles = [ps.ipull("t", rows=IDS) for _ in range(2)]
        for handle in handles:
            handle._pull.poll()
            handle._pull.advance()
        for handle in handles:
            assert (handle.wait() >= 1).all()
        return [len(known) for known in ps._link.slots[0]._known]

    assert play([table], work, workers=1, seed=seed)["worker 0"] == [20]
