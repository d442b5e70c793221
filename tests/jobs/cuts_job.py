"""Workers count their pushes in tables of plain addition, while checkpoints are taken.

Row w of each table is worker w's: it adds `times` to it in each clock, in one push or in several. So a checkpoint whose vector of
clocks is c must hold times * c[w] in every element of row w. Worker 0 prints, for each worker, [first clock, clock at the end,
paths of the checkpoints that its handles gave].
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import workload

import mpips
from mpips.checkpoint.read import Saved
from mpips.checkpoint.schema import complete

options = json.loads(sys.argv[1])
workload.small_blocks()
tables = [mpips.Dense(name, (options["workers"], 700), mpips.optim.Add(), staleness=staleness)
          for name, staleness in options["tables"].items()]


def work(ps: mpips.Worker) -> list[object]:
    draw = np.random.default_rng(ps.index)
    first, seen = ps.now, []
    for clock in range(ps.now, options["clocks"][ps.index]):
        time.sleep(draw.random() * options["pause"])
        handle = ps.save() if [ps.index, clock] in options["saves"] else None
        for table in tables:
            ps.pull(table.name)
            one = np.zeros(table.shape, np.float32)
            one[ps.index] = 1
            for _ in range(1 if table.staleness == 0 else 2):
                ps.push(table.name, one)
        if options["barrier"]:
            ps.barrier()
        if handle:
            assert not handle.test(), "the clock is not over"
        ps.clock()
        if handle:
            if clock % 2:
                handle.wait()
            while not handle.test():
                ps.view(tables[0].name).__enter__()  # any verb
                ps.clock()
            there = complete(Path(options["directory"]))
            with Saved(there[-1]) as saved:
                assert saved.clocks[ps.index] >= clock + 1, f"{saved} has not the clock in which it was asked for"
            seen.append(there[-1].name)
    if options["barrier"]:
        ps.pull(tables[0].name)
        ps.barrier()
    return [first, ps.now, seen]


checkpoint = mpips.Checkpoints(options["directory"], every=options["every"], keep_last=None, at_end=options["at_end"],
                               resume=options["resume"])
results = mpips.run(work, tables, servers=options["servers"], nodes=options["nodes"], checkpoint=checkpoint, timeout=30,
                    device="cpu")
if results is not None:
    print(json.dumps(results))
