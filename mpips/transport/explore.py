"""Every interleaving of a tiny job, under a memory that is as weak as on MPI where that can matter.

What is free, and gone through completely:

- The order of all accesses of all ranks.
- Each word of a put (and of a server's own writing into a copy) becomes visible at any time until `flush` (or `sync`), each word of a
  get is read at any time until `flush`, apart from the others. Words that are loaded together are read like those of a get.

How that is feasible:

- *Lazily.* When a word lands is decided only when somebody reads it, before or after; what nobody reads until the flush lands there. When
  a word of a get is read is decided only when somebody writes it. So each time that can be told apart is gone through once, and
  the others not at all. (A read or write in between that touches other words would see the same memory either way.)
- *Local steps at once.* To begin a put or get touches no memory and delays nobody, so it is done together with the step before.
- *States once.* A state is the memory, what is under way and where each rank stands. A rank stands where its history of values read has
  led it, because its code is deterministic; a rank calls `point(key)` where `key` tells all of its future, so that other
  histories with the same key are one place (a server at the top of its loop, a worker between two clocks).
- *Waiting.* A rank that calls `pause` is where it was at its last `poll`: the values that it has read since did not change it. It goes
  on when one of those could now be read differently.
- *Code once.* What a rank does at a place after reading a value is run once and remembered; then exploring is table look-up.

What is left out: a server's own control words are visible to all as soon as they are stored, and it sees those of the others at once
(the "unified" model of MPI 4.1, 12.4; `mpips.transport.model` delays both). A put reads its data when it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from greenlet import greenlet

from mpips.errors import MpipsError
from mpips.transport.base import Array
from mpips.transport.model import Deadlock
from mpips.transport.plan import Plan
from mpips.transport.words import WORD

Address = tuple[int, int]  # server, word
Values = tuple[int, ...]

STAT=[0]
LOCAL = {"put", "get", "look", "poll", "point"}  # these touch no memory


class Place:
    """Where a rank stands: it is about to do `op`.

    Attributes:
        back: the place before, and what it read there; None at the start.
        next: places after, by what is read here.
        mark: the last poll; `since`: values read since then.
        point: number of the last point.
        begun: for each server, what a flush will read and write.
        reads, writes: what `op` touches; `will_read`, `will_write`: what the rank ever touches from here on. Words are bits.
    """

    __slots__ = ("addresses", "back", "begun", "mark", "next", "number", "op", "point", "reads", "since", "will_read",
                 "will_write", "writes")

    def __init__(self, number: int, op: tuple[Any, ...], back: tuple[Place, Values] | None) -> None:
        self.number = number
        self.op = op
        self.back = back
        self.next: dict[Values, Place] = {}
        self.mark: Place = self
        self.since: dict[Address, int] = {}
        self.point = number
        self.begun: dict[int, tuple[int, int]] = {}
        self.addresses: list[Address] = [(op[1], op[2] + i) for i in range(op[3])] if op[0] in ("load", "peek", "seen") else []
        self.reads = self.writes = self.will_read = self.will_write = 0


class Program:
    """One rank: a map of the places that its code can come to, drawn by running it.

    Attributes:
        grown: whether a place was found that touches what the places before it were not known to lead to.
    """

    def __init__(self, name: str, work: Callable[[Endpoint], Any], plan: Plan, server: int | None, bits: dict[Address, int]) -> None:
        self.name = name
        self.server = server
        self.grown = False
        self.runs = 0
        self._work = work
        self._plan = plan
        self._bits = bits
        self._places: list[Place] = []
        self._points: dict[Hashable, Place] = {}
        self._at: Place | None = None  # where the code that runs stands
        self._restart()
        self.start = self._place(self._op, None)

    def _restart(self) -> None:
        self.runs += 1
        self._endpoint = Endpoint(self._plan, self.server)
        self._run = greenlet(self._main)
        self._op: tuple[Any, ...] = self._run.switch()

    def _main(self) -> tuple[Any, ...]:
        try:
            return "end", self._work(self._endpoint)
        except Exception as error:  # noqa: BLE001 - it is a finding, and raised where it is reached
            return "raise", error

    def follow(self, place: Place, result: Values) -> Place:
        """Return where a rank that stands at `place` comes to when its operation gives `result`; by running it."""
        if self._at is not place:
            path = []
            at = place
            while at.back is not None:
                path.append(at.back[1])
                at = at.back[0]
            self._restart()
            for given in reversed(path):
                self._op = self._run.switch(given)
        self._op = self._run.switch(result)
        waited = place.op[0] == "pause" and self._op[0] == "poll"
        there = place.mark if waited else self._place(self._op, (place, result))
        if (there.will_read & ~place.will_read) or (there.will_write & ~place.will_write):
            self.grown = True
        self._at = place.next[result] = there
        return there

    def _place(self, op: tuple[Any, ...], back: tuple[Place, Values] | None) -> Place:
        before = back[0] if back else None
        since = _since(back)
        if op[0] == "point":
            op = ("point", (op[1](), op[2] and frozenset(since.items())), op[2])
            if op[1] in self._points:
                return self._points[op[1]]
        place = Place(len(self._places), op, back)
        self._places.append(place)
        if op[0] == "point":
            self._points[op[1]] = place
        elif before is not None:
            place.point = before.point
            if op[0] != "poll":
                place.mark = before.mark
        if op[0] != "poll" and (op[0] != "point" or op[2]):
            place.since = since
        if before is not None:
            place.begun = self._begun(before)
        self._touch(place)
        place.will_read, place.will_write = self._will(place)
        if before is not None:
            place.will_read |= before.will_read
            place.will_write |= before.will_write
            if place.will_read != before.will_read or place.will_write != before.will_write:
                self.grown = True
        return place

    def _touch(self, place: Place) -> None:
        kind, op = place.op[0], place.op
        place.reads = self._mask(place.addresses if kind != "pause" else place.since)
        if kind == "store":
            place.writes = self._mask([op[1]])
        elif kind == "flush":
            place.reads, place.writes = place.begun.get(op[1], (0, 0))

    def _begun(self, place: Place) -> dict[int, tuple[int, int]]:
        """What is under way after a place's operation."""
        op, begun = place.op, dict(place.begun)
        if op[0] == "flush":
            begun.pop(op[1], None)
        elif op[0] == "put":
            server = op[1][0][0][0]
            reads, writes = begun.get(server, (0, 0))
            begun[server] = reads, writes | self._mask([address for address, _ in op[1]])
        elif op[0] == "get":
            reads, writes = begun.get(op[1], (0, 0))
            begun[op[1]] = reads | self._mask([(op[1], op[2] + i) for i in range(op[3])]), writes
        return begun

    def _mask(self, addresses: Iterable[Address]) -> int:
        mask = 0
        for address in addresses:
            mask |= 1 << self._bits.setdefault(address, len(self._bits))
        return mask

    def _will(self, place: Place) -> tuple[int, int]:
        return (place.reads, place.writes) if self.server is None else (-1, -1)

    def foresee(self) -> None:
        """Find out for each place what the rank may touch from there on, as far as its map is drawn."""
        self.grown = False
        for place in self._places:
            place.will_read, place.will_write = self._will(place)
        changed = True
        while changed:
            changed = False
            for place in reversed(self._places):
                for there in place.next.values():
                    if (there.will_read & ~place.will_read) or (there.will_write & ~place.will_write):
                        place.will_read |= there.will_read
                        place.will_write |= there.will_write
                        changed = True


