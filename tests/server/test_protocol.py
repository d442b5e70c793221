"""Random programs on the model transport: what is read keeps the promises, and broken protocols are caught by the same checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpips import Dense, layout, optim
from tests import broken
from tests.chaos import Chaos, tables

STALENESS = [(0,), (2,), (None,), (0, 2, None)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK", 64)  # 8 elements
    monkeypatch.setattr(layout, "WHOLE", 64)


@pytest.mark.parametrize("staleness", STALENESS)
@pytest.mark.parametrize(("workers", "servers", "readers"), [(1, 1, 0), (2, 1, 1), (2, 2, 0), (3, 2, 1)])
def test_every_read_keeps_its_promise(staleness: tuple[int | None, ...], workers: int, servers: int, readers: int) -> None:
    for seed in range(6):
        Chaos(tables(*staleness), seed, workers, servers, readers).run()


@pytest.mark.parametrize("staleness", STALENESS)
@pytest.mark.parametrize("servers", [1, 2])
def test_every_checkpoint_is_a_cut(staleness: tuple[int | None, ...], servers: int) -> None:
    for seed in range(6):
        Chaos(tables(*staleness), seed, workers=3, servers=servers, every=2, saves=seed % 2 == 0, at_end=True).run()


@pytest.mark.parametrize("staleness", [0, None])
def test_tables_created_by_several_workers(staleness: int | None) -> None:
    for seed in range(6):
        later = [Dense("later", (30,), optim.Add(), staleness=staleness, dtype="float64")]
        Chaos(tables(staleness), seed, workers=3, servers=2, every=2, created=later).run()


@pytest.mark.parametrize("mistake", broken.ALL, ids=lambda f: f.__name__)
def test_a_broken_protocol_is_caught(mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    caught: list[Any] = []
    for seed in range(60):
        for staleness in ((None,), (0,)):
            try:
                Chaos(tables(*staleness, size=40), seed, workers=3, servers=1, readers=1, clocks=6).run()
            except Exception as error:  # noqa: BLE001 - a broken protocol may fail in any way
                caught.append(error)
        if caught:
            return
    pytest.fail(f"{mistake.__name__} was not noticed")
