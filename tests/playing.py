"""Runs servers, workers and readers on the model transport; what the protocol's tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpips.server import Server
from mpips.table import Dense
from mpips.transport.base import Backoff
from mpips.transport.model import Chooser, Seeded, World
from mpips.transport.plan import make_plan
from mpips.transport.words import END
from mpips.worker import Reader, Worker
from mpips.worker.link import Link


def build(tables: list[Dense], work: Callable[[Worker], Any], *, workers: int = 2, servers: int = 1, readers: int = 0,
          read: Callable[[Reader], Any] | None = None, chooser: Chooser | None = None, seed: int = 0, weak: bool = True,
          reserve: int = 0, results: dict[str, Any] | None = None, clocks: list[int] | None = None, saver: Any = None,
          make: type[Server] = Server, **server_options: Any) -> World:
    """Return a world with all ranks added; results appear under their names as ranks end."""
    def plan() -> Any:
        return make_plan(tables, servers=servers, workers=workers, readers=readers, reserve=reserve)

    results = {} if results is None else results
    world = World(plan(), chooser or Seeded(seed), weak=weak)
    ready: list[int] = []

    def serve(index: int) -> Callable[[Any], None]:
        def go(transport: Any) -> None:
            server = make(transport, plan(), index, clocks=clocks or (), saver=saver, engine="numpy", **server_options)
            transport.sync()
            ready.append(index)
            world.version += 1
            backoff = Backoff(transport)
            while not server.finished:
                transport.poll()
                if not server.step():
                    backoff.rest()
            results[f"server {index}"] = server
        return go

    def client(k: int) -> Callable[[Any], None]:
        def go(transport: Any) -> None:
            while len(ready) < servers:  # the collective start
                transport.poll()
                if len(ready) < servers:
                    transport.pause(0)
            link = Link(transport, plan(), k, (clocks or [0] * workers)[k] if k < workers else 0, 60.0)
            if k < workers:
                worker = Worker(link, saves=saver is not None)
                results[f"worker {k}"] = work(worker)
                worker._end()
            else:
                assert read is not None
                results[f"reader {k - workers}"] = read(Reader(link))
                link.tell_all(END, 1)
        return go

    for s in range(servers):
        world.add(f"server {s}", serve(s), server=s)
    for k in range(workers + readers):
        world.add(f"worker {k}" if k < workers else f"reader {k - workers}", client(k))
    return world


def play(tables: list[Dense], work: Callable[[Worker], Any], **options: Any) -> dict[str, Any]:
    """Run a job to its end and return what every rank returned."""
    results: dict[str, Any] = {}
    build(tables, work, results=results, **options).run()
    return results
