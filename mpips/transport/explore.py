"""Every interleaving of a tiny job on the model transport.

Depth first, each path run from the start: a path is the list of its decisions. A state (memory, what is under way, and for each rank
all that it has read, which with its code is where it stands) that has been seen before is not followed again.
"""

from __future__ import annotations

from collections.abc import Callable

from mpips.transport.model import World


class _Seen(Exception):
    """This state has been followed already."""


class _Path:
    """Follows given decisions, then always the first, and notes the others as paths to take."""

    def __init__(self, given: tuple[int, ...], seen: set[int], todo: list[tuple[int, ...]]) -> None:
        self._given = given
        self._seen = seen
        self._todo = todo
        self._taken: list[int] = []

    def choose(self, n: int, world: World) -> int:
        at = len(self._taken)
        if at < len(self._given):
            pick = self._given[at]
        else:
            state = world.state()
            if state in self._seen:
                raise _Seen
            self._seen.add(state)
            self._todo += [(*self._taken, other) for other in range(n - 1, 0, -1)]
            pick = 0
        self._taken.append(pick)
        return pick


def explore(build: Callable[[_Path], World], check: Callable[[World], None], limit: int = 0) -> tuple[int, int, bool]:
    """Run a job in every order; `check` looks at the end of each path and raises if something is wrong.

    Args:
        build: makes the world anew with the given chooser.
        limit: paths after which to stop, 0 for none.

    Returns:
        (paths run, states seen, whether all were).
    """
    seen: set[int] = set()
    todo: list[tuple[int, ...]] = [()]
    paths = 0
    while todo:
        if limit and paths >= limit:
            return paths, len(seen), False
        paths += 1
        world = build(_Path(todo.pop(), seen, todo))
        try:
            world.run()
        except _Seen:
            world.abandon()
            continue
        check(world)
    return paths, len(seen), True
