"""Runs servers, workers and readers on the model transport; what the protocol's tests share."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, cast

import numpy as np
import pytest

from mpips import layout
from mpips.layout import Layout
from mpips.optim import Fold
from mpips.server import Server
from mpips.server.mailboxes import Mailboxes
from mpips.server.saving import Cut, Piece, RowPiece, RowShard, RowState
from mpips.table import Dense, Rows, Table
from mpips.transport import plan as plan_of_memory
from mpips.transport.base import Backoff
from mpips.transport.explore import Explorer
from mpips.transport.model import World
from mpips.transport.places import Endpoint, Window
from mpips.transport.plan import Plan, make_plan
from mpips.transport.shared import Shared
from mpips.transport.words import NEVER, Map, Words
from mpips.worker import Reader, Worker, row_push
from mpips.worker.group import Group
from mpips.worker.link import Link
from mpips.worker.neighbours import Desk, Neighbours

# Options of `play` that let pushes go other ways.
WAYS: dict[str, dict[str, Any]] = {
    "mailboxes": {}, "two servers": {"servers": 2}, "far": {"far": True},
    "rings": {"mailboxes": 2 * 128}, "node": {"nodes": (0, 0)},
}


def small_blocks(patch: pytest.MonkeyPatch, block: int = 64, whole: int = 64) -> None:
    """Let small tables have many blocks and lie on many servers; `block` is a multiple of a cache line, as in life."""
    patch.setattr(layout, "BLOCK", block)
    patch.setattr(layout, "WHOLE", whole)


def small_windows(patch: pytest.MonkeyPatch) -> None:
    """Let blocks be small, and rings too."""
    small_blocks(patch)
    patch.setattr(plan_of_memory, "PAGE", 64)


def small_logs(patch: pytest.MonkeyPatch) -> None:
    """Let a push of rows have several pieces, a log soon be full, and answers come a few rows at a time."""
    small_blocks(patch)
    patch.setattr(plan_of_memory, "LOG", 1 << 12)
    patch.setattr(plan_of_memory, "ANSWER", 300)
    patch.setattr(row_push, "PIECE", 200)


def build(tables: list[Dense], work: Callable[[Worker], Any], *, workers: int = 2, servers: int = 1, readers: int = 0,
          read: Callable[[Reader], Any] | None = None, seed: int = 0,
          reserve: int = 0, results: dict[str, Any] | None = None, clocks: list[int] | None = None, saver: Any = None,
          make: type[Server] = Server, mailboxes: int | None = None, nodes: Sequence[int] | None = None,
          far: bool = False, **server_options: Any) -> World:
    """Return a world with all ranks added; results appear under their names as ranks end, a server's are its pieces.

    With `nodes`, the workers with the same number add up their gradients.
    """
    def plan() -> Any:
        return make_plan(tables, servers=servers, workers=workers, readers=readers, reserve=reserve,
                         mailboxes=mailboxes, far=far)

    results = {} if results is None else results
    world = World(plan(), seed)
    ready: list[int] = []
    desk = Desk(tables)
    memory = {k: np.zeros(desk.size, np.uint8) for k in range(workers)}

    def neighbours(k: int, link: Link, transport: Any) -> Neighbours | None:
        members = [other for other in range(workers) if nodes is not None and nodes[other] == nodes[k]]
        if len(members) < 2 or not desk.places:
            return None
        parts = [memory[other] for other in members]
        return Neighbours(link, cast(Shared, _Node(world, transport, parts, members.index(k), desk.control)), members)

    def serve(index: int) -> Callable[[Any], None]:
        def go(transport: Any) -> None:
            server = make(transport, plan(), index, clocks=clocks or (), saver=saver, engine="numpy", **server_options)
            transport.sync()
            ready.append(index)
            world.version += 1
            backoff = Backoff(transport)
            while not server.finished:
                transport.poll()
                if not server.step():
                    backoff.rest()
            results[f"server {index}"] = [p for kept in map(_copied, server._store.pieces(NEVER))
                                          for p in (kept.pieces() if isinstance(kept, RowShard) else [kept])]
        return go

    def client(k: int) -> Callable[[Any], None]:
        def go(transport: Any) -> None:
            while len(ready) < servers:  # the collective start
                transport.poll()
                if len(ready) < servers:
                    transport.pause(0)
            link = Link(transport, plan(), k, (clocks or [0] * workers)[k] if k < workers else 0, 60.0)
            if k < workers:
                worker = Worker(link, saves=saver is not None, neighbours=neighbours(k, link, transport))
                results[f"worker {k}"] = work(worker)
                worker._end()
            else:
                assert read is not None
                results[f"reader {k - workers}"] = read(Reader(link))
                link.end(1)
        return go

    for s in range(servers):
        world.add(f"server {s}", serve(s), server=s)
    for k in range(workers + readers):
        world.add(f"worker {k}" if k < workers else f"reader {k - workers}", client(k))
    return world


class _Node:
    """What the workers of a node share: they see each other's stores at once, but others may run in between (`sync`)."""

    def __init__(self, world: World, transport: Any, parts: list[np.ndarray[Any, Any]], me: int, control: int) -> None:
        self._world, self._transport, self._control = world, transport, control
        self._seen = b""
        self.me, self.parts = me, parts
        self.words = [memoryview(part.data)[:control].cast("q") for part in parts]

    def sync(self) -> None:
        mine = self.parts[self.me][: self._control].tobytes()
        if mine != self._seen:  # who waits may go on
            self._seen = mine
            self._world.version += 1
        self._transport._turn()


