"""Tables created later: no new window, no collective.

A worker writes the table's description into its spool on server 0 and raises CREATE. Server 0 gives it the next number, appends it
to the catalogue of every server and raises CATALOGUE there; each server adds the table in its spare space and raises CREATED. The
layout is a pure function of the tables in their order, so nothing else has to be said. A description is a length word and JSON.

Where cuts are clocks (see `cuts`), a table must be in a cut on all servers or on none. So it says in which clock it was asked for,
and is made when every worker has come to that clock: then it has no push of an earlier one, and belongs to later cuts.
Those wait for its creator's clock word, so it exists on all servers by then.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mpips.errors import MpipsError, UsageError
from mpips.init import Init
from mpips.optim import make
from mpips.table import Dense, Table
from mpips.transport.base import Array, Transport
from mpips.transport.plan import Plan
from mpips.transport.words import CATALOGUE, CATALOGUE_BYTES, CREATE, CREATE_DONE, CREATED, SPOOL, WORD


def encode(table: Table, since: int = -1) -> Array:
    """Return a table's description as bytes, a length word first, padded to whole words.

    Args:
        since: the clock in which it is asked for, -1 if it belongs to every cut.
    """
    if table.init.values is not None:
        raise UsageError(f"table '{table.name}': init.array is for tables that are given to run(); push to it instead")
    out = _framed(json.dumps({**table.describe(), "since": since}).encode())
    if out.size > SPOOL:
        raise UsageError(f"table '{table.name}': its description has {out.size} bytes, the limit is {SPOOL}")
    return out


def _framed(text: bytes) -> Array:
    out = np.zeros(WORD + -(-len(text) // WORD) * WORD, np.uint8)
    out[:WORD].view(np.int64)[0] = len(text)
    out[WORD : WORD + len(text)] = np.frombuffer(text, np.uint8)
    return out


def decode(memory: Array) -> tuple[Any, int]:
    """Return the JSON value at the start of `memory` and the bytes it takes."""
    n = int(memory[:WORD].view(np.int64)[0])
    return json.loads(memory[WORD : WORD + n].tobytes()), WORD + -(-n // WORD) * WORD


def table_of(described: dict[str, Any]) -> Dense:
    """Return the table that `Dense.describe` described."""
    init = described["init"]
    options = {k: described[k] for k in ("staleness", "dtype", "combine", "nonfinite", "master")}
    return Dense(described["name"], tuple(described["shape"]), make(**described["optimizer"]),
                 Init(init["kind"], init["a"], init["b"], init["seed"]), **options)


class Catalogue:
    """The server's side."""

    def __init__(self, transport: Transport, plan: Plan, index: int) -> None:
        self._transport = transport
        self._plan = plan
        self._index = index
        self._at = 0  # bytes of the catalogue that are read (and, on server 0, written)
        self._known = 0
        self._word = plan.words.peer(0) + CATALOGUE
        self._answered = [0] * plan.clients

    def answer(self, rows: list[list[int]], slowest: int) -> None:
        """On server 0: take the clients' requests, one table at a time; call it again when one has come to exist.

        Args:
            slowest: smallest clock of the live workers.
        """
        if self._index != 0:
            return
        for client in range(self._plan.clients):
            asked = rows[client][CREATE]
            if asked != self._answered[client] and self._transport.load(0, self._word) == self._known:
                self._take(client, asked, slowest)

    def _take(self, client: int, asked: int, slowest: int) -> None:
        t, words = self._transport, self._plan.words
        memory = t.mapped(0)
        assert memory is not None
        spool = self._plan.maps[0].spool(client)
        described, size = decode(memory[spool : spool + SPOOL])
        same = {table.name: table for table in self._plan.layout.tables}.get(described["name"])
        if same is None and described["since"] > slowest:
            return
        self._answered[client] = asked
        refusal = ""
        if same is not None:
            if {**same.describe(), "since": described["since"]} != described:
                refusal = f"table '{same.name}' exists already and is declared differently"
        elif self._at + size > CATALOGUE_BYTES or self._plan.fits(table_of(described)) is None:
            refusal = (f"table '{described['name']}': no spare space left for {described['shape']} {described['dtype']}; "
                       "give run(reserve=...) more bytes")
        if refusal:
            t.put(0, spool, _framed(refusal.encode()[: SPOOL - WORD]))
            t.flush(0)
        elif same is None:
            self._append(memory[spool : spool + size].copy())
        t.sync()
        t.store(0, words.reply(client) + CREATE_DONE, -asked if refusal else asked)
        t.sync()

    def _append(self, entry: Array) -> None:
        t = self._transport
        for server in range(self._plan.servers):
            t.put(server, self._plan.maps[server].catalogue + self._at, entry)
        for server in range(self._plan.servers):
            t.flush(server)
        for server in range(self._plan.servers):
            t.store(server, self._word, self._known + 1)
            t.flush(server)
            t.ring(server)

    def grow(self) -> list[tuple[int, int]]:
        """Add tables that the catalogue has and this server has not to the plan; return each one's number and `since`."""
        count = self._transport.load(self._index, self._word)
        if count == self._known:
            return []
        self._transport.sync()  # the entries stood there before the count did
        memory = self._transport.mapped(self._index)
        assert memory is not None
        base = self._plan.maps[self._index].catalogue
        new = []
        while self._known < count:
            described, size = decode(memory[base + self._at : base + CATALOGUE_BYTES])
            layout = self._plan.fits(table_of(described))
            if layout is None:
                raise MpipsError(f"table '{described['name']}' was promised room that server {self._index} does not have")
            self._plan.adopt(layout)
            self._at += size
            self._known += 1
            new.append((len(layout.tables) - 1, int(described["since"])))
        return new

    def announce(self) -> None:
        """Say that all tables of `grow` exist here."""
        self._transport.sync()
        self._transport.store(self._index, CREATED, self._known)
        self._transport.sync()
