"""A world of several processes: windows over all ranks, each in its role, results to worker 0, an end that everybody reaches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np

from mpips.arrays import pick_device
from mpips.cluster import abort
from mpips.cluster.agree import LIMIT, agree, meet
from mpips.cluster.memory import check_plan
from mpips.cluster.results import decode, encode
from mpips.cluster.roles import Roles, assign
from mpips.cluster.run import Job, make_worker, plan_of, restore
from mpips.cluster.tracing import compare, join
from mpips.cluster.world import nodes_of
from mpips.errors import UsageError
from mpips.server import Server
from mpips.trace import Trace
from mpips.transport.base import IDLE, Backoff, wait
from mpips.transport.plan import Plan
from mpips.transport.rma import Rma
from mpips.transport.shared import Shared
from mpips.transport.words import CLOCK, END
from mpips.worker import Reader
from mpips.worker.background import Background
from mpips.worker.link import Link, saving, writing
from mpips.worker.neighbours import Desk

if TYPE_CHECKING:
    from mpi4py import MPI

NIGHT = 20e-3  # seconds after which a server that dozes looks at MPI, which tells of aborts
log = logging.getLogger("mpips.server")

RESULT = 1  # tag of a worker's result
LEAST = LIMIT  # seconds, at least, for calls of MPI at start and end
PATIENCE = 12  # times as long as others those wait who have ended: for a last evaluation, for what is made of the results
FILL = 3600.0  # seconds, at least, for the servers to fill their windows: a large checkpoint may lie on a slow disk


def run_together(job: Job, world: MPI.Intracomm) -> list[Any] | None:
    """Run the job on all ranks of `world`; collective at start and end only."""
    with abort.Deadline() as deadline:
        return _together(job, world, deadline)


def _together(job: Job, world: MPI.Intracomm, deadline: abort.Deadline) -> list[Any] | None:
    from mpi4py import MPI

    limit = max(job.timeout, LEAST)
    deadline("the other ranks at the start", limit)
    comm = world.Dup()
    rank = comm.Get_rank()
    problem: UsageError | None = None
    restored = None
    nodes = nodes_of(comm)
    spread = job.nodes == "single" or len(set(nodes)) > 1
    deadline.over()
    try:
        roles = assign(nodes, job.servers, job.readers)
        plan = plan_of(job, len(roles.servers), len(roles.workers), len(roles.readers), spread)
        here = [s for s, r in enumerate(roles.servers) if nodes[r] == nodes[rank]]
        members = _members(job, nodes, roles, rank)
        check_plan(plan, here, shared=True, workers=members)
        restored = restore(job) if rank == roles.servers[0] else None
        device = pick_device(job.device, _place(nodes, roles, rank)) if rank in roles.workers else None
    except UsageError as error:
        problem = error
    abort.settle(comm, problem, limit)
    deadline("server 0, to say what to start from", limit)
    found = comm.bcast(str(restored.path) if restored else None, root=roles.servers[0])
    deadline.over()
    try:
        if found and restored is None and rank in roles.servers and job.checkpoint is not None:
            restored = job.checkpoint.at(Path(found))
    except UsageError as error:
        problem = error
    abort.settle(comm, problem, limit)
    agree(comm, {**job.facts(), "layout": plan.layout.digest()}, limit)
    deadline("the other ranks, to make the windows", limit)
    begin = (job.clocks(plan, restored), token_hex()) if rank == roles.servers[0] else None
    clocks, token = comm.bcast(begin, root=roles.servers[0])

    node = MPI.Intracomm(comm.Split(rank if job.nodes == "single" else nodes[rank], rank))
    transport = Rma(comm, node, list(roles.servers), plan.maps, spread, _fills(plan, roles, nodes, rank))
    shared = _share(job, comm, nodes, plan, members if rank in roles.workers else [])
    kind, index = roles.role(rank)
    apart = [r > 0 and (job.nodes == "single" or host != nodes[0]) for r, host in enumerate(nodes)]
    trace = Trace(f"{kind} {index}") if job.trace else None
    first = compare(comm, apart) if trace else None
    deadline.over()
    server = None
    if kind == "server":
        server = job.server(transport, plan, index, restored, MPI.Get_library_version().splitlines()[0], trace, token)
        transport.sync()
    meet(comm, np.zeros(1, np.uint8), max(limit, FILL))  # nobody looks at a window before its server has filled it
    abort.describe(lambda: f"{kind} {index}")

    results = None
    with abort.watched(lambda: _stuck(transport, job.timeout), min(job.timeout / 8, 5.0)):
        with job.around(kind, index, rank):
            if server is not None:
                _serve(server, transport, plan)
            elif kind == "worker":
                results = _work(job, comm, roles, transport, plan, index, clocks[index], device, trace, shared, members)
            else:
                _read(job, transport, plan, index, trace)
        _leave(comm, transport, plan, job.timeout)
    deadline("the other ranks, to give the windows back", limit)
    transport.close()
    deadline.over()
    if trace and job.trace:
        join(comm, trace, job.trace, first, apart,
             lambda until, what: wait(transport, until, f"{kind} {index}: {what}", lambda: "rank 0 writes it", job.timeout))
    deadline("the other ranks at the end", limit)
    if shared is not None:
        shared.close()
    node.Free()
    comm.Free()
    return results


def _place(nodes: list[int], roles: Roles, rank: int) -> int:
    """Number of a worker among the workers of its node: its GPU."""
    return sum(1 for r in roles.workers if nodes[r] == nodes[rank] and r < rank)


def _fills(plan: Plan, roles: Roles, nodes: list[int], rank: int) -> dict[int, list[tuple[int, int]]]:
    """By server, the parts of windows for which this rank gets memory: all ranks at a time, for it takes a second for a few GB."""
    kind, index = roles.role(rank)
    out = {}
    for server, place in enumerate(plan.maps):
        near = [worker for worker, r in enumerate(roles.workers) if nodes[r] == nodes[roles.servers[server]]]
        if (kind, index) == ("server", server):
            far = [worker for worker in range(plan.workers) if worker not in near]
            out[server] = place.filled() + [part for worker in far for part in place.box(worker)]
        elif kind == "worker" and index in near:
            out[server] = place.box(index)
    return out


def _members(job: Job, nodes: list[int], roles: Roles, rank: int) -> list[int]:
    """Workers of this rank's node that add up their gradients; none if there is only one."""
    if job.combine is None or job.nodes == "single":
        return []
    members = [index for index, r in enumerate(roles.workers) if nodes[r] == nodes[rank]]
    return members if len(members) > 1 else []


