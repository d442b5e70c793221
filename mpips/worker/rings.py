"""Pushes through rings: where mailboxes for whole shards would be too large, a worker has a few blocks of room on each server.

A push is cut into pieces, neighbouring blocks of at most `BLOCK` bytes together. The worker puts a piece where its ring is free,
and writes its RECORD; when both are complete it raises HEAD. The server adds the piece to the sum of its clock
(`mpips.server.rings`) and raises TAIL, so that the place is free again. After its last piece the push is committed as ever.

All rings of all servers are filled in turn, so a server that is slow holds up only what is for it. NaN and Inf are looked for
before anything leaves, because what a server has added up cannot be taken out again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpips import layout
from mpips.errors import NonFiniteGradient
from mpips.transport.base import Array
from mpips.transport.words import HEAD, RECORDS, TAIL
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.push import Push, reopen, spoiled, void, wait_half


@dataclass(frozen=True)
class Piece:
    """What is written at once: `nbytes` from the first byte to the last; `parts` are arrays and where they go.

    Blocks `lo:hi` (slots of one server); in a log `hi` rows of table `lo`.
    """

    lo: int
    hi: int
    nbytes: int
    parts: Sequence[tuple[int, Array]]


class Ring:
    """A ring of this worker on one server: where pieces can be written, and which still stand there.

    Args:
        base, size: where its bytes are.
        record: the word at which the record that follows so many others begins.
        head, tail: the words (of this worker, and of the server's for it) that count pieces written and taken out.
    """

    def __init__(self, link: Link, server: int, base: int, size: int, record: Callable[[int], int], head: int, tail: int) -> None:
        self._link = link
        self._server = server
        self._base, self._size = base, size
        self._record, self._head_word = record, head
        self._tail_word = link.plan.words.reply(link.index) + tail
        self._standing: deque[tuple[int, int]] = deque()  # bytes of the pieces that have not been taken out, oldest first
        self._head = 0  # pieces written
        self._tail = 0  # pieces taken out

    def put(self, piece: Piece, number: int, clock: int, last: bool) -> bool:
        """Write a piece, complete when this returns; return False if there is no room now."""
        link, t, server = self._link, self._link.transport, self._server
        at = self._room(layout.align(piece.nbytes))
        if at is None:
            return False
        for offset, part in piece.parts:
            t.put(server, self._base + at + offset, part)
        record = np.array([number, clock, piece.lo << 32 | piece.hi, at << 1 | last], np.int64)
        t.stores(server, self._record(self._head), record)
        t.flush(server)
        self._standing.append((at, at + layout.align(piece.nbytes)))
        self._head += 1
        link.tell(server, self._head_word, self._head)
        return True

    def fits(self, piece: Piece) -> bool:
        """Whether there is room for a piece now."""
        return self._room(layout.align(piece.nbytes)) is not None

    @property
    def written(self) -> int:
        """Pieces written so far."""
        return self._head

    def taken(self, count: int) -> bool:
        """Whether so many pieces have been taken out."""
        self._look()
        return self._tail >= count

    def _look(self) -> None:
        """Take note of what has been taken out."""
        tail = self._link.transport.load(self._server, self._tail_word)
        if tail > self._tail:
            self._link.transport.sync()  # what was read before the place was freed was read before it is written again
            for _ in range(tail - self._tail):
                self._standing.popleft()
            self._tail = tail

    def _room(self, nbytes: int) -> int | None:
        """First byte of a free stretch, or None."""
        self._look()
        if not self._standing:
            return 0
        if len(self._standing) == RECORDS:
            return None
        oldest, end = self._standing[0][0], self._standing[-1][1]
        if end > oldest:  # free are the end of the ring, and its beginning up to the oldest
            return end if end + nbytes <= self._size else 0 if nbytes <= oldest else None
        return end if end + nbytes <= oldest else None


def ring_of(link: Link, server: int) -> Ring:
    """This worker's ring of blocks on a server."""
    here, words = link.plan.maps[server], link.plan.words
    return Ring(link, server, here.mailbox(link.index, 0), here.ring, lambda count: words.record(link.index, count), HEAD, TAIL)


class RingPush(Push):
    """One push of some tables (all with staleness 0), written piece by piece."""

    new_ring = staticmethod(ring_of)
    tail = TAIL
    _left: dict[int, deque[Piece]] | None = None  # by server, what is still to be written; None before it has begun
    _voids: Sequence[bool] = ()
    _begun = 0.0

    def advance(self) -> bool:
        """Go on as far as there is room; return whether it is committed."""
        if not self.committed and (self.failure or self._left is not None or self.ready()):
            self._send()
        return self.committed

    def wait(self) -> None:
        """Advance until it is committed."""
        if not self.advance() and self._left is None:
            wait_half(self._link, self.group)
        while not self.advance():
            self._link.wait(self._room, f"room for a push of table {self.group.title}", self._before, self._taken)

    def _room(self) -> bool:
        """Whether a piece can be written."""
        assert self._left is not None
        if any(pieces and self._rings[server].fits(pieces[0]) for server, pieces in self._left.items()):
            return True
        self._link.hurry(self.clock + 1)  # a worker that comes before this one may stand still for a cut in this clock
        return False

    @property
    def _rings(self) -> dict[int, Ring]:
        """By server, those that this worker has used."""
        return self._link.rings

    def _taken(self) -> list[int]:
        """Pieces of all workers that the servers have taken out: as long as these grow, this push comes nearer."""
        t, plan = self._link.transport, self._link.plan
        words = [plan.words.reply(worker) + self.tail for worker in range(plan.workers)]
        return [t.load(server, word) for server in self._left or () for word in words]

    def _before(self) -> str:
        """Which workers' pushes come before this one."""
        if not self._link.index:
            return self._link.behind(self.clock)
        return f"the servers take pushes in the order of the workers: {self._link.behind(self.clock + 1, self._link.index)}"

    def _send(self) -> None:
        link = self._link
        self._complain()
        if self._left is None:
            self._begun = time.perf_counter()
            self._voids = self._checked()
            number = link.tries = link.tries + 1
            self._stamp(number, self._voids)
            self._left = self._cut()
        rings = self._rings
        for server, pieces in self._left.items():
            if server not in rings:
                rings[server] = self.new_ring(link, server)
            while pieces and rings[server].put(pieces[0], link.tries, self.clock, len(pieces) == 1):
                pieces.popleft()
        if not any(self._left.values()):
            self._commit(link.tries, self._voids, self._begun)
            self._gradients = []

    def _checked(self) -> list[bool]:
        """Look for NaN and Inf; return which tables are void."""
        voids = []
        for state, parts in zip(self.group.states, self._parts(), strict=True):
            bad = not self._sums and any([spoiled(state.table, part) for part in parts])
            try:
                voids.append(bad and void(self._link, state.table, self.clock))
            except NonFiniteGradient as error:
                self.failure = error
                reopen(self.group)
                raise
        return voids

    def _parts(self) -> Iterator[Iterable[Array]]:
        """By table, the gradient in pieces that stay in cache."""
        for state, gradient in zip(self.group.states, self._gradients, strict=True):
            assert gradient is not None
            yield (gradient[b.start : b.stop] for run in state.runs for b in run.blocks)

    def _cut(self) -> dict[int, deque[Piece]]:
        """Cut what is to be pushed into pieces, by server."""
        found: dict[int, list[tuple[int, int, Array]]] = {}
        for state, gradient, left_out in zip(self.group.states, self._gradients, self._voids, strict=True):
            assert gradient is not None
            for run in state.runs if not left_out else ():
                for block in run.blocks:
                    found.setdefault(run.server, []).append((block.slot, block.offset, gradient[block.start : block.stop]))
        out: dict[int, deque[Piece]] = {}
        for server, cells in found.items():
            pieces, first = out.setdefault(server, deque()), 0
            cells.sort(key=lambda cell: cell[0])
            for i in range(1, len(cells) + 1):
                start = cells[first][1]
                if (i < len(cells) and cells[i][0] == cells[i - 1][0] + 1
                        and cells[i][1] + cells[i][2].nbytes - start <= layout.BLOCK):
                    continue
                pieces.append(Piece(cells[first][0], cells[i - 1][0] + 1, cells[i - 1][1] + cells[i - 1][2].nbytes - start,
                                    [(offset - start, part) for _, offset, part in cells[first:i]]))
                first = i
        return out


def sending(link: Link, group: Group, gradients: Sequence[Array | None], *, sums: bool = False) -> Push:
    """Return a push to the servers, of the kind that this job's memory allows."""
    return (RingPush if link.plan.rings else Push)(link, group, gradients, sums=sums)
