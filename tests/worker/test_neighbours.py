"""Where the workers of a node lay their gradients."""

from __future__ import annotations

import itertools

from mpips import Dense, optim
from mpips.transport.words import LINE, WORD
from mpips.worker.neighbours import Desk, shared_bytes

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
