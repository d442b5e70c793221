"""MPI one-sided windows (MPI 4.1, chapter 12; passive target, one `Lock_all` for their whole life).

On each node one shared window holds the memory of the servers of that node: data and control words move by plain loads and stores
(MPI 4.1, 12.4 "unified" model, ordered by `Win.Sync`), in large pages where Linux gives them (`pages`). If the world spans nodes, a
second window lies over the same memory for the ranks elsewhere, and everything goes by Put, Get and Flush. Only these calls:
accumulate operations and exclusive locks can stay locked by a rank that was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mpips.transport.base import Array, Backoff, nap, take
from mpips.transport.doze import Futex, futex
from mpips.transport.messages import LEAST, Faster, Messages
from mpips.transport.pages import Pages
from mpips.transport.shared import allocate
from mpips.transport.words import ASLEEP, BELL, CALL, WAITED, WORD, Map

if TYPE_CHECKING:
    from mpi4py import MPI

LONGEST = 1 << 30  # bytes of one call: Open MPI has no RMA of more than 2^31 - 1 elements
RING = 1024  # control words that may be on their way


class Rma:
    """A process's windows on all servers.

    Args:
        comm: all ranks.
        node: the ranks of this node (a communicator of its own for each node).
        servers: world rank of each server.
        maps: of each server's window.
        fills: by server, parts of the windows of this node for which this process gets memory at once.
        spread: whether some rank must reach a server from another node.

    Attributes:
        flushing: the server elsewhere that a flush, put or get waits for, and since when; none of these has a limit of its own.
        sending: whether this server sends something that was asked for.
        woken: whether everybody rings who writes to this server; who is elsewhere does not.
    """

    def __init__(self, comm: MPI.Intracomm, node: MPI.Intracomm, servers: Sequence[int], maps: Sequence[Map], spread: bool,
                 fills: Mapping[int, Sequence[tuple[int, int]]] | None = None) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._byte = MPI.BYTE
        self.comm = comm
        me = comm.Get_rank()
        self._near = allocate(node, maps[servers.index(me)].size if me in servers else 0)
        here = _members(comm, node)
        self._bytes: list[Array | None] = [None] * len(servers)
        self._bells: list[Futex | None] = [None] * len(servers)
        words = maps[0].words
        self._asleep, self._waited = words.server + ASLEEP, words.bell + WAITED
        self._calls: Futex | None = None
        self._called = -1  # CALL when this client last began to listen: never
        self._serves = me in servers
        self._rings = me
        self._words: list[memoryview | None] = [None] * len(servers)
        self._longs: list[Array | None] = [None] * len(servers)  # the same as an array
        self._pages: Pages | None = None  # of this server
        for s, rank in enumerate(servers):
            if rank in here:
                pages = Pages(self._near.Shared_query(here[rank])[0], maps[s].size)
                for start, stop in (fills or {}).get(s, ()):  # before a network pins them, as it does where a window is created
                    pages.populate(start, stop)
                if rank == me:
                    self._pages = pages
                self._bytes[s] = memory = pages.memory
                self._longs[s] = longs = memory[: memory.size // WORD * WORD].view(np.int64)
                self._words[s] = longs.data
                self._bells[s] = futex(memory, words.bell + BELL)
                if self._calls is None:
                    self._calls = futex(memory, words.bell + CALL)
        self._far: MPI.Win | None = None
        self._messages: Messages | None = None
        if spread:
            own = None
            if me in servers:  # as MPI has mapped it, which lasts as long as the window
                buffer: Any = self._near.Shared_query(here[me])[0]
                own = np.frombuffer(buffer, np.uint8)[: maps[servers.index(me)].size]
            self._far = MPI.Win.Create(own, 1, comm=comm)
            self._messages = Messages(MPI.Intracomm(comm.Dup()), own)
        self._route: list[tuple[Any, int]] = []
        for s, rank in enumerate(servers):
            self._route.append((self._near, here[rank]) if self._words[s] is not None else (self._far, rank))
        # A poll of MPICH moves one fragment of a large message (measured: 4 MB take as many polls as it has 16 KB pieces).
        self._burst = 64 if spread and me in servers else 1
        self._windows = [w for w in (self._near, self._far) if w is not None]
        for window in self._windows:
            window.Lock_all(MPI.MODE_NOCHECK)
        self.sync: Callable[[], None] = self._sync if spread else self._near.Sync  # a small fold has nine of them
        self._ring = np.zeros(RING, np.int64)
        self._at = 0
        self._owing: set[int] = set()
        self._faster = Faster()  # way 0 is Get, 1 is a message
        self._reads: dict[int, tuple[int, float, int]] = {}  # by server elsewhere, large ones: their way, begin and bytes
        self.flushing: tuple[int, float] | None = None
        self.woken = not spread and me in servers and self._bells[servers.index(me)] is not None
        self.sending = False

    def put(self, server: int, offset: int, data: Array) -> None:
        memory = self._bytes[server]
        if memory is not None:
            memory[offset : offset + data.nbytes] = data.reshape(-1).view(np.uint8)
            return
        window, rank = self._route[server]
        size, byte = data.nbytes, self._byte
        self._waits(server)
        if size <= LONGEST and data.dtype.isbuiltin == 1:  # MPI takes it as it is: views cost more than the call
            window.Put([data, size, byte], rank, (offset, size, byte))
        else:
            for at, part in _pieces(offset, data):
                window.Put([part, part.size, byte], rank, (at, part.size, byte))
        self.flushing = None

    def get(self, server: int, offset: int, out: Array) -> None:
        memory = self._bytes[server]
        if memory is not None:
            out.reshape(-1).view(np.uint8)[:] = memory[offset : offset + out.nbytes]
            return
        window, rank = self._route[server]
        size, byte = out.nbytes, self._byte
        if size >= LEAST:
            way, begin, nbytes = self._reads.get(server) or (self._faster.best, time.perf_counter(), 0)
            self._reads[server] = way, begin, nbytes + size
            if way:
                assert self._messages is not None
                for at, part in _pieces(offset, out):
                    self._messages.get(rank, at, part)
                return
        self._waits(server)
        if size <= LONGEST and out.dtype.isbuiltin == 1:
            window.Get([out, size, byte], rank, (offset, size, byte))
        else:
            for at, part in _pieces(offset, out):
                window.Get([part, part.size, byte], rank, (at, part.size, byte))
        self.flushing = None

    def _waits(self, server: int) -> None:
        """Note that a call of MPI begins that may wait for this server; of Open MPI a Put may, when much is on its way."""
        if self._bytes[server] is None:
            self.flushing = server, time.perf_counter()

    def gather(self, server: int, offset: int, index: Array, out: Array) -> None:
        memory = self._bytes[server]
        assert memory is not None, "servers elsewhere are asked for rows, see `mpips.worker.row_ask`"
        take(memory, offset, index, out)

    def store(self, server: int, word: int, value: int) -> None:
        words = self._words[server]
        if words is not None:
            words[word] = value
        else:
            self.stores(server, word, np.array([value], np.int64))

    def stores(self, server: int, word: int, values: Array) -> None:
        own = self._longs[server]
        if own is not None:
            own[word : word + values.size] = values
            return
        if values.size > RING:  # rarely: a thousand tables pushed at once
            kept = np.array(values, np.int64)
            self.put(server, word * WORD, kept)
            self.flush(server)
            return
        if self._at + values.size > RING:  # the ring's words must stay until they have left
            for owed in self._owing:
                self.flush(owed)
            self._owing.clear()
            self._at = 0
        origin = self._ring[self._at : self._at + values.size]
        origin[:] = values
        self._at += values.size
        self._owing.add(server)
        self.put(server, word * WORD, origin)

    def load(self, server: int, word: int) -> int:
        words = self._words[server]
        if words is not None:
            return words[word]
        return int(self.loads(server, word, 1)[0])

    def loads(self, server: int, word: int, count: int) -> Array:
        own = self._longs[server]
        if own is not None:
            return np.array(own[word : word + count])
        out = np.empty(count, np.int64)
        self.get(server, word * WORD, out)
        self.flush(server)
        return out

    def row(self, server: int, word: int, count: int) -> list[int]:
        words = self._words[server]
        if words is not None:
            return words[word : word + count].tolist()
        return [int(v) for v in self.loads(server, word, count)]

    def flush(self, server: int) -> None:
        window, rank = self._route[server]
        self._waits(server)
        window.Flush(rank)
        if server in self._reads:
            assert self._messages is not None
            way, begin, nbytes = self._reads.pop(server)
            backoff = Backoff(self)  # a flush would keep a core busy, which may be the one that computes meanwhile
            while way and not self._messages.arrived(rank):
                backoff.rest()
            self._faster.took(way, time.perf_counter() - begin, nbytes)
        self.flushing = None

    def _sync(self) -> None:
        for window in self._windows:
            window.Sync()

    def near(self, server: int) -> bool:
        return self._words[server] is not None

    def mapped(self, server: int) -> Array | None:
        return self._bytes[server]

    def populate(self, start: int, stop: int) -> None:
        if self._pages is not None:
            self._pages.populate(start, stop)

    def ring(self, server: int) -> None:
        words, bell = self._words[server], self._bells[server]
        if words is None or bell is None:
            return
        self._near.Sync()
        if words[self._asleep]:
            self._rings += self.comm.size  # a value that nobody else rings with
            bell.wake(self._rings)

    def call(self, server: int) -> None:
        words = self._words[server]
        if words is None or self._calls is None:
            return
        self._near.Sync()
        if words[self._waited]:
            words[self._waited] = 0
            self._near.Sync()
            self._rings += self.comm.size
            self._calls.wake(self._rings)

    def doze(self, server: int, look: Callable[[], bool], seconds: float) -> bool:
        """Sleep as this server until somebody rings, unless `look()` finds something; return whether it did or somebody has.

        Only where it is `woken`.
        """
        words, bell = self._words[server], self._bells[server]
        assert words is not None
        assert bell is not None
        before = bell.value
        words[self._asleep] = 1
        self._near.Sync()
        found = look()
        if not found:
            bell.wait(before, seconds)
        words[self._asleep] = 0
        self._near.Sync()
        return found or bell.value != before

    def poll(self) -> None:
        for _ in range(self._burst):
            self.comm.Iprobe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG)
        if self._messages is not None:
            self.sending = self._messages.serve()

    def pause(self, seconds: float) -> None:
        nap(seconds)

    def listen(self, seconds: float) -> None:
        if not seconds or self._calls is None or self._serves:
            nap(seconds)
            return
        self._calls.wait(self._called, seconds)  # not at all if somebody has called: what was looked at since may be old
        self._called = self._calls.value
        for words in self._words:
            if words is not None:
                words[self._waited] = 1
        self._near.Sync()

    def close(self) -> None:
        """Give the windows back; collective, so only after all ranks are known to come."""
        self._pages = None
        self._bytes = []
        self._words = []
        self._longs = []
        self._bells = []
        self._calls = None
        for window in self._windows:
            window.Unlock_all()
        for window in reversed(self._windows):
            window.Free()
        if self._messages is not None:
            self._messages.close()
            self._messages = None  # others still wait by `poll`


def _pieces(offset: int, data: Array) -> Iterator[tuple[int, Array]]:
    """Yield the bytes of contiguous `data`, whose place is `offset`, in pieces that one call takes, each after its own offset."""
    flat = data.reshape(-1).view(np.uint8)
    for at in range(0, flat.size, LONGEST):
        yield offset + at, flat[at : at + LONGEST]


def _members(comm: MPI.Comm, node: MPI.Comm) -> dict[int, int]:
    """World rank to node rank, for the ranks of this node."""
    world_group, node_group = comm.Get_group(), node.Get_group()
    ranks = list(range(node.Get_size()))
    world = node_group.Translate_ranks(ranks, world_group)
    world_group.Free()
    node_group.Free()
    return {int(w): n for n, w in zip(ranks, world, strict=True)}
