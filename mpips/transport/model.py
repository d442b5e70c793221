"""A weak memory under a scheduler, for tests: all ranks in one process, and the worst that MPI's "separate" model allows.

- Each window has a public copy, which puts and gets reach, and a private one, which its server loads and stores (MPI 4.1, 12.4).
  `sync` brings the two together, part by part in any order; before that any part may pass over at any time, or not.
- A put is cut into pieces that become visible in any order, at any time up to `flush`; a get reads its pieces likewise.
- Words that are loaded together are each whole, but not of one moment.
- Between any two accesses any other rank may run, and some are much slower than others.

Every such decision is drawn from one seed. Each rank is a greenlet; a rank that calls `pause` runs again only when memory has
changed since its last `poll`, so that a wait without end is a `Deadlock` at once. `mpips.transport.explore` goes through all
decisions of a tiny job instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from greenlet import greenlet

from mpips.errors import MpipsError
from mpips.transport.base import Array
from mpips.transport.plan import Plan
from mpips.transport.words import MARK, WORD

PACES = (1, 10, 100, 1000)  # how often a rank runs, relative to the others
CHANGE = (4, 8, 16, 64)  # steps after which the paces are drawn again, on average


class Deadlock(MpipsError):
    """Every rank waits and nothing is under way that could wake one."""


@dataclass
class _Rank:
    run: greenlet
    name: str
    paused_at: int = -1  # version of the memory it has seen, while it waits for another
    ended: bool = False


@dataclass(eq=False)
class _Copy:
    """A part of a put or get that is under way."""

    rank: int
    server: int
    source: Array
    target: Array
    is_get: bool


@dataclass
class World:
    """The memory of all servers, and who runs; the same seed makes the same run."""

    plan: Plan
    seed: int = 0
    version: int = 0  # raised with every change of memory
    steps: int = 0
    ranks: list[_Rank] = field(default_factory=list)
    flying: list[_Copy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.public = [np.zeros(m.size, np.uint8) for m in self.plan.maps]
        self.private = [np.zeros(m.size, np.uint8) for m in self.plan.maps]
        self._mine: list[list[slice]] = []  # parts of each window that its server writes
        self._theirs: list[list[slice]] = []
        for server, m in enumerate(self.plan.maps):
            words = [(a * WORD, b * WORD) for a, b in self.plan.words.owned(server)]
            edges = [0, *(e for w in words for e in w), m.copy(0)]
            self._mine.append([slice(*w) for w in words] + [slice(m.copy(c), m.copy(c) + m.nbytes) for c in (0, 1) if m.nbytes])
            self._theirs.append([slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b])
            halves = [m.mailbox(k, half) for k in range(self.plan.workers) for half in ((0,) if m.ring else (0, 1))]
            self._theirs[-1] += [slice(at, at + (m.ring or m.nbytes)) for at in halves if m.nbytes]
            for place in m.rows.values():
                marks, values = place.rows * MARK, place.rows * place.width
                self._mine[-1] += [slice(place.marks, place.marks + marks), slice(place.values, place.values + values)]
                if place.owners >= 0:
                    self._mine[-1].append(slice(place.owners, place.owners + place.rows * WORD))
            self._theirs[-1] += [slice(m.logs(k), m.logs(k + 1)) for k in range(self.plan.clients) if m.log]
            self._mine[-1] += [slice(m.answers(k), m.answers(k + 1)) for k in range(self.plan.clients) if m.answer]
        self._news = [False] * len(self.public)  # whether anything has landed in a window since its last sync
        self._paces: list[int] = []
        self._change = self.random.choice(CHANGE)

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
            ready = [i for i, r in enumerate(self.ranks) if not r.ended and r.paused_at != self.version]
            if not ready:
                left = [r.name for r in self.ranks if not r.ended]
                if not left:
                    return
                before = self.version
                self._settle()
                if self.version == before:
                    raise Deadlock("every rank waits: " + ", ".join(left))
                continue
            self.steps += 1
            if self.steps > limit:
                raise Deadlock(f"no end after {limit} steps")
            self._leak()
            chosen = self.ranks[self._pick(ready)]
            chosen.paused_at = -1
            chosen.run.switch()
            chosen.ended = chosen.run.dead

    def _pick(self, ready: list[int]) -> int:
        if not self._paces or self.random.random() * self._change < 1:
            self._paces = self.random.choices(PACES, k=len(self.ranks))
        if len(ready) == 1:
            return ready[0]
        return self.random.choices(ready, [self._paces[i] for i in ready])[0]

    def _leak(self) -> None:
        """Let something become visible early, or nothing."""
        kind = self.random.randrange(8)
        if kind == 0 and self.flying:
            self.land(self.random.choice(self.flying))
        elif kind == 1:
            server = self.random.randrange(len(self.public))
            parts = self._mine[server] + self._theirs[server]
            number = self.random.randrange(len(parts))
            part = parts[number]
            at = part.start + self.random.randrange(max((part.stop - part.start) // WORD, 1)) * WORD
            size = WORD << self.random.randrange(8)
            self.passed(server, slice(at, min(at + size, part.stop)), out=number < len(self._mine[server]))

    def glimpse(self, server: int, word: int, count: int) -> None:
        """Let a server see words of others at once, maybe, and nothing of what was written before them."""
        lo, hi = word * WORD, (word + count) * WORD
        if not self.random.randrange(4) and any(part.start <= lo and hi <= part.stop for part in self._theirs[server]):
            self.passed(server, slice(lo, hi), out=False)

    def passed(self, server: int, part: slice, *, out: bool) -> None:
        """Bring a part of what its server writes (`out`) or reads to where the window's two copies are the same."""
        source, target = self.private[server][part], self.public[server][part]
        self.copy(source, target) if out else self.copy(target, source)

    def begin_sync(self, server: int) -> list[slice]:
        """Return the parts that its server has changed, in any order, if this sync is a slow one: each may pass at its own time."""
        if self.random.randrange(4):
            return []
        parts = []
        for part in self._mine[server]:
            if not np.array_equal(self.private[server][part], self.public[server][part]):
                cut = part.start + self.random.randrange((part.stop - part.start) // WORD + 1) * WORD
                parts += [slice(part.start, cut), slice(cut, part.stop)]
        self.random.shuffle(parts)
        return parts[1:]

    def sync(self, server: int) -> None:
        """Bring a window's two copies together."""
        for part in self._mine[server]:
            self.passed(server, part, out=True)
        if self._news[server]:
            for part in self._theirs[server]:
                self.passed(server, part, out=False)
            self._news[server] = False

    def _settle(self) -> None:
        """Everything that is still under way becomes visible."""
        for copy in list(self.flying):
            self.land(copy)
        for server in range(len(self.public)):
            self.sync(server)

    def land(self, copy: _Copy) -> None:
        """Carry out a part of a put or get."""
        self.flying.remove(copy)
        if copy.is_get:
            copy.target[:] = copy.source
        else:
            self.copy(copy.source, copy.target)
            self._news[copy.server] = True

    def copy(self, source: Array, target: Array) -> None:
        """Change memory."""
        if not np.array_equal(source, target):
            target[:] = source
            self.version += 1


class Endpoint:
    """One rank's transport."""

    def __init__(self, world: World, rank: int, server: int | None) -> None:
        self._world = world
        self._rank = rank
        self._server = server
        self._polled = 0

    def _turn(self) -> None:
        """Let any other rank run."""
        me = greenlet.getcurrent().parent
        assert me is not None, "an endpoint is used by its rank while World.run runs it"
        me.switch()

    def _memory(self, server: int) -> Array:
        return self._world.private[server] if server == self._server else self._world.public[server]

    def put(self, server: int, offset: int, data: Array) -> None:
        self._turn()
        flat = data.reshape(-1).view(np.uint8)
        place = self._world.public[server][offset : offset + flat.size]
        self._fly(server, [(flat[a:b], place[a:b]) for a, b in _pieces(flat.size)], False)

    def get(self, server: int, offset: int, out: Array) -> None:
        self._turn()
        flat = out.reshape(-1).view(np.uint8)
        place = self._world.public[server][offset : offset + flat.size]
        self._fly(server, [(place[a:b], flat[a:b]) for a, b in _pieces(flat.size)], True)

    def gather(self, server: int, offset: int, index: Array, out: Array) -> None:
        for piece, number in zip(out, index.tolist(), strict=True):
            self.get(server, offset + number * piece.nbytes, piece)

    def _fly(self, server: int, parts: list[tuple[Array, Array]], is_get: bool) -> None:
        for source, target in parts:
            self._world.flying.append(_Copy(self._rank, server, source, target, is_get))

    def store(self, server: int, word: int, value: int) -> None:
        self.stores(server, word, np.array([value], np.int64))

    def stores(self, server: int, word: int, values: Array) -> None:
        self._turn()
        data = np.array(values, np.int64).reshape(-1).view(np.uint8)
        place = self._memory(server)[word * WORD : word * WORD + data.size]
        if server == self._server:
            self._world.copy(data, place)
        else:  # each word whole, apart from the others
            self._fly(server, [(data[a : a + WORD], place[a : a + WORD]) for a in range(0, data.size, WORD)], False)

    def load(self, server: int, word: int) -> int:
        return self.row(server, word, 1)[0]

    def loads(self, server: int, word: int, count: int) -> Array:
        self._turn()
        if server == self._server:
            self._world.glimpse(server, word, count)
        memory = self._memory(server)[word * WORD : (word + count) * WORD].view(np.int64)
        out = np.array(memory)
        late = self._world.random.getrandbits(count) if count > 1 and self._world.random.getrandbits(1) else 0
        if late:
            self._turn()
            for i in range(count):
                if late >> i & 1:
                    out[i] = memory[i]
        return out

    def row(self, server: int, word: int, count: int) -> list[int]:
        values: list[int] = self.loads(server, word, count).tolist()
        return values

    def flush(self, server: int) -> None:
        world = self._world
        while True:
            if not any(c.rank == self._rank and c.server == server for c in world.flying):
                return
            self._turn()
            mine = [c for c in world.flying if c.rank == self._rank and c.server == server]
            if mine:
                world.land(world.random.choice(mine))

    def sync(self) -> None:
        if self._server is not None:
            self._turn()
            for part in self._world.begin_sync(self._server):
                self._world.passed(self._server, part, out=True)
                for _ in range(1 << self._world.random.randrange(8)):  # long enough for another to read many rows
                    self._turn()
            self._world.sync(self._server)

    def near(self, server: int) -> bool:
        return self._world.seed % 2 == 0  # half of all schedules have servers on the node

    def mapped(self, server: int) -> Array | None:
        return self._world.private[server] if server == self._server else None

    def populate(self, start: int, stop: int) -> None:
        """It is there."""

    def ring(self, server: int) -> None:
        """Nobody dozes."""

    def call(self, server: int) -> None:
        """Nobody sleeps."""

    def poll(self) -> None:
        self._polled = self._world.version

    def pause(self, seconds: float) -> None:
        rank = self._world.ranks[self._rank]
        rank.paused_at = self._polled if self._polled == self._world.version else -1
        self._turn()

    def listen(self, seconds: float) -> None:
        """Nobody calls."""
        self.pause(seconds)


def _pieces(size: int) -> list[tuple[int, int]]:
    half = size // 2 // WORD * WORD
    return [(0, half), (half, size)] if half else [(0, size)] if size else []
