"""Every interleaving of a tiny job, under a memory that is as weak as on MPI where that can matter.

What is free, and gone through completely:

- The order of all accesses of all ranks.
- Each word of a put (and of a server's own writing into a copy) becomes visible at any time until `flush` (or `sync`), each
  word of a get is read at any time until `flush`, apart from the others. Words that are loaded together are read like those of
  a get.

How that is feasible:

- *Lazily.* When a word lands is decided only when somebody reads it, before or after; what nobody reads until the flush lands
  there. When a word of a get is read is decided only when somebody writes it. So each time that can be told apart is gone
  through once, and the others not at all. (A read or write in between that touches other words would see the same memory either
  way.)
- *Local steps at once.* To begin a put or get touches no memory and delays nobody, so a client does it together with the step
  before, which then counts as touching those words, too.
- *States once.* A state is the memory, what is under way and where each rank stands. A rank stands where its history of values
  read has led it, because its code is deterministic; a rank calls `point(key)` where `key` tells all of its future, so that
  other histories with the same key are one place (a server at the top of its loop, a worker between two clocks).
- *Waiting.* A rank that calls `pause` is where it was at its last `poll`: the values that it has read since did not change it.
  It goes on when one of those could now be read differently.
- *Code once.* What a rank does at a place after reading a value is run once and remembered; then exploring is table look-up.

What is left out: a server's own control words are visible to all as soon as they are stored, and it sees those of the others at
once (the "unified" model of MPI 4.1, 12.4; `mpips.transport.model` delays both). A put reads its data when it begins.

How far that reaches (one core): 1 server, 2 workers, 2 blocks under BSP (staleness 0) are gone through for 1 clock in 1 s (2
thousand states) and for 2 clocks in 30 s (57 thousand); so are 1 worker and 2 clocks, staleness 0 and None, in 1 s. 2 workers
with staleness None are not: a pull that may race with folds reads its words in too many ways, and each way is a place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpips.errors import MpipsError
from mpips.transport.model import Deadlock
from mpips.transport.places import Address, Endpoint, Place, Program, Values
from mpips.transport.plan import Plan


class State:
    """One moment; never changed.

    Attributes:
        memory: words that are not zero.
        puts: (rank, address, value) of each word that is under way.
        gets: (rank, whether it is a look, address, value or None while it is not read) of each word that is under way.
        hash: of the memory.
    """

    __slots__ = ("gets", "hash", "memory", "places", "puts")

    def __init__(self, places: tuple[Place, ...], memory: dict[Address, int], puts: tuple[tuple[int, Address, int], ...],
                 gets: tuple[tuple[int, bool, Address, int | None], ...], digest: int) -> None:
        self.places = places
        self.memory = memory
        self.puts = puts
        self.gets = gets
        self.hash = digest

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
            seen: dict[int, int] = {}  # state -> ranks that sleep there
            todo = [(start, None, 0)]
            while todo and not any(program.grown for program in self.programs):
                state, path, asleep = self._along(*todo.pop())
                key = state.key()
                before = seen.get(key, -1)
                if before & ~asleep == 0:
                    continue
                seen[key] = before & asleep
                again = before & ~asleep if before >= 0 else -1  # ranks that slept at all earlier visits
                self.states += before < 0
                if self.limit and self.states > self.limit:
                    return False
                todo += self._after(state, path, asleep, again)
            if not any(program.grown for program in self.programs):
                return True

    def _after(self, state: State, path: Any, asleep: int, again: int) -> list[tuple[State, Any, int]]:
        """States that follow, with who sleeps there."""
        can = self._able(state, path)
        if not can:
            self._end(state, path)
        some = self._together(state.places, can)
        found = {rank: self._step(state, rank) for rank in some}
        if len(some) < len(can) and not all(_on(state.places[rank], s.places[rank]) for rank in some for s in found[rank]):
            found.update({rank: self._step(state, rank) for rank in can if rank not in some})  # or they might wait for ever
        out: list[tuple[State, Any, int]] = []
        for rank, states in found.items():
            if again >> rank & 1 and not asleep >> rank & 1:
                self.steps += len(states)
                still = self._asleep(state.places, asleep, rank)
                out += [(after, (path, rank), still) for after in states]
            asleep |= 1 << rank
        return out

    def _asleep(self, places: tuple[Place, ...], asleep: int, mover: int) -> int:
        """Who still sleeps after a step: what he does next would not have been told apart from doing it before that step."""
        if asleep:
            reads, writes = places[mover].reads, places[mover].writes
            for rank, place in enumerate(places):
                if asleep >> rank & 1 and (reads & place.writes or writes & (place.reads | place.writes)):
                    asleep &= ~(1 << rank)
        return asleep

    def _along(self, state: State, path: Any, asleep: int) -> tuple[State, Any, int]:
        """Go on as long as there is but one way."""
        while True:
            can = self._able(state, path)
            some = self._together(state.places, can)
            if len(some) != 1 or asleep >> some[0] & 1:
                return state, path, asleep
            after = self._step(state, some[0])
            if len(after) != 1 or not _on(state.places[some[0]], after[0].places[some[0]]):
                return state, path, asleep
            self.steps += 1
            asleep = self._asleep(state.places, asleep, some[0])
            state, path = after[0], (path, some[0])

    def _able(self, state: State, path: Any) -> list[int]:
        """Ranks that can go on."""
        can = []
        for rank, place in enumerate(state.places):
            kind = place.op[0]
            if kind == "raise":
                raise Found(self._names(path), place.op[1])
            if kind != "end" and (kind != "pause" or _awake(state, place)):
                can.append(rank)
        return can

    def _together(self, places: tuple[Place, ...], can: list[int]) -> list[int]:
        """Return ranks whose next steps nobody else can get in the way of, before one of them has moved.

        That is a persistent set (Godefroid, LNCS 1032, 1996, chapter 4) of what these ranks do next: to go on with them is enough.
        """
        best = can
        for first in can:
            some = [first]
            for rank in some:
                reads, writes = places[rank].reads, places[rank].writes
                for other, place in enumerate(places):
                    if other not in some and (reads & place.will_write or writes & place.will_touch):
                        some.append(other)
            if len(some) < len(places):
                some = [rank for rank in some if rank in can]
                if len(some) < len(best):
                    best = some
                    if len(some) == 1:
                        break
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
        """Do what belongs to the step before."""
        while state.places[rank].local:
            state = self._do(state, rank)[0]
        return state

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


def _on(before: Place, after: Place) -> bool:
    """Whether a step has not come back to where it may have come from: each circle of places has a step down in these numbers."""
    return after.point > before.point or (after.point == before.point and after.number > before.number)


def _awake(state: State, place: Place) -> bool:
    """Whether something that a waiting rank has read could be read differently now."""
    memory, since = state.memory, place.since
    return any(memory.get(a, 0) != v for a, v in since.items()) or any(a in since for _, a, _ in state.puts)


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
