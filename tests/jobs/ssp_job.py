"""Workers count each other's updates in what they pull; every read is checked against the promise of its staleness.

Table "seen" is (workers,), plain addition, and worker w adds 1 to element w in each clock. So at clock c with staleness s a worker
must find at least c - s in every element, its own clock in its own, and nobody else's above that worker's clocks.
"""

import json
import sys
import time

import numpy as np

import mpips

options = json.loads(sys.argv[1])
staleness, clocks, workers = options["staleness"], options["clocks"], options["workers"]


def work(ps: mpips.Worker) -> dict[str, int]:
    mine = np.zeros(workers, np.float32)
    mine[ps.index] = 1
    ahead = 0
    for clock in range(clocks):
        seen = ps.pull("seen")
        assert seen[ps.index] == clock, f"worker {ps.index} at clock {clock} does not see its own updates: {seen}"
        if staleness is not None:
            assert seen.min() >= clock - staleness, f"worker {ps.index} at clock {clock} read {seen}"
            assert seen.max() <= clock + staleness + 1, f"somebody is too far ahead of worker {ps.index} at clock {clock}: {seen}"
            if staleness == 0:
                assert (seen == clock).all(), f"BSP reads one version: {seen} at clock {clock}"
        ahead = max(ahead, clock - int(seen.min()))
        if ps.index == workers - 1:
            time.sleep(options["slow"])
        ps.push("seen", mine)
        ps.clock()
    return {"ahead": ahead, "last": int(ps.pull("seen")[ps.index])}


table = mpips.Dense("seen", (workers,), mpips.optim.Add(lr=0.0), staleness=staleness)
results = mpips.run(work, [table], servers=options["servers"], nodes=options["nodes"], device="cpu")
if results is not None:
    print(json.dumps(results))
