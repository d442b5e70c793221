"""The verbs of this package, through `mpips.run` on the same ranks, as user code calls them.

| case            | what is timed on a worker                                                                     |
|-----------------|-----------------------------------------------------------------------------------------------|
| push            | `ipush("w", g).wait(applied=True)`: until the server has published it                             |
| push in place   | the same for a gradient that was written into the mailbox: from the end of the `with` block until a view |
|                 | of the next clock is there; writing it is the worker's computation and is not counted             |
| pull            | `pull("w", out=w)`                                                                              |
| pull fresh      | `pull("w")`: a new array, so page faults too                                                    |
| view            | `with view("w")`                                                                              |
| round           | push, clock, pull with `out=`                                                                   |
| round prepared  | the same by a handle of `prepare`                                                               |
| round in place  | gradients in place (writing them not counted), clock, view                                      |
| ... unchecked   | the same for a table with nonfinite="allow": nobody looks for NaN and Inf                       |
| ... threads     | the same where a server folds with `run(threads=)` as many threads as there are cores, at least 2: |
|                 | those of workers that wait, too                                                               |
| round of tables | push, clock, pull of many small tables together                                               |
| round by rings  | round where mailboxes are rings of 4 blocks for each worker                                     |

With several workers under staleness 0 a round has the update of all of them, so each waits for the slowest.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

from mpips.bench.crew import LR, Case, Crew, Samples, cores, gradient, steps, timed
from mpips.layout import BLOCK
from mpips.optim import make
from mpips.table import Dense
from mpips.worker import Worker

WARM = 2
VIEWS = 100  # whatever the size: it moves nothing
MANY = 1000  # small tables


def verbs(crew: Crew, size: int, *, optimizer: str = "sgd", staleness: int | None = 0, variant: str = "",
          pulls: bool = False) -> Samples:
    """Time pushes and rounds on one table, in place too where views need no copy; with `pulls` every verb.

    Args:
        variant: "unchecked", "threads", or "" for the defaults.
    """
    label = "none" if staleness is None else str(staleness)
    samples: Samples = {}

    def work(ps: Worker) -> None:
        grad, w = gradient(size), np.empty(size, np.float32)
        count = steps(size)

        def note(what: str, times: list[float]) -> None:
            samples[Case(f"{what} {variant}".rstrip(), size, optimizer, label)] = times[WARM:]
            ps.barrier()

        note("push", [_push(ps, grad) for _ in range(WARM + count)])
        note("round", [_round(ps, grad, w) for _ in range(WARM + count)])
        if staleness == 0:
            both = [_in_place(ps, grad) for _ in range(WARM + count)]
            note("push in place", [applied for applied, _ in both])
            note("round in place", [whole for _, whole in both])
        if pulls:
            note("pull", timed(lambda: ps.pull("w", out=w), WARM + count))
            note("pull fresh", timed(lambda: ps.pull("w"), WARM + count))
            note("round prepared", timed(ps.prepare({"w": grad}, out={"w": w}), WARM + count))
            note("view", timed(lambda: _look(ps), WARM + VIEWS))

    table = _table("w", size, optimizer, staleness, "allow" if variant == "unchecked" else "raise")
    crew.run(work, [table], threads=cores() if variant == "threads" else None)
    return samples


def small_tables(crew: Crew, size: int) -> Samples:
    """Time rounds of `MANY` tables that have `size` elements together."""
    many = min(MANY, size)
    cuts = [size * k // many for k in range(many + 1)]
    names = [f"w{k}" for k in range(many)]
    times: list[float] = []

    def work(ps: Worker) -> None:
        grad, w = gradient(size), np.empty(size, np.float32)
        pairs = {name: grad[lo:hi] for name, lo, hi in zip(names, cuts[:-1], cuts[1:], strict=True)}
        outs = [w[lo:hi] for lo, hi in pairwise(cuts)]

        def turn() -> None:
            ps.push(pairs)
            ps.clock()
            ps.pull(names, out=outs)

        times.extend(timed(turn, min(steps(size), 10), WARM))

    crew.run(work, [_table(name, hi - lo, "sgd", 0) for name, lo, hi in zip(names, cuts[:-1], cuts[1:], strict=True)])
    return {Case("round of tables", size, "sgd", "0"): times} if times else {}


def by_rings(crew: Crew, size: int) -> Samples:
    """Time rounds through rings, at sizes that do not fit into them."""
    room = crew.workers * 4 * BLOCK
    if 2 * crew.workers * size * 4 // crew.servers <= room:
        return {}
    times: list[float] = []

    def work(ps: Worker) -> None:
        grad, w = gradient(size), np.empty(size, np.float32)
        times.extend([_round(ps, grad, w) for _ in range(WARM + steps(size))][WARM:])

    crew.run(work, [_table("w", size, "sgd", 0)], mailboxes=room)
    return {Case("round by rings", size, "sgd", "0"): times} if times else {}


def _table(name: str, size: int, optimizer: str, staleness: int | None, nonfinite: str = "raise") -> Dense:
    return Dense(name, (size,), optimizer=make(optimizer, lr=LR), staleness=staleness, nonfinite=nonfinite)


def _push(ps: Worker, grad: object) -> float:
    begin = time.perf_counter()
    ps.ipush("w", grad).wait(applied=True)
    end = time.perf_counter()
    ps.clock()
    return end - begin


def _round(ps: Worker, grad: object, w: object) -> float:
    begin = time.perf_counter()
    ps.push("w", grad)
    ps.clock()
    ps.pull("w", out=w)
    return time.perf_counter() - begin


def _look(ps: Worker) -> None:
    with ps.view("w"):
        pass


def _in_place(ps: Worker, grad: object) -> tuple[float, float]:
    """Return the seconds of the push until applied, and of the whole round, without those of writing the gradient."""
    begin = time.perf_counter()
    with ps.gradients("w") as mine:
        ready = time.perf_counter()
        mine[...] = grad
        written = time.perf_counter()
    ps.clock()
    with ps.view("w"):
        end = time.perf_counter()
    return end - written, (ready - begin) + (end - written)
