"""Handles of the verbs that begin with `i`: what they began goes on when `test` or `wait` is called, or in the `background`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from mpips.errors import ProtocolError, UsageError
from mpips.worker.background import takes_turn
from mpips.worker.contribution import AnyPush
from mpips.worker.link import Link
from mpips.worker.pull import Pull

T = TypeVar("T")


class PullHandle(Generic[T]):
    """A pull under way; `wait()` returns what `pull` would have."""

    def __init__(self, link: Link, pull: Pull, result: Callable[[], T], one: Callable[[int], Any] | None = None) -> None:
        self._link = link
        self.pull = pull
        self._result = result
        self._one = one  # table of several, by position

    @takes_turn
    def test(self) -> bool:
        """Whether the values are here; reads what is. It may wait for a moment where servers fold a table without pause."""
        self._link.transport.poll()
        return self.pull.advance()

    @takes_turn
    def wait(self) -> T:
        """Wait for the values and return them."""
        if not self.pull.over:
            self.pull.wait()
        return self._result()

    @takes_turn
    def take(self, some: Sequence[int]) -> list[Any]:
        """Wait for these of the tables, by position, and return them; those of staleness 0 do not wait for the others.

        >>> handle = ps.ipull(["first", "second", "third"])                           # doctest: +SKIP
        >>> (first,) = handle.take([0])  # while the servers fold the others          # doctest: +SKIP
        """
        if self._one is None:
            raise UsageError("take: this is not a pull of several tables")
        self.pull.wait_for(some)
        return [self._one(i) for i in some]


class PushHandle:
    """A push under way; the caller's arrays are its own again when it is committed."""

    def __init__(self, link: Link, push: AnyPush | None, *, later: bool = False) -> None:
        self._link = link
        self.push = push  # None where nothing travels: it was of no tables,
        self._later = later  # or with more=True, and is part of the next push without

    @takes_turn
    def test(self, applied: bool = False) -> bool:
        """Whether it is committed, or with `applied` published by every server."""
        if self.push is None:
            return not (applied and self._later)
        self._link.transport.poll()
        return self.push.advance() and (not applied or self.push.applied())

    @takes_turn
    def wait(self, applied: bool = False) -> None:
        """Wait until it is committed, or with `applied` until every server has published it.

        Raises:
            ProtocolError: with `applied`, where that could wait for this worker itself: a push with more=True, which is part of
                the next one; before `clock()` where combine="node", or the table is one of rows with staleness 0.
        """
        if applied and self._later:
            raise ProtocolError("wait(applied=True) of a push with more=True: it is part of the next push without")
        if self.push is not None:
            if applied:
                self.push.wait_applied()
            else:
                self.push.wait()


class SaveHandle:
    """A checkpoint that was asked for; it is taken when the current clock is complete."""

    def __init__(self, link: Link, done: Callable[[], bool], wait: Callable[[], None]) -> None:
        self._link = link
        self._done = done
        self._wait = wait

    @takes_turn
    def test(self) -> bool:
        """Whether it is complete on disk.

        Where tables have staleness the workers must stop for a checkpoint, each between two clocks: ask between two steps, and
        go on with the steps while it says no.
        """
        return self._done()

    @takes_turn
    def wait(self) -> None:
        """Wait until it is complete on disk; call it after `clock()`."""
        self._wait()
