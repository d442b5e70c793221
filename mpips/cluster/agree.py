"""All ranks compare what must be equal before anything is built on it: versions, protocol, layout, configuration.

Nothing is unpickled and nothing waits for ever. `meet` is the only message between ranks that may run different
versions of this package, so its form does not change: rows of bytes to rank 0, all rows back.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mpips.errors import MpipsError, UsageError, WaitTimeout
from mpips.transport.words import PROTOCOL

if TYPE_CHECKING:
    from mpi4py import MPI

Array = np.ndarray[Any, np.dtype[np.uint8]]
Error = TypeVar("Error", bound=MpipsError)

LIMIT = 300.0  # seconds; the default of `run(timeout=)`
TAG = 31415
SHOWN = 12  # characters of a hash that a person wants to see
NAMED = 4  # differences, and values of one, that an error spells out


def versions() -> dict[str, str]:
    """Return the versions that all ranks must share."""
    from mpi4py import MPI

    from mpips import __version__

    name, numbers = MPI.get_vendor()
    return {"mpips": __version__, "MPI": f"{name} {'.'.join(map(str, numbers))}", "NumPy": np.__version__,
            "protocol": str(PROTOCOL)}


def agree(comm: MPI.Comm, facts: Mapping[str, str], limit: float = LIMIT) -> None:
    """Raise the same UsageError on every rank if `versions()` or `facts` differ between ranks. Collective.

    The line names each fact that differs and which ranks have which value.
    """
    mine = json.dumps({**versions(), **facts}, sort_keys=True).encode()
    digest = np.frombuffer(hashlib.sha256(mine).digest(), np.uint8)
    if len({row.tobytes() for row in meet(comm, digest, limit)}) == 1:
        return
    length = np.array([len(mine)], "<u8").view(np.uint8)
    longest = int(meet(comm, length, limit).view("<u8").max())
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: len(mine)] = np.frombuffer(mine, np.uint8)
    everyone = [json.loads(row.tobytes()) for row in meet(comm, padded, limit)]
    raise alike(UsageError(f"the ranks differ in {difference(everyone)}"))


def difference(everyone: list[dict[str, str]]) -> str:
    """Say what differs, and on which ranks it has which value.

    >>> difference([{"NumPy": "2.1"}, {"NumPy": "2.2"}, {"NumPy": "2.1"}])
    'NumPy: 2.1 on ranks 0, 2 and 2.2 on rank 1'
    """
    parts = []
    for name in sorted({name for facts in everyone for name in facts}):
        groups: dict[str, list[int]] = {}
        for rank, facts in enumerate(everyone):
            groups.setdefault(facts.get(name, "nothing"), []).append(rank)
        if len(groups) > 1:
            shown = [f"{_short(value)} on {_ranks(ranks)}" for value, ranks in groups.items()]
            parts.append(f"{name}: {' and '.join(_first(shown, 'others'))}")
    return "; ".join(_first(parts, "more"))


def _first(texts: list[str], kind: str) -> list[str]:
    """As many as a person reads, and how many are left out."""
    return texts if len(texts) <= NAMED else [*texts[:NAMED], f"{len(texts) - NAMED} {kind}"]


def spans(ranks: list[int]) -> str:
    """Write ascending numbers shortly.

    >>> spans([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def alike(error: Error) -> Error:
    """Mark an error that every rank raises, so that `abort` prints it once and lets it be caught; return it."""
    error.alike = True  # type: ignore[attr-defined]
    return error


def meet(comm: MPI.Comm, mine: Array, limit: float = LIMIT) -> Array:
    """Return everybody's `mine` (k bytes, k the same on all ranks) as rows of a (ranks, k) array. Collective.

    Raises WaitTimeout after `limit` seconds; on rank 0 it names the ranks that did not come. Small polls and naps in
    place of a blocking call, because ranks may be more than cores, and a rank may have ended without a word.
    """
    from mpi4py import MPI

    rows = np.zeros((comm.size, mine.size), np.uint8)
    rows[comm.rank] = mine
    if comm.size == 1:
        return rows
    if comm.rank == 0:
        left = set(range(1, comm.size))
        requests = [comm.Irecv(rows[r], r, TAG) for r in range(1, comm.size)]

        def arrived() -> bool:
            left.difference_update(k + 1 for k in MPI.Request.Testsome(requests) or ())
            return not left

        if not _poll(arrived, limit):
            raise WaitTimeout(f"waited {limit:g} s at the start for {_ranks(sorted(left))}")
        sends = [comm.Isend(rows, r, TAG) for r in range(1, comm.size)]
        if not _poll(lambda: MPI.Request.Testall(sends), limit):
            raise WaitTimeout(f"waited {limit:g} s at the start for the other ranks to take what all have said")
        return rows
    request = comm.Isend(mine.copy(), 0, TAG)
    answer = comm.Irecv(rows, 0, TAG)
    # Rank 0 knows who is missing: it shall be the first to complain.
    if not _poll(lambda: MPI.Request.Testall([request, answer]), limit + min(limit, 5.0)):
        raise WaitTimeout(f"waited {limit:g} s at the start for rank 0, or for those that it waits for")
    return rows


def _poll(until: Any, limit: float) -> bool:
    end = time.perf_counter() + limit
    nap = 20e-6
    while not until():
        if time.perf_counter() > end:
            return False
        time.sleep(nap)
        nap = min(2 * nap, 2e-3)
    return True


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {spans(ranks)}"


def _short(value: str) -> str:
    return value[:SHOWN] if len(value) == 64 and set(value) <= set("0123456789abcdef") else value
