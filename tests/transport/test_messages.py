"""Large reads by messages bring the same bytes, several at a time and to several ranks."""

from __future__ import annotations

import pytest

from mpips.transport.messages import TELLING, TRIES, Faster
from tests.mpirun import launcher, mpirun

JOB = """
import numpy as np
from mpi4py import MPI
from mpips.transport.messages import Messages

comm = MPI.COMM_WORLD
memory = np.arange(3_000_000, dtype=np.uint32).view(np.uint8)
messages = Messages(comm.Dup(), memory if comm.rank < 2 else None)
if comm.rank < 2:
    end = comm.Ibarrier()
    while not end.Test():
        messages.serve()
    assert not messages.serve(), "nothing is left"
else:
    for turn in range(40):
        outs = [np.zeros(250_000 + turn, np.uint32) for _ in range(8)]
        for i, out in enumerate(outs):
            messages.get(i % 2, 4 * (1000 * i + comm.rank), out)
        for rank in (1, 0):
            while not messages.arrived(rank):
                pass
        assert messages.arrived(0), "nothing was asked for"
        for i, out in enumerate(outs):
            assert (out == np.arange(out.size) + 1000 * i + comm.rank).all(), (turn, i)
    end = comm.Ibarrier()
    end.Wait()
messages.close()
"""


@pytest.mark.skipif(not launcher(), reason="there is no mpirun")
def test_many_at_a_time() -> None:
    done = mpirun(4, ["-c", JOB])
    assert done.code == 0, done


@pytest.mark.parametrize("faster", [0, 1])
def test_the_faster_way_is_found_by_large_reads_only(faster: int) -> None:
    ways, used = Faster(), [0, 0]
    for turn in range(4 * TRIES):
        ways.took(1 - faster, 1e-9, TELLING - 1)
        way = ways.best
        used[way] += 1
        ways.took(way, (2.0 if way == faster else 3.0) + (turn < 2) * 10, TELLING)  # the first are slow: connections are made
    assert used[faster] == 3 * TRIES
    assert used[1 - faster] == TRIES
