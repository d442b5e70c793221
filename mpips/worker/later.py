"""Tables that are created later, in spare space: asking for one, and taking note of those that others have asked for.

A client writes the table's description into its spool on server 0 and raises CREATE; server 0 answers, and every server adds it
(`mpips.server.catalogue`).
"""

from __future__ import annotations

import numpy as np

from mpips.errors import UsageError
from mpips.server.catalogue import decode, encode, table_of
from mpips.table import Dense
from mpips.transport.plan import check_ring
from mpips.transport.words import CATALOGUE, CATALOGUE_BYTES, CREATE, CREATE_DONE, CREATED, SPOOL
from mpips.worker.link import Link


def adopt(link: Link) -> None:
    """Take note of tables that others have created, as far as every server has them."""
    t, plan = link.transport, link.plan
    base = plan.maps[0]
    known = len(plan.layout.tables)
    created = min(t.load(server, CREATED) for server in range(plan.servers))
    if created <= known - link.declared:
        return
    t.sync()
    room = np.empty(CATALOGUE_BYTES, np.uint8)
    t.get(0, base.catalogue, room)
    t.flush(0)
    at = 0
    for number in range(created):
        described, size = decode(room[at:])
        at += size
        if number >= known - link.declared:
            layout = plan.fits(table_of(described))
            assert layout is not None, "the servers had room"
            plan.adopt(layout)
    link.grow()


def create(link: Link, table: Dense, *, saves: bool) -> None:
    """Ask for a table unless it is there already, and wait until every server has it.

    Args:
        saves: whether there are checkpoints.
    """
    t, words = link.transport, link.plan.words
    if table.name not in link.tables:
        adopt(link)
    if table.name in link.tables and link.tables[table.name].table.describe() == table.describe():
        return
    if words.tables == link.declared:
        raise UsageError(f"table '{table.name}': there is no space to create it in; give run(reserve=...) some bytes")
    if link.plan.rings:
        check_ring(table)
        if link.combines:
            raise UsageError(f"table '{table.name}': created later where mailboxes are rings and combine='node'")
    if link.plan.lockstep and table.staleness != 0 and saves:
        raise UsageError(f"table '{table.name}': staleness {table.staleness} in a job whose checkpoints rely on staleness 0")
    link.requests += 1
    since = link.now if link.plan.lockstep and saves else -1
    entry, spool = encode(table, since), link.plan.maps[0].spool(link.index)
    t.put(0, spool, entry)
    t.flush(0)
    link.tell(0, CREATE, link.requests)
    reply = words.reply(link.index) + CREATE_DONE
    link.wait(lambda: abs(t.load(0, reply)) >= link.requests, f"table '{table.name}' to be created",
              lambda: "server 0 has not answered")
    t.sync()
    if t.load(0, reply) < 0:
        answer = np.empty(SPOOL, np.uint8)
        t.get(0, spool, answer)
        t.flush(0)
        size = int(answer[:8].view(np.int64)[0])
        raise UsageError(answer[8 : 8 + size].tobytes().decode())
    count = t.load(0, words.peer(0) + CATALOGUE)
    link.wait(lambda: all(t.load(s, CREATED) >= count for s in range(link.plan.servers)),
              f"table '{table.name}' on every server", lambda: "a server has not created it yet")
    adopt(link)
