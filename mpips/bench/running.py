"""The order of measurements: for every size rounds over all that has it, so that what disturbs the machine disturbs all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpips.bench import accuracy, limits, rivals, row_limits, row_verbs, starting, stragglers, verbs, waiting
from mpips.bench.crew import Crew, Samples
from mpips.bench.machine import describe
from mpips.bench.report import Report, rows
from mpips.cluster.agree import alike
from mpips.errors import UsageError

if TYPE_CHECKING:
    from mpi4py import MPI

GROUPS = {
    "limits": "copy, raw Put and Get, the update alone",
    "rivals": "two-sided, Allreduce, gloo",
    "verbs": "push, pull, view, round, in place; without the look for NaN and Inf",
    "optimizers": "push and round with momentum and Adam",
    "threads": "push and round where servers fold with a thread for each core",
    "staleness": "push and round with staleness 3 and none",
    "rings": "round through rings of blocks",
    "tables": "rounds of 1000 small tables",
    "rows": "push, pull and round of rows of a large table, rows that are born, a take, a two-sided server of rows",
    "start": "time to the first line of work, memory of a server",
    "idle": "a server that has nothing to do, its first answer",
    "busy": "what polling takes from workers that compute",
    "straggler": "one slow worker, and random steps",
    "accuracy": "time to accuracy of the digits model",
}
OPTIMIZERS = ("momentum", "adam")
STALENESS = (3, None)
TABLES = 10_000_000  # elements of the small tables together, at most

Piece = Callable[[Crew, int], Samples]


@dataclass(frozen=True)
class Options:
    """What is to be measured.

    Attributes:
        sizes: elements of the tables.
        groups: keys of `GROUPS`.
        repeat: rounds; one more that does not count comes first.
        servers: ranks 0 to `servers` - 1.
        rows: of the large table.
    """

    sizes: Sequence[int] = (1000, 1_000_000, 10_000_000)
    groups: Sequence[str] = tuple(GROUPS)
    repeat: int = 5
    servers: int = 1
    rows: int = 1_000_000


def measure(comm: MPI.Intracomm, options: Options, say: Callable[[str], None] = lambda line: None) -> Report | None:
    """Measure on all ranks of `comm`; return the report on the first worker (rank `options.servers`), None elsewhere. Collective.

    Args:
        say: told on the first worker what comes next.

    Raises UsageError, on every rank alike, if the ranks are too few.
    """
    if comm.size <= options.servers:
        raise alike(UsageError(f"bench: {comm.size} ranks, of which {options.servers} serve, leave no worker: "
                               "mpirun -n N mpips bench"))
    crew = Crew(comm, options.servers)
    gloo = rivals.Gloo(crew) if "rivals" in options.groups else None
    samples: Samples = {}
    notes: list[str] = [gloo.missing] if gloo and gloo.missing else []

    def keep(found: Samples) -> None:
        for case, values in crew.gather(found).items():
            samples.setdefault(case, []).extend(values)

    def announce(line: str) -> None:
        if crew.leads:
            say(line)

    largest = max(options.sizes)
    if "start" in options.groups:
        announce(f"start, {largest} elements")
        keep(starting.start(crew, largest))
    stages = [(size, "elements", _pieces(options, size, gloo)) for size in options.sizes]
    for size, unit, pieces in [*stages, (options.rows, "rows", _row_pieces(options))]:
        for turn in range(options.repeat + 1 if pieces else 0):
            announce(f"{size} {unit}, round {turn} of {options.repeat}")
            for piece in pieces:
                found = piece(crew, size)
                if turn:
                    keep(found)
    if "start" in options.groups:  # after the first rounds, so that numba is not counted as the server's memory
        keep(starting.memory(crew, largest))
    for name, call in _once(options, crew.workers):
        announce(name)
        keep(call(crew))
    if "accuracy" in options.groups:
        if accuracy.available():
            _accuracy(crew, options.repeat, keep, announce)
        else:
            notes.append("accuracy: scikit-learn is not installed")
    keep(starting.compilers(crew))
    if gloo:
        gloo.close()
    leads, workers = crew.leads, crew.workers
    crew.close()
    if not leads:
        return None
    done = {"sizes": list(options.sizes), "groups": list(options.groups), "repeat": options.repeat, "servers": options.servers,
            "workers": workers, "rows": options.rows}
    return Report(describe(), done, rows(samples, workers, options.servers), notes)


def _pieces(options: Options, size: int, gloo: rivals.Gloo | None) -> list[Piece]:
    """What is measured in turn at one size."""
    groups = options.groups
    out: list[Piece] = []
    many = OPTIMIZERS if "optimizers" in groups else ()
    if "limits" in groups:
        out += [limits.copies, limits.raw, lambda crew, n: limits.updates(crew, n, ("sgd", *many)), limits.beside]
    if "rivals" in groups:
        out += [rivals.two_sided, rivals.allreduce]
        if gloo and not gloo.missing:
            out.append(gloo.rounds)
    if "verbs" in groups:
        out += [lambda crew, n: verbs.verbs(crew, n, pulls=True), lambda crew, n: verbs.verbs(crew, n, variant="unchecked")]
    for name in many:
        out.append(lambda crew, n, name=name: verbs.verbs(crew, n, optimizer=name))  # type: ignore[misc]
    for name in ("sgd", *many) if "threads" in groups else ():
        out.append(lambda crew, n, name=name: verbs.verbs(crew, n, optimizer=name, variant="threads"))  # type: ignore[misc]
    for staleness in STALENESS if "staleness" in groups else ():
        out.append(lambda crew, n, s=staleness: verbs.verbs(crew, n, staleness=s))  # type: ignore[misc]
    if "rings" in groups:
        out.append(verbs.by_rings)
    if "tables" in groups and size == max((n for n in options.sizes if n <= TABLES), default=0):
        out.append(verbs.small_tables)
    return out


def _row_pieces(options: Options) -> list[Piece]:
    """What is measured in turn on a large table of rows."""
    if "rows" not in options.groups:
        return []
    many = ("sgd", "adagrad", "adam")
    out: list[Piece] = [row_limits.takes, lambda crew, n: row_limits.updates(crew, n, many), row_limits.two_sided,
                        lambda crew, n: row_limits.two_sided(crew, n, unsorted=True)]
    for kind in ("", "unsorted", "named"):
        out.append(lambda crew, n, kind=kind: row_verbs.verbs(crew, n, kind=kind))  # type: ignore[misc]
        out.append(lambda crew, n, kind=kind: row_verbs.verbs(crew, n, kind=kind, staleness=None))  # type: ignore[misc]
    for name in many[1:]:
        out.append(lambda crew, n, name=name: row_verbs.verbs(crew, n, optimizer=name))  # type: ignore[misc]
    return [*out, row_verbs.births]


def _once(options: Options, workers: int) -> list[tuple[str, Callable[[Crew], Samples]]]:
    """What has no size."""
    out: list[tuple[str, Callable[[Crew], Samples]]] = []
    if "idle" in options.groups:
        out.append(("idle servers", lambda crew: waiting.idle(crew, options.repeat)))
    for _ in range(options.repeat):
        if "busy" in options.groups:
            out.append(("busy machine", waiting.polling))
    for _ in range(min(options.repeat, 3)):
        if "straggler" in options.groups and workers > 1:
            out.append(("one straggler", stragglers.straggler))
            for staleness in (0, *STALENESS):
                out.append((f"random steps, staleness {staleness}",
                            lambda crew, s=staleness: stragglers.random_steps(crew, s)))  # type: ignore[misc]
    return out


def _accuracy(crew: Crew, repeat: int, keep: Callable[[Samples], None], announce: Callable[[str], None]) -> None:
    announce("time to accuracy")
    task = accuracy.Task(crew.workers)
    for turn in range(repeat + 1):
        for way in (accuracy.with_mpips, accuracy.with_two_sided, accuracy.with_allreduce):
            found = way(crew, task)
            if turn:
                keep(found)
