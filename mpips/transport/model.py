"""A weak memory under a scheduler, for tests: all ranks in one process, and the worst that MPI's "separate" model allows.

- Each window has a public copy, which puts and gets reach, and a private one, which its server loads and stores (MPI 4.1, 12.4).
  `sync` brings the two together; before that any part may pass over at any time, or not.
- A put is cut into pieces that become visible in any order, at any time up to `flush`; a get reads its pieces likewise.
- Between any two accesses any other rank may run.

Every such decision is taken by a `Chooser`: seeded at random, or enumerated by `mpips.transport.explore`. Each rank is a greenlet;
a rank that calls `pause` runs again only when memory has changed since its last `poll`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from greenlet import greenlet

from mpips.errors import MpipsError
from mpips.transport.base import Array
from mpips.transport.plan import Plan
from mpips.transport.words import WORD


class Deadlock(MpipsError):
    """Every rank waits and nothing is under way that could wake one."""


class Chooser(Protocol):
    """Takes decisions."""

    def choose(self, n: int, world: World) -> int:
        """Return a number from 0 to n - 1."""


class Seeded:
    """Decisions at random, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, n: int, world: World) -> int:
        return self._random.randrange(n)


@dataclass
class _Rank:
    run: greenlet
    name: str
    paused_at: int = -1  # version of the memory it has seen, while it waits for another
    history: int = 0  # hash of all that it has read: with the code, its whole state
    mark: int = 0
    ended: bool = False


@dataclass(eq=False)
class _Copy:
    """A part of a put or get that is under way."""

    rank: int
    server: int
    source: Array
    target: Array
    is_get: bool
    offset: int


