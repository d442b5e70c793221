"""Workers count their pushes in tables of plain addition, while checkpoints are taken.

Row w of each table is worker w's: it adds `times` to it in each clock, in one push or in several. So a checkpoint whose vector of
clocks is c must hold times * c[w] in every element of row w. Worker 0 prints, for each worker, [first clock, clock at the
end, checkpoints that it has asked for and got].
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import workload

import mpips
from mpips.checkpoint.order import complete
from mpips.checkpoint.read import Saved
from mpips.errors import ProtocolError
from mpips.worker.handles import SaveHandle

options = json.loads(sys.argv[1])
workload.small_blocks()
tables = [mpips.Dense(name, (options["workers"], 700), mpips.optim.Add(), staleness=staleness)
          for name, staleness in options["tables"].items()]


def work(ps: mpips.Worker) -> list[object]:
    draw = np.random.default_rng(ps.index)
    first, seen, asked = ps.now, [], []

    def look(ps: mpips.Worker, when: int, handle: SaveHandle) -> None:
        if handle.test():
            asked.remove((when, handle))
            there = complete(Path(options["directory"]))[-1]
            with Saved(there) as saved:
                assert saved.clocks[ps.index] > when, f"{saved} has not the clock in which it was asked for"
            seen.append(there.name)

    for clock in range(ps.now, options["clocks"][ps.index]):
        time.sleep(draw.random() * options["pause"])
        if [ps.index, clock] in options["saves"]:
            asked.append((clock, ps.save()))
        for table in tables:
            ps.pull(table.name)
            one = np.zeros(table.shape, np.float32)
            one[ps.index] = 1
            for _ in range(1 if table.staleness == 0 else 2):
                ps.push(table.name, one)
        if options["barrier"]:
            ps.barrier()
        assert not any(handle.test() for when, handle in asked if when == clock), "the clock is not over"
        ps.clock()
        for when, handle in list(asked):
            if when % 2:  # an odd one is waited for, where that can be, the others are looked at once in a clock
                with contextlib.suppress(ProtocolError):  # others are further: the cut comes there
                    handle.wait()
            look(ps, when, handle)
    end = time.monotonic() + 20
    while asked and time.monotonic() < end:  # all workers have come equally far, so each can stand where it is
        time.sleep(0.005)
        for when, handle in list(asked):
            look(ps, when, handle)
    if options["barrier"]:
        ps.pull(tables[0].name)
        ps.barrier()
    return [first, ps.now, len(seen)]


checkpoint = mpips.Checkpoints(options["directory"], every=options["every"], keep_last=None, at_end=options["at_end"],
                               resume=options["resume"])
results = mpips.run(work, tables, servers=options["servers"], nodes=options["nodes"], checkpoint=checkpoint, timeout=30,
                    device="cpu")
if results is not None:
    print(json.dumps(results))
