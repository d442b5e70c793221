"""A job that goes wrong in the way its argument says; prints the time at which it does."""

import json
import os
import sys
import time

import numpy as np

import mpips
from mpips.server import folding

how = json.loads(sys.argv[1])


def now(what: str) -> None:
    print(json.dumps({"what": what, "at": time.time()}), flush=True)


class Deliberate(Exception):
    """What the tests look for in the traceback."""


def fail(where: str) -> None:
    if how["where"] == where:
        now(where)
        raise Deliberate(where)


def work(ps: mpips.Worker) -> object:
    for clock in range(how.get("clocks", 20)):
        w = ps.pull("w")
        if clock == 5 and ps.index == 1:
            fail("worker")
            if how["where"] == "shape":
                now("shape")
                ps.push("w", np.ones(3, np.float32))
            if how["where"] == "dtype":
                now("dtype")
                ps.push("w", w.astype(np.float64))
            if how["where"] == "unknown":
                now("unknown")
                ps.push("v", w)
            if how["where"] == "nan":
                w[3] = np.nan
                now("nan")
            if how["where"] == "sleep":
                now("sleep")
                time.sleep(600)
            if how["where"] == "nested":
                now("nested")
                mpips.run(work, [])
            if how["where"] == "exit":
                now("exit")
                sys.exit(7)
        ps.push("w", w)
        ps.clock()
    if how["where"] == "result" and ps.index == 1:
        now("result")
        return object()
    return None


def read(ps: mpips.Reader) -> None:
    ps.pull("w")
    fail("reader")
    while not ps.done:
        ps.pull("w")


fold_span = folding.fold_span


def failing_fold(*args: object) -> int:
    fail("server")
    return fold_span(*args)  # type: ignore[arg-type]


import mpips.server.server as server  # noqa: E402

server.fold_span = failing_fold  # type: ignore[assignment]

rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
if rank == 1:
    fail("before")
size = 11 if how["where"] == "differs" and rank == 2 else 10
table = mpips.Dense("w", (size,), mpips.optim.SGD(lr=0.1), nonfinite=how.get("nonfinite", "raise"))
mpips.run(work, [table], servers=how.get("servers", 1), readers=1, read=read, timeout=how.get("timeout", 60.0), device="cpu",
          nodes=how.get("nodes", "real"))
if rank == 2:
    fail("after")
