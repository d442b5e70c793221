"""The one way to wait: when it gives up, and what it takes for progress."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mpips.errors import WaitTimeout
from mpips.transport import base
from mpips.transport.base import wait
from mpips.transport.local import Local

LIMIT = 100.0


class Clock(Local):
    """A transport on which time passes only while somebody rests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__([])
        self.now = 1.0
        monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def pause(self, seconds: float) -> None:
        self.now += max(seconds, 0.01)


@pytest.mark.parametrize("progress", [None, lambda: None, lambda: 3], ids=["none", "nothing", "stands"])
def test_it_gives_up_at_its_limit(monkeypatch: pytest.MonkeyPatch, progress: Callable[[], object] | None) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(WaitTimeout, match="waited 100 s for a bus: nobody drives"):
        wait(clock, lambda: False, "a bus", lambda: "nobody drives", LIMIT, progress)
    assert LIMIT < clock.now - 1 < 1.2 * LIMIT


def test_the_limit_begins_anew_while_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, last = Clock(monkeypatch), 5 * LIMIT
    with pytest.raises(WaitTimeout):
        wait(clock, lambda: False, "a bus", lambda: "nobody drives", LIMIT, lambda: min(clock.now, last) // 60)
    assert last + 0.8 * LIMIT < clock.now < last + 1.2 * LIMIT


def test_it_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert wait(clock, lambda: True, "a bus", str, LIMIT) == 0
    assert wait(clock, lambda: clock.now > 51, "a bus", str, LIMIT) == clock.now - 1
