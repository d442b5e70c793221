"""When a checkpoint is due: all servers must find the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mpips import Dense, optim
from mpips.server.cuts import Cuts
from mpips.server.saving import Cut
from mpips.transport.plan import make_plan


def last_cut(index: int, *, seen: bool, clocks: list[int], every: int = 2) -> Cut | None:
    """What server `index` takes when all have ended at `clocks`; at the cut before, (4, 3), it had `seen` that worker 1 ended."""
    plan = make_plan([Dense("w", (1,), optim.Add(), staleness=2)], servers=2, workers=2)
    mail = SimpleNamespace(clocks=[0, 0], live=[True, True], slowest=0, furthest=0, ended=lambda: False)
    saver = SimpleNamespace(write_shard=lambda *args: iter(()))
    store: Any = SimpleNamespace(index=index, trace=None, pieces=lambda clock: [])
    transport: Any = SimpleNamespace(store=lambda *args: None, flush=lambda server: None, ring=lambda server: None)
    cuts = Cuts(transport, plan, store, mail, saver, every=every, at_end=False)  # type: ignore[arg-type]
    cuts._stops = stops = SimpleNamespace(drive=lambda wanted: None, ready=lambda: True, done=lambda: None, taken=1)  # type: ignore
    mail.clocks, mail.live, mail.slowest, mail.furthest = [4, 3], [True, not seen], 4 if seen else 3, 4
    assert cuts.step([4], True)
    cuts._writing, cuts._publishing = None, []
    stops.ready = lambda: False
    mail.clocks, mail.live, mail.slowest, mail.furthest, mail.ended = clocks, [False, False], 1 << 62, max(clocks), lambda: True
    return cuts._due([max(clocks)], True)


@pytest.mark.parametrize(("clocks", "due"), [([5, 3], False), ([6, 3], True)])
def test_servers_agree_on_a_cut_when_all_have_ended(clocks: list[int], due: bool) -> None:
    """One that leaves its stand for a later clock and ends may stand in the eyes of one server, and have ended in another's."""
    found = [last_cut(0, seen=True, clocks=clocks), last_cut(1, seen=False, clocks=clocks)]
    assert found == [Cut(tuple(clocks)) if due else None] * 2
