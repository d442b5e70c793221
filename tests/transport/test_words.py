"""The map of a window: no two words are one, no two writers share a cache line, regions do not overlap."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mpips.transport.words import BLOCK_WORDS, CATALOGUE_BYTES, CLIENT_WORDS, COUNT_WORDS, LINE, SPOOL, WORD, Map, Words

SHAPES = st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, 3), st.integers(1, 4), st.integers(0, 40), st.integers(0, 40))


@given(SHAPES)
def test_every_word_has_a_place_of_its_own_and_writers_share_no_line(shape: tuple[bool, int, int, int, int, int]) -> None:
    logs, workers, readers, servers, tables, blocks = shape
    words = Words(workers, workers + readers, servers, tables, blocks, logs=logs)
    owner: dict[int, str] = {}

    def claim(who: str, first: int, count: int) -> None:
        for word in range(first, first + count):
            assert word not in owner, f"{who} and {owner[word]} share word {word}"
            assert 0 <= word < words.count
            owner[word] = who

    claim("server", words.server, LINE)
    claim("server", words.floor, tables)
    for w in range(workers):
        claim("server", words.ack(w), tables)
    for k in range(words.clients):
        claim("server", words.reply(k), LINE)
    for slot in range(blocks):
        claim("server", words.block(slot), BLOCK_WORDS)
    for table in range(tables if logs else 0):
        claim("server", words.counts(table), COUNT_WORDS)
    for s in range(servers):
        claim(f"peer {s}", words.peer(s), LINE)
    for k in range(words.clients):
        claim(f"client {k}", words.client(k), CLIENT_WORDS)
        for half in range(2):
            for table in range(tables):
                claim(f"client {k}", words.stamp(k, table, half), 2)
            for slot in range(blocks):
                claim(f"client {k}", words.arrival(k, slot, half), 1)
    claim("bells", words.bell, 3)
    lines: dict[int, set[str]] = {}
    for word, who in owner.items():
        lines.setdefault(word // LINE, set()).add(who)
    assert all(len(writers) == 1 for writers in lines.values())


@given(SHAPES, st.integers(0, 20_000))
def test_regions_follow_each_other_on_pages(shape: tuple[bool, int, int, int, int, int], nbytes: int) -> None:
    logs, workers, readers, servers, tables, blocks = shape
    words = Words(workers, workers + readers, servers, tables, blocks, logs=logs)
    m = Map(words, nbytes)
    assert m.catalogue == words.count * WORD
    assert m.spool(0) == m.catalogue + CATALOGUE_BYTES
    assert m.copy(0) >= m.spool(words.clients - 1) + SPOOL
    starts = [m.copy(0), m.copy(1), *(m.mailbox(w, half) for w in range(workers) for half in range(2)), m.size]
    for start, following in pairwise(starts):
        assert start % 4096 == 2048, "where no array of malloc begins"
        assert following - start == m.region >= nbytes


def test_all_of_a_window_is_in_use_at_first_but_spare_space_and_rows_that_come_and_go() -> None:
    words = Words(2, 2, 1, 3, 4, rings=False, logs=True)
    plain = Map(words, 4096, 0, 8192, 4096, ((0, 10, 16, False),))
    boxes = [*plain.box(0), *plain.box(1)]
    assert boxes == [(plain.mailbox(0, 0), plain.mailbox(1, 0)), (plain.mailbox(1, 0), plain.logs(0))]
    assert plain.filled() == [(0, boxes[0][0]), (boxes[1][1], plain.size)]
    both = Map(words, 4096, 0, 8192, 4096, ((0, 100, 16, True), (1, 10, 16, False), (2, 50, 8, True)))
    first, last = both.rows[0], both.rows[2]
    assert both.filled() == [(0, both.mailbox(0, 0)), (both.logs(0), first.owners), (first.values + 1600, last.owners),
                             (last.values + 400, both.size)]
    spare = Map(words, 40960, spare=32768)
    assert spare.filled() == [(0, spare.copy(0) + 12288), (spare.copy(1), spare.copy(1) + 12288),
                              (spare.mailbox(0, 0), spare.mailbox(0, 0)), (spare.logs(0), spare.size)]
    assert spare.box(1) == [(at, at + 12288) for at in (spare.mailbox(1, 0), spare.mailbox(1, 1))]
    assert Map(words, 40960, 8192, spare=32768).box(1)[0][1] == Map(words, 40960, 8192).logs(0), "a ring is in use"
