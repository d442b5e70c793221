"""Which rank is a server, a worker or a reader. Pure: the same arguments give the same roles on every rank.

| servers        | means                                                            |
|----------------|------------------------------------------------------------------|
| `n`            | n ranks: the first of each node, then the second of each, ...    |
| `"per-node"`   | the first rank of each node                                      |
| `(n, "first")` | ranks 0 to n-1, for jobs whose first nodes are there to serve    |

>>> assign([0, 0, 0, 1, 1, 1], servers=2)
Roles(servers=(0, 3), workers=(1, 2, 4, 5), readers=())
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mpips.errors import UsageError
from mpips.given import whole

Servers = int | str | tuple[int, str]


@dataclass(frozen=True)
class Roles:
    """World ranks by role; a rank's place in its tuple is its index in that role."""

    servers: tuple[int, ...]
    workers: tuple[int, ...]
    readers: tuple[int, ...] = ()

    @property
    def ranks(self) -> int:
        """Size of the world."""
        return len(self.servers) + len(self.workers) + len(self.readers)

    def role(self, rank: int) -> tuple[str, int]:
        """Return ("server", "worker" or "reader", its index in that role); raise ValueError for no such rank."""
        for kind, ranks in (("server", self.servers), ("worker", self.workers), ("reader", self.readers)):
            if rank in ranks:
                return kind, ranks.index(rank)
        raise ValueError(f"rank {rank} is not one of {self.ranks}")


def assign(nodes: Sequence[int], servers: Servers = 1, readers: int = 0) -> Roles:
    """Give every rank a role.

    Args:
        nodes: the node of each world rank, any numbers.
        servers: see the table above; server 0, 1, ... are numbered in the order of that table.
        readers: the last ranks that are not servers.

    Raises UsageError when the values make no sense or leave no worker.
    """
    ranks = len(nodes)
    count, order = _order(nodes, servers)
    reading = whole(readers)
    if reading is None:
        raise UsageError(f"readers={readers!r} is not a number from 0")
    if count + reading >= ranks:
        said = f"servers={servers!r}" + (f" ({count} of them)" if servers == "per-node" else "")
        raise UsageError(f"{ranks} ranks: {said} and readers={readers} leave no worker")
    chosen = tuple(order[:count])
    rest = [rank for rank in range(ranks) if rank not in set(chosen)]
    at = len(rest) - reading
    return Roles(chosen, tuple(rest[:at]), tuple(rest[at:]))


def count(servers: Servers, nodes: int) -> int:
    """Return how many servers there are on so many nodes; UsageError if that is not what `assign` takes.

    >>> count("per-node", nodes=3), count((2, "first"), nodes=3)
    (3, 2)
    """
    return _order(range(nodes), servers)[0]


def _order(nodes: Sequence[int], servers: Servers) -> tuple[int, list[int]]:
    """Return how many servers there are, and the ranks in the order in which they become one."""
    given = plain(servers)
    if isinstance(given, str):
        return len(set(nodes)), _across(nodes)
    if isinstance(given, tuple):
        return given[0], list(range(len(nodes)))
    return given, _across(nodes)


def plain(servers: Servers) -> Servers:
    """Return what says which ranks are servers, its number an int of Python; UsageError if it says nothing of the kind."""
    if isinstance(servers, str) and servers == "per-node":
        return servers
    first = isinstance(servers, tuple) and len(servers) == 2 and servers[1] == "first"
    n = whole(servers[0] if isinstance(servers, tuple) and first else servers, least=-sys.maxsize)
    if n is None:
        raise UsageError(f'servers={servers!r} is neither a number, "per-node" nor (number, "first")')
    if n < 1:
        raise UsageError(f"servers={servers!r}: at least one server is needed")
    return (n, "first") if first else n


def _across(nodes: Sequence[int]) -> list[int]:
    """Return the first rank of each node, then the second of each, ...; nodes in the order of their first rank."""
    seen: dict[int, int] = {}
    turns: list[tuple[int, int]] = []
    for rank, node in enumerate(nodes):
        seen[node] = seen.get(node, -1) + 1
        turns.append((seen[node], rank))
    first = {node: rank for rank, node in reversed(list(enumerate(nodes)))}
    return [rank for _, _, rank in sorted((turn, first[nodes[rank]], rank) for turn, rank in turns)]
