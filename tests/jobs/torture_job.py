"""10 million floats are read while servers fold without pause; every block of every read must hold one value only."""

import json
import sys
import time

import numpy as np

import mpips
from mpips.layout import grid
from mpips.transport.messages import Faster

options = json.loads(sys.argv[1])
Faster.best = options["way"]
size, seconds = options["size"], options["seconds"]
cells = grid(size, 4)


def torn(values: np.ndarray) -> int:
    return sum(values[a:b].min() != values[a:b].max() for a, b in cells)


def work(ps: mpips.Worker) -> int:
    ones = np.ones(size, np.float32)
    values = np.empty(size, np.float32)
    end, bad, clocks = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        ps.push("w", ones)
        ps.clock()
        clocks += 1
        if clocks % 8 == 0:
            bad += torn(ps.pull("w", out=values))
    assert bad == 0, f"worker {ps.index} read {bad} torn blocks"
    return clocks


def read(ps: mpips.Reader) -> None:
    reads, newest, values = 0, 0.0, np.empty(size, np.float32)
    done = False
    while not done:
        done = ps.done  # what is pulled after that is final
        ps.pull("w", out=values)
        assert torn(values) == 0, "a reader read a torn block"
        assert values[0] >= newest, "a later read is older"
        if options["staleness"] == 0:
            assert values.min() == values.max(), "under BSP a table is of one clock"
        reads, newest = reads + 1, values[0]
    print(json.dumps({"reads": reads, "retries": ps.stats["retries"], "newest": float(newest)}), flush=True)


table = mpips.Dense("w", (size,), mpips.optim.Add(lr=0.0), staleness=options["staleness"])
results = mpips.run(work, [table], servers=options["servers"], readers=1, read=read, nodes=options["nodes"], device="cpu")
if results is not None:
    print(json.dumps({"clocks": results}), flush=True)