def _share(job: Job, comm: MPI.Intracomm, nodes: list[int], plan: Plan, members: list[int]) -> Shared | None:
    """Allocate what the workers of a node share, None where there is nothing to share; collective."""
    from mpi4py import MPI

    desk = Desk(plan.layout.tables)
    if job.combine is None or not desk.places:
        return None
    part = comm.Split(nodes[comm.Get_rank()] if members else MPI.UNDEFINED, comm.Get_rank())
    return Shared(MPI.Intracomm(part), desk.size, desk.control) if members else None


def _serve(server: Server, transport: Rma, plan: Plan) -> None:
    log.info("server %d of %d: %d blocks, %d bytes in one copy, window of %d bytes", server.index, plan.servers,
             plan.layout.slots[server.index], plan.layout.nbytes[server.index], plan.maps[server.index].size)
    backoff = Backoff(transport, IDLE)
    while not server.finished:
        transport.poll()
        if server.step() or transport.sending:
            transport.call(server.index)
            backoff.reset()
        elif not (nap := backoff.nap()) or not transport.woken:
            transport.pause(nap)
        elif transport.doze(server.index, server.step, NIGHT):
            transport.call(server.index)
            backoff.reset()
    log.info("server %d: every worker has ended", server.index)


def _work(job: Job, comm: MPI.Comm, roles: Roles, transport: Rma, plan: Plan, index: int, now: int,
          device: int | None, trace: Trace | None, shared: Shared | None, members: list[int]) -> list[Any] | None:
    background = _background(transport, plan)
    worker = make_worker(job, transport, plan, index, now, device, trace, shared, members, background)
    abort.describe(lambda: f"worker {index}, clock {worker.now}")
    result = encode(job.work(worker), f"result of worker {index}")
    if background is not None:
        background.close()  # once the worker has ended the servers need not answer
    worker._end()
    return _gather(comm, roles, transport, plan, index, result, job.timeout)


