"""A world of one process: one worker, all servers beside it, on the `local` transport."""

from __future__ import annotations

import logging
from secrets import token_hex
from typing import Any

from mpips.arrays import pick_device
from mpips.cluster.memory import check_plan
from mpips.cluster.results import decode, encode
from mpips.cluster.roles import count
from mpips.cluster.run import Job, make_worker, plan_of, restore
from mpips.errors import WaitTimeout
from mpips.trace import Trace, write
from mpips.transport.local import Local

log = logging.getLogger("mpips")


def run_alone(job: Job) -> list[Any]:
    """Run the job's worker here, stepping the servers while it waits."""
    servers = count(job.servers, nodes=1)
    if job.readers:
        log.warning("one process: the %d reader(s) are left out", job.readers)
    plan = plan_of(job, servers, 1, 0)
    check_plan(plan, list(range(servers)), shared=False)
    device = pick_device(job.device, 0)
    restored = restore(job)
    transport = Local([m.size for m in plan.maps])
    # Each server, and the worker, may come to know later tables at its own time, so each has its own plan.
    traces = [Trace(name) for name in (*(f"server {index}" for index in range(servers)), "worker 0")] if job.trace else []
    token = token_hex()
    nodes = [job.server(transport, plan_of(job, servers, 1, 0), index, restored, "", traces[index] if traces else None, token)
             for index in range(servers)]
    transport.steps = [node.step for node in nodes]
    worker = make_worker(job, transport, plan, 0, job.clocks(plan, restored)[0], device,
                         traces[-1] if traces else None)
    with job.around("worker", 0, 0):
        result = encode(job.work(worker), "result of worker 0")
    worker._end()
    for _ in range(1000):
        transport.poll()
        if all(node.finished for node in nodes):
            if job.trace:
                write(job.trace, (trace.part(number, traces[0].begin) for number, trace in enumerate(traces)))
            return [decode(result)]
    raise WaitTimeout("the servers do not come to an end though the worker has")
