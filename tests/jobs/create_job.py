"""Two workers create the same table at clock 2, two servers; resumed runs create it again and find its values."""

import json
import sys

import numpy as np

import mpips

options = json.loads(sys.argv[1])
rule = mpips.optim.Momentum(lr=0.5)
first = mpips.Dense("first", (10,), rule)
later = mpips.Dense("later", (3000, 100), rule, mpips.init.normal(1.0))


def work(ps: mpips.Worker) -> list[float]:
    if ps.now >= 2:
        ps.create(later)
    while ps.now < options["clocks"]:
        if ps.now == 2:
            ps.create(later)
        for name in ps.tables:
            ps.push(name, np.full(ps.pull(name).shape, 0.25, np.float32))
        ps.clock()
    return [float(ps.pull(name).astype(np.float64).sum()) for name in ("first", "later")]


checkpoint = mpips.Checkpoints(options["directory"], resume="auto")
results = mpips.run(work, [first], servers=options["servers"], reserve=4 << 20, checkpoint=checkpoint, device="cpu")
if results is not None:
    print(json.dumps(results))
