"""Node-local reduce, `run(..., combine="node")`: the workers of a node add up their gradients, and one of them pushes the sum.

Tables with staleness 0 of float32 and float64 that were given to `run` take part. All others are pushed by every worker itself, as
ever: with staleness a push is an update of its own; a sum of two-byte gradients does not fit into two bytes (the servers add them
up in float32); and this memory is laid out before anything can be created later.

Each worker has a part of memory that the node shares: control words, and two halves (clock & 1) with room for all these tables. A
push is copied into the half of its clock and flagged (GIVEN, see `contribution`); nothing travels yet. Then `clock()`:

    The sender of a clock is the worker of lowest index on the node that takes part in it, which is: completes it, by `clock()` or
    by its end after a push. Each says that it completes clock c (CLOCK), and waits until it knows the sender, if that is not
    itself: until every worker of lower index has ended, up to one that has completed c. All but the sender are through then: for
    the servers they have pushed nothing in c, which counts as zero. The sender waits until every other worker of the node has
    completed c or has ended, adds up in the order of the workers, pushes the sums, and only then tells the servers its clock.

Why the others may not go on before they know: if all workers of lower index end before c, nobody could push what was given in c any
more, since a worker that has told the servers that it has left c is done with it.

Why a half is free when its turn comes: a worker in clock c + 2 has seen the sender of c + 1 complete that. This was the sender of c
as well, and had sent c before; or the sender of c has ended, which it says (END) after all that it had to send.

So `clock()` can wait for workers of the same node, until they call `clock()` or end. What they wait for must not be what only this
worker can give after its `clock()`: a barrier stands on the same side of `clock()` in all workers of a node. To end after a push
is a `clock()`, too.

The result is that of adding up worker by worker within a node, then node by node in the order of the senders. This is another
grouping than without `combine`, so the last bits may differ from it; for a given placement of the ranks on the nodes they are the
same in every run. A sum of finite gradients that overflows reaches the servers as Inf, as it would come to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpips.layout import align
from mpips.table import Dense, Table
from mpips.transport.base import Array
from mpips.transport.shared import Shared
from mpips.transport.words import LINE, WORD
from mpips.worker.link import Link, TableState
from mpips.worker.push import spoiled, void
from mpips.worker.rings import sending

# Control words of a worker, the first in its part
CLOCK = 0  # clocks completed
END = 1  # 1 once it has ended; its CLOCK is final then
GIVEN = LINE  # [table][half]: (clock + 1) << 1 | void of the push in this half

CHUNK = 256 << 10  # bytes that are copied and looked at, or added up, while they are in cache


def takes_part(table: Table) -> bool:
    """Whether gradients of this table are added up on the node."""
    return isinstance(table, Dense) and table.staleness == 0 and not table.half


@dataclass(frozen=True)
class Desk:
    """Where everything lies in one worker's part.

    Attributes:
        places: by number of a table that takes part, its place among those and its first byte in a half.
        control: bytes of control words.
        size: bytes of the whole part.
    """

    tables: Sequence[Table]  # all that are given to `run`
    places: dict[int, tuple[int, int]] = field(init=False)
    control: int = field(init=False)
    size: int = field(init=False)
    _region: int = field(init=False)

    def __post_init__(self) -> None:
        places: dict[int, tuple[int, int]] = {}
        used = 0
        for number, table in enumerate(self.tables):
            if takes_part(table):
                places[number] = len(places), used
                used += align(table.nbytes)
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "control", align((GIVEN + 2 * len(places)) * WORD, 4096))  # whole pages: data has its own
        object.__setattr__(self, "_region", align(used, 4096))
        object.__setattr__(self, "size", self.control + 2 * self._region)

    def at(self, number: int, half: int) -> int:
        """First byte of a table in a half."""
        return self.control + half * self._region + self.places[number][1]

    def given(self, number: int, half: int) -> int:
        """GIVEN of a table and half."""
        return GIVEN + 2 * self.places[number][0] + half


def shared_bytes(tables: Sequence[Table], workers: int) -> int:
    """Return the bytes of shared memory that `workers` workers of one node need for `combine="node"`."""
    desk = Desk(tables)
    return workers * desk.size if workers > 1 and desk.places else 0


class Neighbours:
    """This worker and the others of its node.

    Args:
        shared: what they share, `Desk.size` bytes each.
        members: their indices, ascending; in the order of `shared`.
    """

    def __init__(self, link: Link, shared: Shared, members: Sequence[int]) -> None:
        self._link = link
        self._shared = shared
        self._members = members
        self._desk = Desk(link.plan.layout.tables[: link.declared])
        self._first = link.now  # of every worker: a job with tables of staleness 0 begins in one clock

    @property
    def _mine(self) -> memoryview:
        """This worker's control words; not kept, for they would keep the memory when it has been given back."""
        return self._shared.words[self._shared.me]

    def has(self, state: TableState) -> bool:
        """Whether this table is added up on the node."""
        return state.number in self._desk.places

    def half(self, state: TableState, clock: int, member: int | None = None) -> Array:
        """Return where the gradient of a clock lies in a member's part (by default this one's): flat, of the table's dtype."""
        part, at = self._shared.parts[self._shared.me if member is None else member], self._desk.at(state.number, clock & 1)
        return part[at : at + state.table.nbytes].view(state.table.np_dtype)

    def write(self, state: TableState, gradient: Array | None, clock: int) -> bool:
        """Copy a gradient into this worker's half, looking for NaN and Inf while each piece is in cache; whether it is void."""
        values, step = self.half(state, clock), CHUNK // state.table.np_dtype.itemsize
        for at in range(0, values.size, step):
            part = values[at : at + step]
            if gradient is not None:
                part[:] = gradient[at : at + step]
            if spoiled(state.table, part):
                return void(self._link, state.table, clock)
        return False

    def give(self, states: Sequence[TableState], voids: Sequence[bool], clock: int) -> None:
        """Say that the halves of these tables are filled."""
        self._shared.sync()
        for state, skipped in zip(states, voids, strict=True):
            self._mine[self._desk.given(state.number, clock & 1)] = clock + 1 << 1 | skipped
        self._shared.sync()

    def complete(self) -> None:
        """End this worker's part in the current clock, as its sender if it is that; before the servers are told of the clock.

        Raises:
            WaitTimeout: other workers of the node do not complete it.
        """
        link, clock = self._link, self._link.now
        self._mine[CLOCK] = clock + 1
        self._shared.sync()
        self._wait(lambda: self._sends(clock) is not None, clock, self._members[: self._shared.me])
        if not self._sends(clock):
            return
        self._wait(lambda: not self._late(clock + 1), clock, self._members)
        self._shared.sync()
        sums = [(state, self._sum(state, clock)) for state in link.tables.values() if self.has(state)]
        sums = [(state, total) for state, total in sums if total is not None]
        if sums:
            group = link.group(tuple([state.table.name for state, _ in sums]))
            sending(link, group, [total for _, total in sums], sums=True).wait()

    def end(self) -> None:
        """Say that this worker is gone; what it had to send has been sent."""
        self._mine[END] = 1
        self._shared.sync()

    def _wait(self, until: Callable[[], bool], clock: int, members: Sequence[int]) -> None:
        """Wait for workers of this node to complete a clock or to end."""
        def come() -> bool:
            if until():
                return True
            self._link.hurry(clock + 1)  # who stands still for a checkpoint in this clock must come on
            return False

        self._link.wait(come, "the other workers of this node", lambda: self._behind(clock + 1, members))

    def _progress(self) -> list[tuple[int, int]]:
        """Clocks completed and END of each member; END is read first, so that the clock of one that has ended is its last."""
        self._shared.sync()
        ends = [words[END] for words in self._shared.words]
        self._shared.sync()
        return [(words[CLOCK], end) for words, end in zip(self._shared.words, ends, strict=True)]

    def _sends(self, clock: int) -> bool | None:
        """Whether this worker is the sender of a clock that it completes, None while that is not known."""
        for done, end in self._progress()[: self._shared.me]:
            if done > clock:
                return False
            if not end:
                return None
        return True

    def _late(self, clock: int) -> list[tuple[int, int]]:
        """Worker and clock of each that keeps `clock` clocks from being complete on the node."""
        return [(worker, done) for worker, (done, end) in zip(self._members, self._progress(), strict=True)
                if done < clock and not end]

    def _behind(self, clock: int, members: Sequence[int]) -> str:
        late = [f"worker {worker} is at clock {max(done, self._first)}" for worker, done in self._late(clock) if worker in members]
        return "; ".join(late) or "they have come by now"

    def _sum(self, state: TableState, clock: int) -> Array | None:
        """Add up what was given to a table, in the order of the workers, into this worker's half; None if nothing was.

        What a single worker gave is sent from where it lies.
        """
        word = self._desk.given(state.number, clock & 1)
        given = [self.half(state, clock, place) for place, words in enumerate(self._shared.words) if words[word] == clock + 1 << 1]
        if len(given) < 2:
            return given[0] if given else None
        total, step = self.half(state, clock), CHUNK // state.table.np_dtype.itemsize
        with np.errstate(over="ignore", invalid="ignore"):  # as on the servers
            for lo in range(0, total.size, step):
                at = slice(lo, lo + step)
                np.add(given[0][at], given[1][at], out=total[at])  # given[0] is this half if anything of it counts
                for more in given[2:]:
                    np.add(total[at], more[at], out=total[at])
        return total
