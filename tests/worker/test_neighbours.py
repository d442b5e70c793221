"""Workers that add up their gradients on their node: where these lie, and random programs on the model transport."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mpips import Dense, optim
from mpips.transport import plan
from mpips.transport.words import LINE, WORD
from mpips.worker.neighbours import Desk, Neighbours, shared_bytes
from tests.chaos import Chaos, tables
from tests.playing import small_blocks

RULE = optim.SGD(lr=0.1)
TABLES = [Dense("a", (1000, 3), RULE), Dense("b", (5,), RULE, dtype="float64"), Dense("half", (9,), RULE, dtype="bfloat16"),
          Dense("stale", (7,), RULE, staleness=1), Dense("asp", (7,), RULE, staleness=None), Dense("empty", (0, 4), RULE),
          Dense("c", (), RULE)]


def test_words_and_halves_do_not_overlap() -> None:
    desk = Desk(TABLES)
    assert list(desk.places) == [0, 1, 5, 6], "staleness 0 and not two bytes"
    words = [desk.given(number, half) for number in desk.places for half in (0, 1)]
    assert len(set(words)) == len(words)
    assert min(words) >= LINE, "not the line that is polled"
    assert max(words) < desk.control // WORD
    pieces = sorted((desk.at(n, half), desk.at(n, half) + TABLES[n].nbytes) for n in desk.places for half in (0, 1))
    assert pieces[0][0] >= desk.control
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(pieces))
    assert pieces[-1][1] <= desk.size
    assert all(start % 64 == 0 for start, _ in pieces)


def test_memory_is_needed_where_there_is_somebody_to_add_up_with() -> None:
    assert shared_bytes(TABLES, 0) == shared_bytes(TABLES, 1) == shared_bytes(TABLES[2:5], 4) == 0
    assert shared_bytes(TABLES, 3) == 3 * Desk(TABLES).size
    large = [Dense("w", (1 << 20,), RULE)]
    assert 8 << 20 < shared_bytes(large, 2) // 2 < (8 << 20) + 10_000, "two halves"


def _chaos(seed: int, nodes: tuple[int, ...], staleness: tuple[int | None, ...] = (0, 0), **options: Any) -> None:
    Chaos(tables(*staleness), seed, len(nodes), nodes=nodes, barriers=False, **options).run()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    monkeypatch.setattr(plan, "PAGE", 64)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("mailboxes", [None, 3 * 128], ids=["whole", "rings"])
@pytest.mark.parametrize("nodes", [(0, 0), (0, 0, 0), (0, 1, 0), (1, 0, 0)])
def test_every_read_keeps_its_promise(nodes: tuple[int, ...], mailboxes: int | None) -> None:
    for seed in range(6):
        _chaos(seed, nodes, servers=1 + seed % 2, mailboxes=mailboxes)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("staleness", [(0, 0), (0, 1, None)])
def test_every_checkpoint_is_a_cut(staleness: tuple[int | None, ...]) -> None:
    for seed in range(6):
        _chaos(seed, (0, 1, 0), staleness, every=2, saves=True, at_end=True)


def _sender_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Neighbours, "_late", lambda self, clock: [])


def _the_first_sends_always(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Neighbours, "_sends", lambda self, clock: self._shared.me == 0)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("mistake", [_sender_does_not_wait, _the_first_sends_always])
def test_a_mistake_is_caught(mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    for seed in range(40):
        try:
            _chaos(seed, (0, 0, 0))
        except Exception:  # noqa: BLE001 - a broken protocol may fail in any way
            return
    pytest.fail(f"{mistake.__name__} was not noticed")
