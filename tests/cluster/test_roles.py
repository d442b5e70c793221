from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.cluster.roles import Roles, assign
from mpips.errors import UsageError

NODES = st.lists(st.integers(0, 4), min_size=2, max_size=24)


@given(nodes=NODES, data=st.data())
def test_every_rank_has_one_role_and_servers_are_spread(nodes: list[int], data: st.DataObject) -> None:
    servers = data.draw(st.integers(1, len(nodes) - 1))
    readers = data.draw(st.integers(0, len(nodes) - 1 - servers))
    roles = assign(nodes, servers, readers)
    assert sorted(roles.servers + roles.workers + roles.readers) == list(range(len(nodes)))
    assert (len(roles.servers), len(roles.readers), roles.ranks) == (servers, readers, len(nodes))
    assert roles.workers
    # A node has fewer servers than another by more than one only when all its ranks serve.
    have, size = Counter(nodes[r] for r in roles.servers), Counter(nodes)
    most = max(have.values())
    assert all(have[node] >= min(most - 1, size[node]) for node in size)
    # Readers come after the workers, both in the order of their ranks.
    assert list(roles.workers + roles.readers) == sorted(roles.workers + roles.readers)
    for rank in range(len(nodes)):
        kind, index = roles.role(rank)
        assert getattr(roles, kind + "s")[index] == rank


@given(nodes=NODES)
def test_one_per_node(nodes: list[int]) -> None:
    if len(set(nodes)) == len(nodes):
        with pytest.raises(UsageError, match=r"\d+ ranks: servers='per-node' \(\d+ of them\) and readers=0 leave no"):
            assign(nodes, "per-node")
        return
    roles = assign(nodes, "per-node")
    assert set(roles.servers) == {nodes.index(node) for node in set(nodes)}


def test_the_first_rank_of_each_node_then_the_second() -> None:
    nodes = [0, 0, 0, 1, 1, 1]
    assert assign(nodes, 3) == Roles((0, 3, 1), (2, 4, 5))
    assert assign([5, 2, 5, 2], 2) == Roles((0, 1), (2, 3))
    assert assign([0, 1, 1, 1], 3) == Roles((0, 1, 2), (3,))
    assert assign(nodes, (3, "first"), readers=1) == Roles((0, 1, 2), (3, 4), (5,))
    assert assign([0, 1, 2, 2], 1, 2) == Roles((0,), (1,), (2, 3))


@pytest.mark.parametrize(("servers", "readers", "line"), [
    (4, 1, "5 ranks: servers=4 and readers=1 leave no worker"),
    (5, 0, "5 ranks: servers=5 and readers=0 leave no worker"),
    ((5, "first"), 0, "5 ranks: servers=(5, 'first') and readers=0 leave no worker"),
    (0, 0, "servers=0: at least one server is needed"),
    (-1, 0, "servers=-1: at least one server is needed"),
    (True, 0, """servers=True is neither a number, "per-node" nor (number, "first")"""),
    ("all", 0, """servers='all' is neither a number, "per-node" nor (number, "first")"""),
    ((2, "last"), 0, """servers=(2, 'last') is neither a number, "per-node" nor (number, "first")"""),
    ((2, "first", 1), 0, """servers=(2, 'first', 1) is neither a number, "per-node" nor (number, "first")"""),
    (2.0, 0, """servers=2.0 is neither a number, "per-node" nor (number, "first")"""),
    (1, -1, "readers=-1 is not a number from 0"),
    (1, "2", "readers='2' is not a number from 0"),
])
def test_what_makes_no_sense_is_one_line(servers: Any, readers: Any, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        assign([0, 0, 0, 1, 1], servers, readers)
    assert str(caught.value) == line


def test_a_rank_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="rank 9 is not one of 2"):
        assign([0, 0]).role(9)
