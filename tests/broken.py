"""Protocols with one mistake each, which the tests of the model transport and of its enumeration must find."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from mpips.server import ahead, folding, server
from mpips.transport import model
from mpips.transport.words import BEGIN, TICK0, VERSION
from mpips.worker import link, pull, push


def commit_before_data(patch: pytest.MonkeyPatch) -> None:
    """The commit number is written while data and stamps are still under way."""
    send, flush = push.Push._send, link.Link.all_flush
    sending: set[int] = set()

    def hasty(self: push.Push) -> None:
        sending.add(id(self._link))
        send(self)

    def skip(self: link.Link) -> None:
        if id(self) in sending:
            sending.remove(id(self))
        else:
            flush(self)

    patch.setattr(push.Push, "_send", hasty)
    patch.setattr(link.Link, "all_flush", skip)


def _fold(order: str) -> Callable[..., int]:
    """`fold_span` with begin-mark, data and version in another order."""
    def fold(transport: Any, store: Any, job: Any) -> int:
        span = job.todo.pop()
        version = store.version(span.lo)
        new = (version + 1) & 1
        for part in order.split():
            if part == "data":
                gradients = [store.gradient(span, p.worker, p.half) for p in job.pushes if not p.void]
                span.fold(store.copy(span, version & 1), store.copy(span, new), store.slots(span),
                          gradients, step=version + 1, clock=job.schedule, scale=job.scale)
                store.mark(span, TICK0 + new, job.clock + 1)
            else:
                store.mark(span, BEGIN if part == "begin" else VERSION, version + 1)
            transport.sync()
        return span.nbytes
    return fold


def no_begin_mark(patch: pytest.MonkeyPatch) -> None:
    """A fold changes a copy without saying so first."""
    patch.setattr(server, "fold_span", _fold("data begin version"))
    patch.setattr(ahead.Ahead, "step", lambda self: False)


def version_before_data(patch: pytest.MonkeyPatch) -> None:
    """The new version is announced before its data."""
    patch.setattr(server, "fold_span", _fold("begin version data"))
    patch.setattr(ahead.Ahead, "step", lambda self: False)


def acknowledged_before_version(patch: pytest.MonkeyPatch) -> None:
    """A worker hears that its push is published before the last block of it is."""
    fold = folding.fold_span

    def early(transport: Any, store: Any, job: Any) -> int:
        if len(job.todo) == 1:
            folding.acknowledge(transport, store._plan, store, [job])
        return fold(transport, store, job)

    patch.setattr(server, "fold_span", early)


def arrived_before_data(patch: pytest.MonkeyPatch) -> None:
    """A block is said to have arrived while it is under way."""
    def flush(self: model.Endpoint, server: int) -> None:
        if sys._getframe(1).f_code.co_name != "_arrived":
            FLUSH(self, server)

    patch.setattr(model.Endpoint, "flush", flush)


def begun_ahead_of_a_worker(patch: pytest.MonkeyPatch) -> None:
    """A copy is written over ahead while a worker may still be in its clock (staleness 0)."""
    patch.setattr(server.Server, "_expected", lambda self, cohort: [c[cohort] for c in self._mail.coming if cohort in c])


def half_reused(patch: pytest.MonkeyPatch) -> None:
    """A mailbox half is written again before its push is published."""
    patch.setattr(push, "half_free", lambda link, states: True)


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    """A reader keeps what it has read without looking at the words again."""
    attempt = pull.Pull._attempt

    def trusting(self: pull.Pull, *args: Any) -> list[Any]:
        attempt(self, *args)
        return []

    patch.setattr(pull.Pull, "_attempt", trusting)


def early_without_tick(patch: pytest.MonkeyPatch) -> None:
    """A block is read before its table is ready though it is not of this clock."""
    early = pull.Pull._read_early

    def hasty(self: pull.Pull) -> None:
        now, self.now = self.now, self.now - 1
        early(self)
        self.now = now

    patch.setattr(pull.Pull, "_read_early", hasty)


FLUSH = model.Endpoint.flush
ALL = (commit_before_data, arrived_before_data, no_begin_mark, version_before_data, acknowledged_before_version, half_reused,
       no_second_look, early_without_tick)
