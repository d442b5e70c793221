"""Views in one process: of this clock, also where the next version is published already, for few blocks and for many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpips import Dense, optim, run
from mpips.worker import views
from tests.playing import small_blocks


@pytest.mark.parametrize("few", [0, 100])
def test_a_view_is_of_its_clock(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    small_blocks(monkeypatch, whole=1 << 20)  # 7 blocks on one server
    monkeypatch.setattr(views, "FEW", few)

    def work(ps: Any) -> int:
        copied = 0
        for clock in range(4):
            for handle in (None, ps.ipush("w", np.ones(100, np.float32))):
                if handle is not None:
                    handle.wait(applied=True)  # so the newest version is the next clock's
                view = ps.view("w")
                with view as w:
                    np.testing.assert_array_equal(w, np.full(100, clock))
                    copied += not view.zero_copy
            ps.clock()
        return copied

    assert run(work, [Dense("w", (100,), optim.Add())], servers=1, device="cpu") == [0]