@dataclass
class World:
    """The memory of all servers, and who runs.

    Args:
        weak: whether private and public copies differ, and pieces travel apart; else only the order of accesses is free.
    """

    plan: Plan
    chooser: Chooser
    weak: bool = True
    version: int = 0
    steps: int = 0
    ranks: list[_Rank] = field(default_factory=list)
    flying: list[_Copy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.public = [np.zeros(m.size, np.uint8) for m in self.plan.maps]
        self.private = [np.zeros(m.size, np.uint8) for m in self.plan.maps] if self.weak else self.public
        self._mine: list[list[slice]] = []  # parts of each window that its server writes
        self._theirs: list[list[slice]] = []
        for server, m in enumerate(self.plan.maps):
            mine = [slice(a * WORD, b * WORD) for a, b in self.plan.words.owned(server)] + [slice(m.copy(0), m.copy(2))]
            edges = [0, *(e for s in mine for e in (s.start, s.stop)), m.size]
            self._mine.append(mine)
            self._theirs.append([slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b])

    def add(self, name: str, work: Callable[[Endpoint], Any], server: int | None = None) -> Endpoint:
        """Add a rank that runs `work(endpoint)`; `server` is its number if it is one."""
        endpoint = Endpoint(self, len(self.ranks), server)
        self.ranks.append(_Rank(greenlet(lambda: work(endpoint)), name))
        return endpoint

    def run(self, limit: int = 2_000_000) -> None:
        """Run all ranks to their end.

        Raises:
            Deadlock: nobody can go on, or `limit` steps were not enough.
        """
        while True:
            if all(r.ended for r in self.ranks):
                return
            ready = [i for i, r in enumerate(self.ranks) if not r.ended and r.paused_at != self.version]
            if not ready:
                before = self.version
                self._settle()
                if self.version == before:
                    raise Deadlock("every rank waits: " + ", ".join(r.name for r in self.ranks if not r.ended))
                continue
            self.steps += 1
            if self.steps > limit:
                raise Deadlock(f"no end after {limit} steps")
            if self.weak:
                self._leak()
            early = [] if self.weak else [c for c in self.flying if not c.is_get]
            pick = self.chooser.choose(len(ready) + len(early), self) if len(ready) + len(early) > 1 else 0
            if pick >= len(ready):
                self.land(early[pick - len(ready)])
                continue
            chosen = self.ranks[ready[pick]]
            chosen.paused_at = -1
            chosen.run.switch()
            chosen.ended = chosen.run.dead

    def abandon(self) -> None:
        """Drop all ranks where they stand."""
        for rank in self.ranks:
            if not rank.run.dead and rank.run:
                rank.run.throw()  # greenlet.GreenletExit, which ends it without a word

    def _leak(self) -> None:
        """Let something become visible early, or nothing."""
        kind = self.chooser.choose(8, self)
        if kind == 0 and self.flying:
            self.land(self.flying[self.chooser.choose(len(self.flying), self)])
        elif kind == 1:
            server = self.chooser.choose(len(self.public), self)
            parts = self._mine[server] + self._theirs[server]
            number = self.chooser.choose(len(parts), self)
            part = parts[number]
            at = part.start + self.chooser.choose((part.stop - part.start) // WORD, self) * WORD
            size = WORD << self.chooser.choose(8, self)
            self._pass(server, slice(at, min(at + size, part.stop)), number < len(self._mine[server]))

    def _pass(self, server: int, part: slice, out: bool) -> None:
        source, target = self.private[server][part], self.public[server][part]
        if not out:
            source, target = target, source
        if not np.array_equal(source, target):
            target[:] = source
            self.version += 1

    def sync(self, server: int) -> None:
        """Bring a window's two copies together."""
        if self.weak:
            for part in self._mine[server]:
                self._pass(server, part, True)
            for part in self._theirs[server]:
                self._pass(server, part, False)

    def _settle(self) -> None:
        """Everything that is still under way becomes visible."""
        for copy in list(self.flying):
            self.land(copy)
        for server in range(len(self.public)):
            self.sync(server)

    def land(self, copy: _Copy) -> None:
        """Carry out a part of a put or get."""
        self.flying.remove(copy)
        copy.target[:] = copy.source
        if not copy.is_get:
            self.version += 1

    def state(self) -> int:
        """Hash of the whole state, for the enumeration."""
        ranks = tuple((r.mark if r.paused_at >= 0 else r.history, r.paused_at == self.version, r.ended) for r in self.ranks)
        flying = tuple((c.rank, c.source.tobytes(), c.server, c.offset) for c in self.flying)
        return hash((tuple(p.tobytes() for p in self.public), ranks, flying))


class Endpoint:
    """One rank's transport."""

    def __init__(self, world: World, rank: int, server: int | None) -> None:
        self._world = world
        self._rank = rank
        self._server = server
        self._polled = 0

    def _turn(self) -> None:
        """Let any other rank run."""
        self._saw()  # a state is where each rank stands, so every access counts
        me = greenlet.getcurrent().parent
        assert me is not None, "an endpoint is used by its rank while World.run runs it"
        me.switch()

    def _saw(self, *values: object) -> None:
        rank = self._world.ranks[self._rank]
        rank.history = hash((rank.history, values))

    def _memory(self, server: int) -> Array:
        return self._world.private[server] if server == self._server else self._world.public[server]

    def put(self, server: int, offset: int, data: Array) -> None:
        self._turn()
        flat = data.reshape(-1).view(np.uint8)
        self._fly(server, offset, [(flat[a:b], self._world.public[server][offset + a : offset + b]) for a, b in self._pieces(flat.size)], False)

    def get(self, server: int, offset: int, out: Array) -> None:
        self._turn()
        flat = out.reshape(-1).view(np.uint8)
        self._fly(server, offset, [(self._world.public[server][offset + a : offset + b], flat[a:b]) for a, b in self._pieces(flat.size)], True)

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        half = size // 2 // WORD * WORD
        return [(0, half), (half, size)] if half else [(0, size)] if size else []

    def _fly(self, server: int, offset: int, parts: list[tuple[Array, Array]], is_get: bool) -> None:
        for source, target in parts:
            self._world.flying.append(_Copy(self._rank, server, source, target, is_get, offset))
            offset += source.size

    def store(self, server: int, word: int, value: int) -> None:
        self.stores(server, word, np.array([value], np.int64))

    def stores(self, server: int, word: int, values: Array) -> None:
        self._turn()
        data = np.array(values, np.int64).reshape(-1).view(np.uint8)
        place = self._memory(server)[word * WORD : word * WORD + data.size]
        if server == self._server:
            place[:] = data
            self._world.version += 1
        elif self._world.weak:  # each word whole, apart from the others
            self._fly(server, word * WORD, [(data[a : a + WORD], place[a : a + WORD]) for a in range(0, data.size, WORD)], False)
        else:
            self._fly(server, word * WORD, [(data, place)], False)

    def load(self, server: int, word: int) -> int:
        return self.row(server, word, 1)[0]

    def loads(self, server: int, word: int, count: int) -> Array:
        self._turn()
        memory = self._memory(server)[word * WORD : (word + count) * WORD].view(np.int64)
        out = np.array(memory)
        if self._world.weak and count > 1 and self._world.chooser.choose(2, self._world):  # each word whole, not of one moment
            late = [i for i in range(count) if self._world.chooser.choose(2, self._world)]
            self._turn()
            out[late] = memory[late]
        self._saw(out.tobytes())
        return out

    def row(self, server: int, word: int, count: int) -> list[int]:
        values: list[int] = self.loads(server, word, count).tolist()
        return values

    def flush(self, server: int) -> None:
        world = self._world
        while True:
            mine = [c for c in world.flying if c.rank == self._rank and c.server == server]
            if not mine:
                return
            self._turn()
            mine = [c for c in world.flying if c.rank == self._rank and c.server == server]
            if mine:
                copy = mine[world.chooser.choose(len(mine), world) if world.weak and len(mine) > 1 else 0]
                world.land(copy)
                if copy.is_get:
                    self._saw(copy.target.tobytes())

    def sync(self) -> None:
        if self._server is not None and self._world.weak:
            self._turn()
            self._world.sync(self._server)

    def mapped(self, server: int) -> Array | None:
        return self._world.private[server] if server == self._server else None

    def poll(self) -> None:
        self._polled = self._world.version
        rank = self._world.ranks[self._rank]
        rank.mark = rank.history

    def pause(self, seconds: float) -> None:
        rank = self._world.ranks[self._rank]
        rank.paused_at = self._polled if self._polled == self._world.version else -1
        self._turn()
        rank.history = rank.mark  # what it saw has not changed it