def _since(back: tuple[Place, Values] | None) -> dict[Address, int]:
    """What has been read since the last poll, after a place's operation."""
    if back is None or back[0].op[0] == "pause":
        return {}
    before, result = back
    return {**before.since, **dict(zip(before.addresses, result, strict=True))} if before.addresses else before.since


class Endpoint:
    """One rank's transport: each access is handed to the explorer, which says what it gives."""

    def __init__(self, plan: Plan, server: int | None) -> None:
        self._plan = plan
        self._server = server
        self._gets: dict[int, list[Array]] = {}
        self._flying: set[int] = set()  # servers to which something may be under way
        if server is not None:
            m = plan.maps[server]
            self._memory = np.zeros(m.size, np.uint8)
            self._copies = self._memory[m.copy(0) : m.copy(2)].view(np.int64)
            self._base = m.copy(0) // WORD
            self._shown = self._copies.tobytes()

    def _do(self, *op: Any) -> Any:
        parent = greenlet.getcurrent().parent
        assert parent is not None, "an endpoint is used by its rank while it is explored"
        if self._server is not None and self._shown != self._copies.tobytes():
            changed = np.flatnonzero(self._copies != np.frombuffer(self._shown, np.int64)).tolist()
            self._shown = self._copies.tobytes()
            self._flying.add(self._server)
            parent.switch(("put", tuple(((self._server, self._base + i), int(self._copies[i])) for i in changed)))
        return parent.switch(op)

    def point(self, key: Callable[[], Hashable], waiting: bool = False) -> None:
        """Say that all this rank will do depends on `key()` alone, and on what it reads from now on.

        Args:
            waiting: it may pause before it polls again, for a change of something that it has read before.
        """
        self._do("point", lambda: (key(), self._copies.tobytes() if self._server is not None else b""), waiting)

    def put(self, server: int, offset: int, data: Array) -> None:
        self.stores(server, offset // WORD, data.reshape(-1).view(np.int64))

    def get(self, server: int, offset: int, out: Array) -> None:
        flat = out.reshape(-1).view(np.int64)
        self._gets.setdefault(server, []).append(flat)
        self._flying.add(server)
        self._do("get", server, offset // WORD, flat.size)

    def store(self, server: int, word: int, value: int) -> None:
        if server == self._server:
            self._do("store", (server, word), value)
        else:
            self._flying.add(server)
            self._do("put", (((server, word), value),))

    def stores(self, server: int, word: int, values: Array) -> None:
        if server == self._server:
            for i, value in enumerate(values.tolist()):
                self.store(server, word + i, value)
        else:
            self._flying.add(server)
            self._do("put", tuple(((server, word + i), value) for i, value in enumerate(values.tolist())))

    def load(self, server: int, word: int) -> int:
        value: int = self._do("load", server, word, 1)[0]
        return value

    def loads(self, server: int, word: int, count: int) -> Array:
        return np.array(self.row(server, word, count), np.int64)

    def row(self, server: int, word: int, count: int) -> list[int]:
        if server == self._server:
            return list(self._do("load", server, word, count))
        self._do("look", server, word, count)
        return list(self._do("seen", server, word, count))

    def flush(self, server: int) -> None:
        if server not in self._flying:
            return
        values = self._do("flush", server)
        self._flying.discard(server)
        for out in self._gets.pop(server, []):
            out[:] = values[: out.size]
            values = values[out.size :]

    def sync(self) -> None:
        if self._server is not None and (self._server in self._flying or self._shown != self._copies.tobytes()):
            self._do("flush", self._server)
            self._flying.discard(self._server)

    def mapped(self, server: int) -> Array | None:
        if server != self._server:
            return None
        window = self._memory.view(_Window)
        window.peek = self._peek
        return window

    def _peek(self, start: int, stop: int) -> None:
        """Let the server see what lies in a part of its window that others write."""
        assert self._server is not None
        m = self._plan.maps[self._server]
        if not m.copy(0) <= start < m.copy(2):
            a, b = start // WORD, -(-stop // WORD)
            self._memory[a * WORD : b * WORD].view(np.int64)[:] = self._do("peek", self._server, a, b - a)

    def poll(self) -> None:
        self._do("poll")

    def pause(self, seconds: float) -> None:
        self._do("pause")


class _Window(np.ndarray[Any, np.dtype[Any]]):
    """A server's window as it reads it: what others write is looked up when it is sliced."""

    peek: Callable[[int, int], None]

    def __getitem__(self, part: Any) -> Any:
        plain = self.view(np.ndarray)
        if isinstance(part, slice):
            start, stop, _ = part.indices(self.size)
            if stop > start:
                self.peek(start, stop)
        return plain[part]


@dataclass(frozen=True, slots=True)
class State:
    """One moment.

    Attributes:
        memory: words that are not zero.
        puts: (rank, address, value) of each word that is under way.
        gets: (rank, whether it is a look, address, value or None while it is not read) of each word that is under way.
        hash: of the memory.
    """

    places: tuple[Place, ...]
    memory: dict[Address, int]
    puts: tuple[tuple[int, Address, int], ...]
    gets: tuple[tuple[int, bool, Address, int | None], ...]
    hash: int

    def key(self) -> int:
        """Hash of all; equal ones are taken for the same state."""
        return hash((self.hash, self.puts, self.gets, *[place.number for place in self.places]))


class Found(MpipsError):
    """A rank or a check raised; `path` names, step by step, who moved."""

    def __init__(self, path: list[str], error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error} after {len(path)} steps: {' '.join(path)}")
        self.path = path
        self.error = error


@dataclass
class Explorer:
    """Goes through all that can happen.

    Args:
        plan: of the job.
        check: looks at what the ranks returned, in their order, at each end; raises if something is wrong.
        limit: states after which to give up, 0 for none.

    Attributes:
        states, steps, ends: how many different ones there were.
    """

    plan: Plan
    check: Callable[[list[Any]], None] = lambda results: None
    limit: int = 0
    programs: list[Program] = field(default_factory=list)
    states: int = 0
    steps: int = 0
    ends: int = 0

    def __post_init__(self) -> None:
        self._bits: dict[Address, int] = {}

    def add(self, name: str, work: Callable[[Endpoint], Any], server: int | None = None) -> None:
        """Add a rank; each server runs alone up to its first `point` before anybody else begins."""
        self.programs.append(Program(name, work, self.plan, server, self._bits))

    def run(self) -> bool:
        """Go through all states; return whether they were all.

        Raises:
            Found: a rank or `check` raised, or nobody can go on.
        """
        while True:
            self.states = self.steps = self.ends = 0
            for program in self.programs:
                program.foresee()
            start = self._begin()
            seen = {start.key()}
            todo: list[tuple[State, Any]] = [(start, None)]
            while todo and not any(program.grown for program in self.programs):
                state, path = todo.pop()
                self.states += 1
                if self.limit and self.states > self.limit:
                    return False
                found = self._after(state, path)
                if not found:
                    self._end(state, path)
                self.steps += len(found)
                for rank, after in found:
                    key = after.key()
                    if key not in seen:
                        seen.add(key)
                        todo.append((after, (path, rank)))
            if not any(program.grown for program in self.programs):
                return True
            STAT[0]+=1

    def _after(self, state: State, path: Any) -> list[tuple[int, State]]:
        """States that follow a state and lead to all that can happen; see `_together`."""
        out: list[tuple[int, State]] = []
        can = [rank for rank, place in enumerate(state.places) if self._can(state, place, path)]
        some = self._together(state, can)
        while True:
            for rank in some:
                out += [(rank, after) for after in self._step(state, rank)]
            if len(some) == len(can) or all(self._on(state.places[rank], after.places[rank]) for rank, after in out):
                return out
            some = [rank for rank in can if rank not in some]  # somebody has come back to where he was: leave nobody out
            can = some

    def _on(self, before: Place, after: Place) -> bool:
        """Whether a step has not come back to where it may have come from."""
        return after.point > before.point or (after.point == before.point and after.number > before.number)

    def _can(self, state: State, place: Place, path: Any) -> bool:
        kind = place.op[0]
        if kind == "raise":
            raise Found(self._names(path), place.op[1])
        if kind == "pause":
            return _awake(state, place)
        return kind != "end"

    def _together(self, state: State, can: list[int]) -> list[int]:
        """Return ranks whose next steps nobody else can get in the way of, before one of them has moved.

        That is a persistent set (Godefroid, LNCS 1032, 1996, chapter 4) of what these ranks do next: it is enough to go on with them.
        """
        best = can
        for first in can:
            some = [first]
            for rank in some:
                reads, writes = state.places[rank].reads, state.places[rank].writes
                some += [q for q, other in enumerate(state.places) if q not in some
                         and (reads & other.will_write or writes & (other.will_read | other.will_write))]
            some = [rank for rank in some if rank in can]
            if len(some) < len(best):
                best = some
        return best

    def _begin(self) -> State:
        """Each server up to its first point, then everybody up to the first access."""
        state = State(tuple(p.start for p in self.programs), {}, (), (), 0)
        for rank, program in enumerate(self.programs):
            while program.server is not None and state.places[rank].op[0] != "point":
                state = self._do(state, rank)[0]
            state = self._local(state, rank)
        return state

    def _end(self, state: State, path: Any) -> None:
        ops = [place.op for place in state.places]
        if any(op[0] != "end" for op in ops):
            left = [f"{p.name} ({op[0]})" for p, op in zip(self.programs, ops, strict=True) if op[0] != "end"]
            raise Found(self._names(path), Deadlock("every rank waits: " + ", ".join(left)))
        self.ends += 1
        try:
            self.check([op[1] for op in ops])
        except AssertionError as error:
            raise Found(self._names(path), error) from error

    def _names(self, path: Any) -> list[str]:
        out: list[str] = []
        while path is not None:
            path, rank = path
            out.append(self.programs[rank].name)
        return out[::-1]

    def _step(self, state: State, rank: int) -> list[State]:
        """All that one rank can do next, each up to its next access."""
        return [self._local(after, rank) for after in self._do(state, rank)]

    def _local(self, state: State, rank: int) -> State:
        """Do what touches no memory at once."""
        while True:
            op = state.places[rank].op
            if op[0] not in LOCAL and not (op[0] == "flush" and not _under_way(state, rank, op[1])):
                return state
            state = self._do(state, rank)[0]

    def _do(self, state: State, rank: int) -> list[State]:
        """Carry out a rank's next operation in every way."""
        place = state.places[rank]
        op = place.op
        kind = op[0]
        if kind in ("load", "peek"):
            return [self._move(s, rank, v) for s, v in _reads(state, place.addresses)]
        if kind == "seen":
            return [self._move(s, rank, v) for s, v in _collect(state, rank, True, op[1])]
        if kind == "store":
            return [self._move(s, rank, ()) for s in _write(state, op[1], op[2])]
        if kind == "flush":
            return [self._move(done, rank, v) for s in _land(state, rank, op[1]) for done, v in _collect(s, rank, False, op[1])]
        there = self._next(place, rank, ())
        places = (*state.places[:rank], there, *state.places[rank + 1 :])
        puts, gets = state.puts, state.gets
        if kind == "put":
            puts += tuple((rank, a, v) for a, v in op[1])
        elif kind in ("get", "look"):
            gets += tuple((rank, kind == "look", (op[1], op[2] + i), None) for i in range(op[3]))
        return [State(places, state.memory, puts, gets, state.hash)]

    def _next(self, place: Place, rank: int, result: Values) -> Place:
        there = place.next.get(result)
        return there if there is not None else self.programs[rank].follow(place, result)

    def _move(self, state: State, rank: int, result: Values) -> State:
        there = self._next(state.places[rank], rank, result)
        return State((*state.places[:rank], there, *state.places[rank + 1 :]), state.memory, state.puts, state.gets, state.hash)


def _awake(state: State, place: Place) -> bool:
    """Whether something that a waiting rank has read could be read differently now."""
    memory, since = state.memory, place.since
    return any(memory.get(a, 0) != v for a, v in since.items()) or any(a in since for _, a, _ in state.puts)


def _under_way(state: State, rank: int, server: int) -> bool:
    """Whether a flush has anything to wait for."""
    return (any(r == rank and a[0] == server for r, a, _ in state.puts)
            or any(r == rank and not look and a[0] == server for r, look, a, _ in state.gets))


def _write(state: State, address: Address, value: int, without: int = -1) -> list[State]:
    """Write a word; gets of it that are under way read it before, or not yet. `without` is the put that lands with it."""
    puts = state.puts if without < 0 else state.puts[:without] + state.puts[without + 1 :]
    old = state.memory.get(address, 0)
    if value == old:
        return [State(state.places, state.memory, puts, state.gets, state.hash)]
    memory = {**state.memory, address: value}
    digest = state.hash ^ (hash((address, old)) if old else 0) ^ (hash((address, value)) if value else 0)
    if not value:
        del memory[address]
    choices = [state.gets]
    for i, (rank, look, a, captured) in enumerate(state.gets):
        if a == address and captured is None:
            choices += [(*gets[:i], (rank, look, a, old), *gets[i + 1 :]) for gets in choices]
    return [State(state.places, memory, puts, gets, digest) for gets in choices]


def _reads(state: State, addresses: Sequence[Address]) -> list[tuple[State, Values]]:
    """Read words; puts to them that are under way have landed, or not yet."""
    if not any(a in addresses for _, a, _ in state.puts):
        get = state.memory.get
        return [(state, tuple([get(a, 0) for a in addresses]))]
    out: list[tuple[State, Values]] = [(state, ())]
    for address in addresses:
        out = [(after, (*values, after.memory.get(address, 0))) for before, values in out for after in _landed(before, address)]
    return out


def _landed(state: State, address: Address) -> list[State]:
    """The state, and those in which some puts to a word have landed."""
    out = [state]
    for i, (_, a, value) in enumerate(state.puts):
        if a == address:
            for after in _write(state, address, value, i):
                out += _landed(after, address)
    return out


def _land(state: State, rank: int, server: int) -> list[State]:
    """Land all puts of a rank to a server, in any order where that makes a difference."""
    mine = [i for i, (r, a, _) in enumerate(state.puts) if r == rank and a[0] == server]
    if not mine:
        return [state]
    first = state.puts[mine[0]][1]
    out = []
    for i in mine:
        _, address, value = state.puts[i]
        if address == first:
            for after in _write(state, address, value, i):
                out += _land(after, rank, server)
    return out


def _collect(state: State, rank: int, look: bool, server: int) -> list[tuple[State, Values]]:
    """Complete a rank's gets (or its look) at a server; return the values in their order."""
    out: list[tuple[State, Values]] = [(state, ())]
    for get in [g for g in state.gets if g[0] == rank and g[1] == look and g[2][0] == server]:
        new: list[tuple[State, Values]] = []
        for before, values in out:
            i = next(i for i, g in enumerate(before.gets) if g[:3] == get[:3])
            captured = before.gets[i][3]
            rest = State(before.places, before.memory, before.puts, before.gets[:i] + before.gets[i + 1 :], before.hash)
            if captured is not None:
                new.append((rest, (*values, captured)))
            else:
                new += [(after, (*values, after.memory.get(get[2], 0))) for after in _landed(rest, get[2])]
        out = new
    return out
