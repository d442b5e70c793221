"""What one look at the mailboxes takes: a commit with the clock that follows it, and never a clock without its pushes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips import Dense, optim
from mpips.server import Server
from mpips.transport.local import Local
from mpips.transport.plan import make_plan
from mpips.transport.words import CLOCK, COMMIT
from mpips.worker import Worker
from mpips.worker.link import Link


class Torn(Local):
    """Words that are loaded together may be of different moments: here the commits among them are old."""

    def row(self, server: int, word: int, count: int) -> list[int]:
        words = super().row(server, word, count)
        if word == self.client and count > CLOCK:
            words[COMMIT] = 0
        return words

    client = -1


def job(make: type[Local] = Local) -> tuple[Any, Server, Worker]:
    plan = make_plan([Dense("w", (4,), optim.Add(), staleness=0)], servers=1, workers=1)
    transport = make([m.size for m in plan.maps])
    return transport, Server(transport, plan, 0), Worker(Link(transport, plan, 0, 0, 1.0))


def test_a_commit_and_its_clock_take_one_step() -> None:
    _, server, worker = job()
    for clock in range(1, 5):
        worker.push("w", np.ones(4, np.float32))
        worker.clock()
        assert server.step()
        assert server._mail.clocks == [clock]
        assert server._store.floors[0] == server._store.version(0) == server._store.acks[0, 0] == clock
        assert not server.step()


def test_a_clock_never_comes_without_its_pushes() -> None:
    transport, server, worker = job(Torn)
    transport.client = server._plan.words.client(0)
    for clock in range(1, 5):
        worker.push("w", np.ones(4, np.float32))
        worker.clock()
        server.step()
        assert server._mail.clocks == [clock]
        assert server._store.version(0) == clock
