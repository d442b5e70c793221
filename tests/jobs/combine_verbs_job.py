"""What the verbs promise, with combine="node": three workers of one node and one server; "absent": one does not come."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from workload import refused

import mpips
from mpips.errors import NonFiniteGradient, ProtocolError, UsageError

add = mpips.optim.Add()
tables = [mpips.Dense("a", (1000,), add), mpips.Dense("b", (3, 5), add, dtype="float64"), mpips.Dense("empty", (0, 2), add),
          mpips.Dense("half", (9,), add, dtype="float16"), mpips.Dense("ssp", (7,), add, staleness=1)]
ONES = {t.name: np.ones(t.shape, t.np_dtype) for t in tables}


def work(ps: mpips.Worker) -> bool:
    nan = ONES["a"] * np.nan
    refused(lambda: ps.push("a", nan), NonFiniteGradient, f"table 'a': the gradient pushed by worker {ps.index} in clock 0")
    refused(lambda: ps.push({"ssp": ONES["ssp"], "b": ONES["b"], "a": nan}), NonFiniteGradient, "table 'a'")
    refused(lambda: ps.push({"a": ONES["a"], "b": ONES["b"], "ssp": ONES["ssp"] * np.inf}), NonFiniteGradient, "table 'ssp'")
    refused(lambda: ps.push("a", ONES["b"]), UsageError, "table 'a': a push takes")
    mine = {name: array.copy() for name, array in ONES.items()}
    handle = ps.ipush(mine)
    handle.wait()
    for array in mine.values():
        array[...] = 99  # ours again
    for again in (lambda: ps.push("a", ONES["a"]), lambda: ps.push("b", ONES["b"], more=True),
                  lambda: ps.gradients("half").__enter__()):
        refused(again, ProtocolError, "is closed for clock 0")
    assert handle.test()
    assert not handle.test(applied=True)
    refused(lambda: handle.wait(applied=True), ProtocolError, "before clock()")
    empty = ps.ipush({})
    empty.wait(applied=True)
    ps.clock()
    handle.wait(applied=True)
    assert handle.test(applied=True)
    for name in ("a", "b", "half"):
        assert (ps.pull(name) == 3).all()
    alone = ps.ipush("half", np.zeros(9, np.float16))  # every worker pushes it itself, but waits for a neighbour's clock() likewise
    refused(lambda: alone.wait(applied=True), ProtocolError, "table 'half': wait(applied=True) before clock()")

    try:
        with ps.gradients("a") as g:
            g[...] = 55
            raise KeyError("the block ends with an exception")
    except KeyError:
        pass  # nothing was pushed
    context = ps.gradients("a")
    with context as g:
        assert context.zero_copy
        assert (g.shape, g.dtype, g.flags.writeable) == ((1000,), np.float32, True)
        g[...] = ps.index
        refused(ps.clock, ProtocolError, "clock() inside `with gradients('a')`")
    with ps.view("b") as value:
        assert (value == 3).all()
    assert (ps.pushpull({"b": ONES["b"]})["b"] == 6).all()
    assert (ps.pull("a") == 6).all()

    if ps.index == 0:
        return True
    ps.push("a", np.full(1000, 3e38, np.float32))  # what overflows is the sum, which the servers would make as well
    ps.clock()
    assert np.isinf(ps.pull("a")).all()
    assert ps.stats["skipped"] == 0
    return True


def absent(ps: mpips.Worker) -> None:
    ps.push("a", ONES["a"])
    if ps.index == 0:
        ps.barrier()
    ps.clock()
    ps.barrier()


if sys.argv[1:] == ["absent"]:
    mpips.run(absent, tables, combine="node", device="cpu", timeout=1.5)
else:
    results = mpips.run(work, tables, combine="node", device="cpu", timeout=20)
    if results is not None:
        print(json.dumps(results), flush=True)
