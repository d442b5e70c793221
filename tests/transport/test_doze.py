"""A process that waits for a word in shared memory sleeps until another one rings."""

from __future__ import annotations

import mmap
import os
import time

import pytest

from mpips.transport import doze
from tests.mpirun import launcher, mpirun

CALLS = """
import time
from mpi4py import MPI
from mpips.transport.rma import Rma
from mpips.transport.words import ASLEEP, BELL, CALL, WAITED, Map, Words

comm = MPI.COMM_WORLD  # two servers, one of which calls, and a client that naps
words = Words(1, 1, 2, 1, 1)
t = Rma(comm, comm, [0, 1], [Map(words, 64)] * 2, False)
if comm.rank == 0:
    for word in range(words.count):
        t.store(0, word, 0)
elif comm.rank == 1:
    for word in range(words.count):
        t.store(1, word, 0)
t.sync()
comm.Barrier()
called, waited = words.bell + CALL, words.bell + WAITED
slept = 0.0
for turn in range(1, 21):
    before = t.load(0, called)
    comm.Barrier()
    if comm.rank == 2:
        while t.load(1, words.server) < turn:
            begin = time.monotonic()
            t.listen(0.9)
            slept = max(slept, time.monotonic() - begin)
    elif comm.rank == 1:
        while not t.load(1, waited):
            t.poll()
        time.sleep(0.01 * (turn % 2))
        t.store(1, words.server, turn)
        t.sync()
        t.call(1)
        assert t.load(0, called) != before
    comm.Barrier()
assert slept < 0.8, "no call woke it"
comm.Barrier()
t.close()
t.listen(0.001)  # its memory is gone
"""


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


def test_a_kernel_that_refuses_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doze, "CALLS", dict.fromkeys(doze.CALLS, 10_000))
    assert doze.futex(mmap.mmap(-1, mmap.PAGESIZE), 0) is None


@pytest.mark.skipif(not launcher(), reason="there is no mpirun")
def test_a_server_calls_the_clients_of_its_node() -> None:
    done = mpirun(3, ["-c", CALLS])
    assert done.code == 0, done
