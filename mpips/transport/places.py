"""What a rank's code does, as a map of places: run once, then looked up (see `mpips.transport.explore`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
from greenlet import greenlet

from mpips.transport.base import Array
from mpips.transport.plan import Plan
from mpips.transport.words import WORD

Address = tuple[int, int]  # server, word
Values = tuple[int, ...]
Fork = Callable[[], Callable[[], tuple["Endpoint", Callable[["Endpoint"], Any]]]]


LOCAL = {"poll", "point"}  # operations that touch no memory
BEGIN = {"put", "get", "look"}  # that only begin to; of a client these, too, are done together with the step before


class Place:
    """Where a rank stands: it is about to do `op`.

    Attributes:
        back: the place before, and what it read there; None at the start.
        next: places after, by what is read here.
        mark: the last poll; `since`: values read since then.
        point: number of the last point; `fork` starts a copy of the rank from here.
        begun: for each server, what a flush will read and write.
        local: whether `op` is done together with the step before.
        own: what `op` reads and writes; `reads`, `writes`: with what is begun together with it; words are bits.
        will_write, will_touch: what the rank ever writes, or touches, from here on.
    """

    __slots__ = ("addresses", "back", "begun", "fork", "local", "mark", "next", "number", "op", "own", "point", "reads", "since",
                 "will_touch", "will_write", "writes")

    def __init__(self, number: int, op: tuple[Any, ...], back: tuple[Place, Values] | None) -> None:
        self.number = number
        self.op = op
        self.back = back
        self.next: dict[Values, Place] = {}
        self.mark: Place = self
        self.since: dict[Address, int] = {}
        self.point = number
        self.fork: Callable[[], tuple[Endpoint, Callable[[Endpoint], Any]]] | None = None
        self.begun: dict[int, tuple[int, int]] = {}
        self.addresses: list[Address] = [(op[1], op[2] + i) for i in range(op[3])] if op[0] in ("load", "peek", "seen") else []
        self.local = False
        self.own = (0, 0)
        self.reads = self.writes = self.will_write = self.will_touch = 0


class Program:
    """One rank: a map of the places that its code can come to, drawn by running it.

    Attributes:
        grown: whether a place was found that touches what the places before it were not known to lead to.
    """

    def __init__(self, name: str, work: Callable[[Endpoint], Any], plan: Plan, server: int | None,
                 bits: dict[Address, int]) -> None:
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
        self._begin(Endpoint(plan, server), work)
        self.start = self._place(self._op, None)

    def _begin(self, endpoint: Endpoint, work: Callable[[Endpoint], Any]) -> None:
        """Run code up to its first operation."""
        def main() -> tuple[Any, ...]:
            try:
                return "end", work(endpoint)
            except Exception as error:  # noqa: BLE001 - it is a finding, and raised where it is reached
                return "raise", error

        self.runs += 1
        self._run = greenlet(main)
        self._op: tuple[Any, ...] = self._run.switch()

    def _go_to(self, place: Place) -> None:
        """Let the code run to a place once more."""
        path = []
        while place.back is not None and place.fork is None:
            path.append(place.back[1])
            place = place.back[0]
        self._begin(*(place.fork() if place.fork else (Endpoint(self._plan, self.server), self._work)))
        for given in reversed(path):
            self._op = self._run.switch(given)

    def follow(self, place: Place, result: Values) -> Place:
        """Return where a rank that stands at `place` comes to when its operation gives `result`; by running it."""
        if self._at is not place:
            self._go_to(place)
        self._op = self._run.switch(result)
        waited = place.op[0] == "pause" and self._op[0] == "poll"
        there = place.mark if waited else self._place(self._op, (place, result))
        if (there.will_touch & ~place.will_touch) or (there.will_write & ~place.will_write) or _begins(place, there):
            self.grown = True
        self._at = place.next[result] = there
        return there

    def _place(self, op: tuple[Any, ...], back: tuple[Place, Values] | None) -> Place:
        before = back[0] if back else None
        since = _since(back)
        if op[0] == "point":
            fork = op[3]
            op = ("point", (op[1](), op[2] and frozenset(since.items())), op[2])
            if op[1] in self._points:
                return self._points[op[1]]
        place = Place(len(self._places), op, back)
        self._places.append(place)
        if op[0] == "point":
            self._points[op[1]] = place
            place.fork = fork and fork()
        elif before is not None:
            place.point = before.point
            if op[0] != "poll":
                place.mark = before.mark
        if op[0] != "poll" and (op[0] != "point" or op[2]):
            place.since = since
        if before is not None:
            place.begun = self._begun(before)
        self._touch(place)
        self._will(place)
        if before is not None:
            place.will_touch |= before.will_touch
            place.will_write |= before.will_write
        return place

    def _touch(self, place: Place) -> None:
        kind, op = place.op[0], place.op
        place.local = kind in LOCAL or (kind in BEGIN and self.server is None)
        reads, writes = self._mask(place.addresses if kind != "pause" else place.since), 0
        if kind == "store":
            writes = self._mask([op[1]])
        elif kind == "flush":
            reads, writes = place.begun.get(op[1], (0, 0))
        elif kind == "put":
            writes = self._mask([address for address, _ in op[1]])
        elif kind in BEGIN:
            reads = self._mask([(op[1], op[2] + i) for i in range(op[3])])
        place.own = place.reads, place.writes = reads, writes

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

    def _will(self, place: Place) -> None:
        """Before more is known: what its operation touches; of a server, all."""
        place.will_write = place.writes if self.server is None else -1
        place.will_touch = place.reads | place.will_write

    def foresee(self) -> None:
        """Find out for each place what the rank may touch from there on, as far as its map is drawn."""
        self.grown = False
        for place in self._places:
            place.reads, place.writes = place.own
            self._will(place)
        changed = True
        while changed:
            changed = False
            for place in reversed(self._places):
                for there in place.next.values():
                    if _begins(place, there):
                        place.reads |= there.reads
                        place.writes |= there.writes
                        changed = True
                    if (there.will_touch & ~place.will_touch) or (there.will_write & ~place.will_write):
                        place.will_touch |= there.will_touch
                        place.will_write |= there.will_write
                        changed = True


def _begins(place: Place, there: Place) -> bool:
    """Whether something begins together with a step that is not yet known to."""
    return there.local and bool((there.reads & ~place.reads) or (there.writes & ~place.writes))


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
        self._window: Window | None = None
        if server is not None:
            m = plan.maps[server]
            self._memory = np.zeros(m.size, np.uint8)
            self._copies = self._memory[m.copy(0) : m.copy(2)].view(np.int64)
            self._base = m.copy(0) // WORD
            self._shown = self._copies.tobytes()
            self._window = Window(self._memory, self._peek)

    def copy(self) -> Endpoint:
        """Return another one that stands where this one does, with nothing under way."""
        assert not self._gets
        assert not self._flying
        other = Endpoint(self._plan, self._server)
        if self._server is not None:
            other._memory[:] = self._memory
            other._shown = self._shown
        return other

    def _do(self, *op: Any) -> Any:
        parent = greenlet.getcurrent().parent
        assert parent is not None, "an endpoint is used by its rank while it is explored"
        if self._server is not None and self._shown != self._copies.tobytes():
            changed = np.flatnonzero(self._copies != np.frombuffer(self._shown, np.int64)).tolist()
            self._shown = self._copies.tobytes()
            self._flying.add(self._server)
            parent.switch(("put", tuple(((self._server, self._base + i), int(self._copies[i])) for i in changed)))
        return parent.switch(op)

    def point(self, key: Callable[[], Hashable], *, waiting: bool = False, fork: Fork | None = None) -> None:
        """Say that all this rank will do depends on `key()` alone, and on what it reads from now on.

        Args:
            waiting: it may pause before it polls again, for a change of something that it has read before.
            fork: called at once, returns what makes further copies of the rank as it is now: their endpoint, and the code that
                goes on with this very call. It saves running the rank from its start again and again.
        """
        self._do("point", lambda: (key(), self._copies.tobytes() if self._server is not None else b""), waiting, fork)

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
        if server == self._server or count == 1:  # the words of one look may be of different moments, one word is of one
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

    def near(self, server: int) -> bool:
        return False

    def populate(self, start: int, stop: int) -> None:
        """It is there."""

    def ring(self, server: int) -> None:
        """Nobody dozes."""

    def call(self, server: int) -> None:
        """Nobody sleeps."""

    def mapped(self, server: int) -> Array | None:
        if server != self._server:
            return None
        return self._window  # type: ignore[return-value] # all that servers do with it is to slice it

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

    def listen(self, seconds: float) -> None:
        """Nobody calls."""
        self.pause(seconds)


class Window:
    """A server's window as it reads it: what others write is looked up when it is sliced."""

    def __init__(self, memory: Array, peek: Callable[[int, int], None]) -> None:
        self._memory = memory
        self._peek = peek

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(self._memory.size)
        if stop > start:
            self._peek(start, stop)
        return self._memory[part]

    def __setitem__(self, part: slice, value: Any) -> None:
        self._memory[part] = value