def play(tables: list[Dense], work: Callable[[Worker], Any], **options: Any) -> dict[str, Any]:
    """Run a job to its end and return what every rank returned."""
    results: dict[str, Any] = {}
    build(tables, work, results=results, **options).run()
    return results


def _copied(piece: Piece | RowShard) -> Any:
    if isinstance(piece, RowShard):
        pieces = [RowPiece(p.table, p.ids.copy(), p.folds.copy(), p.value.copy(), {name: a.copy() for name, a in p.slots.items()})
                  for p in piece.pieces()]
        kept = {name: array.copy() for name, array in piece.state.arrays.items()}
        state = RowState(piece.state.server, dict(piece.state.counters), kept)
        return RowShard(piece.table, piece.rows, state, lambda: iter(pieces))
    slots = {name: slot.copy() for name, slot in piece.slots.items()}
    return Piece(piece.table, piece.index, piece.start, piece.stop, piece.folds, piece.value.copy(), slots)


@dataclass
class Recorder:
    """A `mpips.server.saving.Saver` in memory, as slow as a disk: it copies one piece at a time.

    Args:
        pace: steps of the server for each piece.

    Attributes:
        complete: the published cuts in their order, with each table whole.
    """

    pace: int = 1
    complete: list[tuple[Cut, dict[str, np.ndarray[Any, Any]]]] = field(default_factory=list)
    slots: list[dict[tuple[str, str], np.ndarray[Any, Any]]] = field(default_factory=list)
    folds: list[dict[tuple[str, int], int]] = field(default_factory=list)
    rows: list[dict[str, list[RowShard]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shards: dict[tuple[Cut, int], list[Any]] = {}

    def write_shard(self, cut: Cut, server: int, servers: int, pieces: Sequence[Piece | RowShard]) -> Iterator[None]:
        kept = []
        for piece in pieces:
            for _ in range(self.pace):
                yield
            kept.append(_copied(piece))
        yield
        assert (cut, server) not in self._shards, f"server {server} takes {cut} twice"
        self._shards[cut, server] = kept

    def publish(self, cut: Cut, servers: int, tables: Sequence[Table]) -> Iterator[None]:
        yield
        shards = [self._shards[cut, s] for s in range(servers)]  # a KeyError: a server took another cut
        values: dict[str, np.ndarray[Any, Any]] = {}
        slots: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
        folds: dict[tuple[str, int], int] = {}
        rows: dict[str, list[RowShard]] = {}
        for table in tables:
            if isinstance(table, Rows):
                rows[table.name] = mine = [p for shard in shards for p in shard if p.table.name == table.name]
                ids = sorted(k for kept in mine for p in kept.pieces() for k in p.ids.tolist())
                assert len(ids) == sum(kept.rows for kept in mine)
                assert len(set(ids)) == len(ids), f"{cut}: a row of {table.name} lies in two places"
                assert table.rows is None or ids == list(range(table.rows)), f"{cut}: rows of {table.name} are missing"
                continue
            pieces = sorted((p for shard in shards for p in shard if p.table.name == table.name), key=lambda p: p.start)
            if not pieces and table.size:
                continue  # created after the cut
            edges = [0, *(p.stop for p in pieces)]
            assert [p.start for p in pieces] == edges[:-1], f"{cut}: blocks of {table.name} are missing"
            assert edges[-1] == table.size, f"{cut}: blocks of {table.name} are missing"
            values[table.name] = np.concatenate([p.value for p in pieces]) if pieces else np.empty(0, table.np_dtype)
            for p in pieces:
                folds[table.name, p.index] = p.folds
            for name in pieces[0].slots if pieces else ():
                slots[table.name, name] = np.concatenate([p.slots[name] for p in pieces])
        yield
        self.complete.append((cut, values))
        self.slots.append(slots)
        self.folds.append(folds)
        self.rows.append(rows)

    def restored(self, at: int = -1) -> Recorded:
        """A checkpoint to start from."""
        return Recorded(self.complete[at][0].clocks, self.complete[at][1], self.slots[at], self.folds[at], self.rows[at])


@dataclass(frozen=True)
class Recorded:
    """A `mpips.server.saving.Restored` in memory."""

    clocks: tuple[int, ...]
    values: dict[str, np.ndarray[Any, Any]]
    slots: dict[tuple[str, str], np.ndarray[Any, Any]]
    counts: dict[tuple[str, int], int]
    shards: dict[str, list[RowShard]]

    def check(self, tables: Sequence[Table]) -> None:
        assert {t.name for t in tables} == {*self.values, *self.shards}

    def rows(self, table: Rows, server: int, servers: int) -> Iterator[RowPiece]:
        for kept in self.shards[table.name]:
            yield from kept.pieces()

    def states(self, table: Rows, server: int, servers: int) -> Iterator[RowState]:
        found = [kept.state for kept in self.shards[table.name]]
        yield from (state for state in found if len(found) != servers or state.server == server)

    def read(self, table: str, slot: str | None, start: int, stop: int) -> np.ndarray[Any, Any]:
        return (self.values[table] if slot is None else self.slots[table, slot])[start:stop].copy()

    def folds(self, table: str, index: int) -> int:
        return self.counts[table, index]

    def close(self) -> None:
        """It has no files."""


def explorer(tables: list[Dense], work: Callable[[Worker], Any], *, workers: int = 2, servers: int = 1, readers: int = 0,
             read: Callable[[Reader], Any] | None = None, limit: int = 0) -> Explorer:
    """Return an explorer of a job; `work` is called for each clock until it returns False, and keeps nothing between two."""
    def plan() -> Any:
        return make_plan(tables, servers=servers, workers=workers, readers=readers)

    def serve(index: int) -> Callable[[Any], Any]:
        def go(transport: Any) -> Any:
            server = Server(transport, plan(), index, engine="numpy")
            server._mail.__class__ = _Mailboxes
            server._mail.owner = server  # type: ignore[attr-defined]
            server._store._views = _Forgetful()
            transport.sync()
            return _serve(server, transport)
        return go

    def client(k: int) -> Callable[[Any], Any]:
        def go(transport: Any) -> None:
            link = Link(transport, plan(), k, 0, 1e9)
            if k < workers:
                worker = Worker(link)
                while work(worker) is not False:
                    transport.point(lambda: frozen(worker))
                worker._end()
            else:
                assert read is not None
                read(Reader(link))
                link.end(1)
        return go

    found = Explorer(plan(), limit=limit)
    for s in range(servers):
        found.add(f"s{s}", serve(s), server=s)
    for k in range(workers + readers):
        found.add(f"w{k}" if k < workers else f"r{k - workers}", client(k))
    return found


PLAIN = {type(None), bool, int, float, str, bytes}
def _serve(server: Server, transport: Endpoint) -> list[Piece]:
    while True:
        transport.point(lambda: frozen(server), fork=lambda: _fork(server, transport))
        transport.poll()
        if not server.step():
            if server.finished:
                return [_copied(piece) for piece in server._store.pieces(NEVER)]
            transport.pause(0)


def _fork(server: Server, transport: Endpoint) -> Callable[[], tuple[Endpoint, Callable[[Endpoint], Any]]]:
    """Keep a copy of a server, and return what makes further ones of it."""
    shared = [server._plan, *server._store.folds.values(), *server._store.blocks, *server._store.spans]  # these do not change
    kept, old = BytesIO(), transport.copy()
    pickler = _Pickler(kept, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.known = {id(thing): i for i, thing in enumerate([transport, transport._window, *shared])}
    pickler.dump(server)
    image = kept.getvalue()

    def again() -> tuple[Endpoint, Callable[[Endpoint], Any]]:
        new = old.copy()
        unpickler = _Unpickler(BytesIO(image))
        unpickler.known = [new, new._window, *shared]
        server = unpickler.load()
        return new, lambda endpoint: _serve(server, endpoint)
    return again


class _Pickler(pickle.Pickler):
    known: dict[int, int]

    def persistent_id(self, thing: Any) -> int | None:
        return self.known.get(id(thing))


class _Unpickler(pickle.Unpickler):
    known: list[Any]

    def persistent_load(self, number: int) -> Any:
        return self.known[number]


class _Forgetful(dict[int, Any]):
    """A cache that keeps nothing: each look into a mailbox is a read of its own."""

    def __setitem__(self, key: int, value: Any) -> None:
        """Keep nothing."""


class _Mailboxes(Mailboxes):
    owner: Server

    def scan(self) -> tuple[bool, bool]:
        news = super().scan()
        point = cast(Endpoint, self._transport).point
        point(lambda: (news, frozen(self.owner)), waiting=True)  # how it came to know this makes no difference
        return news


UNCHANGING = (Plan, Words, Map, Layout, Dense, Fold, Endpoint, Window, Group)


def frozen(thing: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return all that can change in an object as one hashable value, without statistics and without the memory of a window."""
    if type(thing) in PLAIN:
        return thing
    if type(thing) in (list, tuple) and PLAIN.issuperset(map(type, thing)):
        return tuple(thing)
    if isinstance(thing, UNCHANGING) or callable(thing) or id(thing) in inside:
        return type(thing).__name__
    inside = (*inside, id(thing))
    if isinstance(thing, np.ndarray):
        return thing.tobytes() if thing.base is None else None
    if isinstance(thing, dict):
        return frozenset((k, frozen(v, inside)) for k, v in thing.items() if k != "stats")
    if isinstance(thing, (set, frozenset)):
        return frozenset(thing)
    if isinstance(thing, (list, tuple, deque)):
        return tuple(frozen(v, inside) for v in thing)
    names = [n for kind in type(thing).__mro__ for n in getattr(kind, "__slots__", ())]
    return type(thing).__name__, frozen({n: getattr(thing, n) for n in names} | getattr(thing, "__dict__", {}), inside)