def _background(transport: Rma, plan: Plan) -> Background | None:
    """What lets transfers go on while a client computes, if a server is elsewhere and MPI allows it."""
    from mpi4py import MPI

    far = frozenset(server for server in range(plan.servers) if not transport.near(server))
    return Background(transport, far) if far and MPI.Query_thread() == MPI.THREAD_MULTIPLE else None


def _gather(comm: MPI.Comm, roles: Roles, transport: Rma, plan: Plan, index: int, mine: bytes, limit: float) -> list[Any] | None:
    """Send results to worker 0, which returns them in the workers' order."""
    from mpi4py import MPI

    if index > 0:
        request = comm.Isend([np.frombuffer(mine, np.uint8), MPI.BYTE], roles.workers[0], RESULT)
        _wait_at_the_end(transport, plan, request.Test, f"worker {index}: worker 0 to take the result", limit)
        return None
    parts: dict[int, bytes] = {0: mine}
    status = MPI.Status()

    def arrived() -> bool:
        if comm.Iprobe(MPI.ANY_SOURCE, RESULT, status):
            source = status.Get_source()
            data = np.empty(status.Get_count(MPI.BYTE), np.uint8)
            receive = comm.Irecv([data, MPI.BYTE], source, RESULT)
            wait(transport, receive.Test, f"the result of rank {source}", lambda: "it has begun to send", limit)
            parts[roles.workers.index(source)] = data.tobytes()
        return len(parts) == len(roles.workers)

    _wait_at_the_end(transport, plan, arrived, "worker 0: the results of the other workers", limit)
    return [decode(parts[k]) for k in range(len(roles.workers))]


def _read(job: Job, transport: Rma, plan: Plan, index: int, trace: Trace | None) -> None:
    assert job.read is not None
    background = _background(transport, plan)
    link = Link(transport, plan, plan.workers + index, 0, job.timeout, trace=trace, background=background)
    job.read(Reader(link))
    if background is not None:
        background.close()
    link.end(1)


def _leave(comm: MPI.Comm, transport: Rma, plan: Plan, limit: float) -> None:
    """Meet everybody without blocking."""
    request = comm.Ibarrier()
    _wait_at_the_end(transport, plan, request.Test, "the end of all ranks", limit)


def _wait_at_the_end(transport: Rma, plan: Plan, until: Callable[[], bool], what: str, limit: float) -> None:
    """Wait; the limit begins anew as long as somebody works, or writes a checkpoint."""
    begin = time.perf_counter()

    def life() -> object:
        clocks = _clocks(transport, plan)
        # Nothing is seen of a client that is in the user's own code.
        given = 0 if all([end for _, end in clocks]) else min(int(2 * (time.perf_counter() - begin) / limit), 2 * PATIENCE)
        return clocks, given, saving(transport, plan)

    wait(transport, until, what, lambda: _running(transport, plan), limit, life)


def _stuck(transport: Rma, limit: float) -> str:
    """Say for which server a flush has waited longer than the limit, "" if for none."""
    server, since = transport.flushing or (0, np.inf)
    late = time.perf_counter() - since > limit
    return f"waited {limit:g} s for server {server}, which neither takes nor gives data: it does not answer" if late else ""


def _clocks(transport: Rma, plan: Plan) -> list[list[int]]:
    """Clocks and ends of all clients on server 0."""
    return [transport.row(0, plan.words.client(k) + CLOCK, END - CLOCK + 1) for k in range(plan.clients)]


def _running(transport: Rma, plan: Plan) -> str:
    left = [k for k, (_, end) in enumerate(_clocks(transport, plan)) if not end]
    names = [f"worker {k}" if k < plan.workers else f"reader {k - plan.workers}" for k in left]
    names += [f"server {server}, which is writing a checkpoint" for server in writing(transport, plan)]
    return f"still at work: {', '.join(names)}" if names else "a server has not come to its end"


