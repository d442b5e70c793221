"""A process that waits for a word in shared memory sleeps until another one rings."""

from __future__ import annotations

import mmap
import os
import time

import pytest

from mpips.transport import doze


@pytest.fixture
def word() -> tuple[mmap.mmap, doze.Futex]:
    memory = mmap.mmap(-1, mmap.PAGESIZE)  # shared with children
    bell = doze.futex(memory, 3)
    if bell is None:
        pytest.skip("no futex on this system")
    return memory, bell


def test_a_ring_wakes_another_process(word: tuple[mmap.mmap, doze.Futex]) -> None:
    memory, bell = word
    child = os.fork()
    if child == 0:
        begin = time.monotonic()
        while bell.value == 0 and time.monotonic() < begin + 20:
            bell.wait(0, 0.9)
        os._exit(0 if bell.value == 7 else 1)
    time.sleep(0.2)
    bell.wake(7)
    assert os.waitpid(child, 0)[1] == 0
    assert memory[24:28] == b"\x07\0\0\0"


def test_a_wait_ends_by_itself(word: tuple[mmap.mmap, doze.Futex]) -> None:
    begin = time.monotonic()
    word[1].wait(0, 0.05)
    assert 0.02 < time.monotonic() - begin < 10


def test_a_word_that_has_changed_is_not_waited_for(word: tuple[mmap.mmap, doze.Futex]) -> None:
    word[1].wake(5)
    begin = time.process_time()
    for _ in range(100):
        word[1].wait(0, 0.9)
    assert time.process_time() - begin < 20  # a hundred waits would take 90 s of the clock and hit the test's time limit


def test_elsewhere_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doze.platform, "machine", lambda: "s390x")
    assert doze.futex(mmap.mmap(-1, mmap.PAGESIZE), 0) is None
