"""Jobs with combine="node", one after the other in one group of processes; worker 0 prints a line of JSON for each.

Arguments: a JSON list of objects with servers, clocks (of each worker) and optionally nodes (of each rank, in place of the real
ones), pull (whether each step pulls), slow (a worker), silent (workers that end after a last push without `clock()`), save (a
clock), every, directory, resume, mixed (tables with staleness and one that is created beside the others), combine.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import workload

import mpips
from mpips.cluster import together

STALE = {"ssp": 1, "asp": None}


def push(ps: mpips.Worker, gradients: dict[str, Any], turn: int) -> None:
    """Push all, by changing verbs; what reaches the servers is the same."""
    last = {}
    handles = []
    for k, (name, g) in enumerate(gradients.items()):
        how = (k + turn) % 5
        if how == 0 and g.itemsize > 2:
            ps.push(name, g / 2, more=True)
            ps.push(name, g / 2)
        elif how == 1:
            with ps.gradients(name) as out:
                out[...] = g
        elif how == 2:
            handles.append(ps.ipush(name, g))
        else:
            last[name] = g
    ps.push(last)
    for handle in handles[::2]:  # the others are left to clock()
        handle.wait()


def one(options: dict[str, Any]) -> None:
    tables = [*workload.tables(), *workload.skipping()]
    names = [t.name for t in tables]
    stale = [mpips.Dense(name, (700,), mpips.optim.Add(), staleness=s) for name, s in STALE.items()] if options.get("mixed") else []
    late = mpips.Dense("late", (50, 50), mpips.optim.Add())
    silent = options.get("silent", [])
    if "nodes" in options:
        together.nodes_of = lambda comm: options["nodes"]

    def work(ps: mpips.Worker) -> dict[str, Any]:
        draw = random.Random(ps.index)
        last = options["clocks"][ps.index]
        seen: list[Any] = []
        if options.get("mixed"):
            ps.create(late)
        for clock in range(ps.now, last):
            values = {t.name: np.zeros(t.shape, t.np_dtype) for t in tables}
            if options.get("pull", True):
                values = dict(zip(names, ps.pull(names), strict=True))
                seen.append([clock, workload.fingerprint(values)])
            gradients = workload.gradient(ps.index, clock, values)
            time.sleep(0.02 if ps.index == options.get("slow") else draw.choice([0, 0, 0.001, 0.004]))
            if options.get("mixed"):
                gradients |= {t.name: np.ones(t.shape, t.np_dtype) for t in (*stale, late)}
            push(ps, gradients, ps.index + clock)
            if options.get("save") == clock:
                ps.save()
            if clock + 1 < last or ps.index not in silent:
                ps.clock()
        if ps.index not in silent:
            seen.append([ps.now, workload.fingerprint(dict(zip(names, ps.pull(names), strict=True)))])
            if options.get("mixed"):
                for name in STALE:
                    assert (ps.pull(name) >= ps.now).all(), "its own, and each worker's gradients are ones"
                done = [min(ps.now, n) for n in options["clocks"]]
                assert (ps.pull("late") == sum(done)).all()
        return {"seen": seen, "stats": ps.stats}

    checkpoint = None
    if "directory" in options:
        checkpoint = mpips.Checkpoints(options["directory"], every=options.get("every"), resume=options.get("resume"), at_end=True)
    results = mpips.run(work, tables + stale, servers=options["servers"], checkpoint=checkpoint, device="cpu", timeout=20,
                        combine=options.get("combine", "node"), reserve=100_000 if options.get("mixed") else 0)
    if results is not None:
        print(json.dumps(results), flush=True)


def main() -> None:
    workload.small_blocks()
    for options in json.loads(sys.argv[1]):
        one(options)


main()
