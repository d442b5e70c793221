"""Every verb of a worker, and of a reader, for one dtype; each of the two workers checks what it gets where it gets it.

Tables add up what is pushed, and worker k pushes k + 1 everywhere, so after c clocks a table holds c * (1 + 2) with two workers.
The names say size and staleness: "w0" is whole on one server, "big0" is dealt out over all of them, "bign" has none. Small integers
are exact in every dtype.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import workload

import mpips
from mpips.errors import NonFiniteGradient, ProtocolError, UnknownTable, UsageError

options = json.loads(sys.argv[1])
workload.small_blocks()
add = mpips.optim.Add()
STALENESS = {"0": 0, "2": 2, "n": None}
SHAPES = {"w": (3, 5), "big": (2500,), "scalar": (), "empty": (0, 4)}
tables = [mpips.Dense(name + key, shape, add, staleness=staleness, dtype=options["dtype"])
          for key, staleness in STALENESS.items() for name, shape in SHAPES.items()]
BY_NAME = {t.name: t for t in tables}
on_node = options["nodes"] == "real" or options["ranks"] == 1


def same(got: object, want: object) -> bool:
    return bool((np.asarray(got, np.float64) == want).all())


class Check:
    """One worker's verbs, clock by clock; `total[name]` is what everybody has pushed so far."""

    def __init__(self, ps: mpips.Worker) -> None:
        self.ps = ps
        self.all = sum(k + 1 for k in range(ps.workers))
        self.total = dict.fromkeys(BY_NAME, 0)

    def mine(self, name: str, times: int = 1) -> np.ndarray:
        table = BY_NAME[name]
        return np.full(table.shape, times * (self.ps.index + 1), table.np_dtype)

    def met(self, name: str, value: object) -> None:
        """Check a value that was read: BSP is exact; else it has this worker's own, and after a barrier everybody's."""
        assert same(value, self.total[name]), f"{name} at clock {self.ps.now}: {np.ravel(value)[:3]}, not {self.total[name]}"

    def pushed(self, times: dict[str, int]) -> None:
        for name, n in times.items():
            self.total[name] += n * self.all

    def settle(self) -> None:
        """Let everybody's pushes of the clocks so far be published, also where nobody waits for anybody."""
        self.ps.clock()
        self.ps.pull(list(BY_NAME))
        self.ps.barrier()


def pulls(check: Check) -> None:
    ps, names = check.ps, list(BY_NAME)
    assert ps.tables == tuple(names)
    assert ps.xp is np
    assert ps.role == "worker"
    for name, table in BY_NAME.items():
        value = ps.pull(name)
        assert type(value) is np.ndarray
        assert (value.shape, value.dtype) == (table.shape, table.np_dtype)
        check.met(name, value)
        value[...] = 77  # it is ours
        check.met(name, ps.pull(name))
        out = np.full(table.shape, 9, table.np_dtype)
        assert ps.pull(name, out=out) is out
        check.met(name, out)
    outs = [np.full(t.shape, 9, t.np_dtype) for t in tables]
    given = ps.pull(names, out=outs)
    assert all(a is b for a, b in zip(given, outs, strict=True))
    for name, value in zip(names, ps.pull(names), strict=True):
        check.met(name, value)
    handle = ps.ipull(names)
    while not handle.test():
        pass
    for name, value in zip(names, handle.wait(), strict=True):
        check.met(name, value)
    assert ps.pull([]) == []


def pushes(check: Check) -> None:
    ps, names = check.ps, list(BY_NAME)
    ps.push({name: check.mine(name) for name in names})
    check.pushed(dict.fromkeys(names, 1))
    for name in names:
        if name.endswith("0"):
            for again in (lambda n=name: ps.push(n, check.mine(n)), lambda n=name: ps.push(n, check.mine(n), more=True),
                          lambda n=name: ps.gradients(n).__enter__()):
                try:
                    again()
                except ProtocolError as error:
                    assert f"'{name}' is closed for clock {ps.now}" in str(error)  # noqa: PT017 - no pytest in a job
                else:
                    raise AssertionError(f"{name} takes two pushes in a clock")
        else:
            ps.push(name, check.mine(name))
            check.pushed({name: 1})
    check.settle()
    pulls(check)
    check.ps.barrier()  # nobody pushes before all have looked

    for name in names:  # several, added up here, count as one
        ps.push(name, check.mine(name), more=True)
        ps.push(name, check.mine(name, 2), more=True)
    ps.push({name: check.mine(name) for name in names})
    check.pushed(dict.fromkeys(names, 4))
    check.settle()
    pulls(check)
    check.ps.barrier()  # nobody pushes before all have looked

    handles = [ps.ipush(name, check.mine(name)) for name in names]
    while not all(handle.test() for handle in handles):
        pass
    for handle in handles:
        handle.wait()
    check.pushed(dict.fromkeys(names, 1))
    for handle in handles:  # applied: everybody pushes in this clock
        handle.wait(applied=True)
        assert handle.test(applied=True)
    ps.barrier()
    for name in names:
        if not name.endswith("0"):
            check.met(name, ps.pull(name))  # and so everybody's have been applied
    check.settle()
    pulls(check)
    check.ps.barrier()  # nobody pushes before all have looked


def together(check: Check) -> None:
    ps, lockstep = check.ps, [n for n in BY_NAME if n.endswith("0")]
    clock = ps.now
    values = ps.pushpull({name: check.mine(name) for name in lockstep})
    check.pushed(dict.fromkeys(lockstep, 1))
    assert ps.now == clock + 1
    assert list(values) == lockstep
    for name, value in values.items():
        check.met(name, value)
    handle = ps.ipushpull({name: check.mine(name) for name in lockstep})
    check.pushed(dict.fromkeys(lockstep, 1))
    assert ps.now == clock + 2
    while not handle.test():
        pass
    for name, value in handle.wait().items():
        check.met(name, value)
    for some in (lockstep, *([name] for name in lockstep)):
        step = ps.prepare({name: check.mine(name) for name in some})
        for _ in range(3):
            values = step()
            check.pushed(dict.fromkeys(some, 1))
            for name in some:
                check.met(name, values[name])
    late = [n for n in BY_NAME if not n.endswith("0")]
    values = ps.pushpull({name: check.mine(name) for name in late})
    check.pushed(dict.fromkeys(late, 1))
    for name, value in values.items():
        least = np.asarray(value, np.float64).min(initial=np.inf)
        assert least >= check.total[name] - check.all + ps.index + 1, "its own"
    check.settle()


def views(check: Check) -> None:
    ps = check.ps
    for name, table in BY_NAME.items():
        view = ps.view(name)
        with view as value:
            check.met(name, value)
            assert (value.shape, value.dtype, value.flags.writeable) == (table.shape, table.np_dtype, False)
        whole = table.staleness == 0 and on_node and table.size and (name != "big0" or options["servers"] == 1)
        if name != "big0":  # its blocks may lie in different copies
            assert view.zero_copy == bool(whole), f"{name}: zero_copy {view.zero_copy}"
        try:
            value[...] = 1
        except ValueError:
            continue
        raise AssertionError(f"a view of {name} can be written to")


def gradients(check: Check) -> None:
    ps = check.ps
    for name, table in BY_NAME.items():
        context = ps.gradients(name)
        try:
            with context as g:
                g[...] = 55
                raise KeyError("the block ends with an exception")
        except KeyError:
            pass  # nothing was pushed
        context = ps.gradients(name)
        with context as g:
            assert (g.shape, g.dtype, g.flags.writeable) == (table.shape, table.np_dtype, True)
            g[...] = check.mine(name)
        whole = on_node and table.size and (not name.startswith("big") or options["servers"] == 1)
        assert context.zero_copy == bool(whole), f"{name}: zero_copy {context.zero_copy}"
    check.pushed(dict.fromkeys(BY_NAME, 1))
    check.settle()
    pulls(check)
    check.ps.barrier()  # nobody pushes before all have looked


def refusals(check: Check) -> None:
    """What is wrong is said before anything is changed; the worker may catch it and go on."""
    ps, w = check.ps, check.mine("w0")
    nan = w.astype(BY_NAME["w0"].np_dtype)
    nan[1, 1] = np.nan
    other = np.zeros((3, 5), np.float64 if options["dtype"] != "float64" else np.float32)
    wrong = [
        (lambda: ps.pull("nope"), UnknownTable, "unknown table 'nope'"),
        (lambda: ps.push("nope", w), UnknownTable, "unknown table 'nope'"),
        (lambda: ps.view("nope"), UnknownTable, "'nope'"),
        (lambda: ps.view(["w0"]), UnknownTable, "['w0']"), (lambda: ps.gradients("nope"), UnknownTable, "'nope'"),
        (lambda: ps.pull(["w0", "nope"]), UnknownTable, "'nope'"),
        (lambda: ps.push({"w0": w, "nope": w}), UnknownTable, "'nope'"),
        (lambda: ps.push("w0", w[:2]), UsageError, "table 'w0': a push takes"),
        (lambda: ps.push("w0", other), UsageError, "table 'w0'"),
        (lambda: ps.push("w0", w.tolist()), UsageError, "table 'w0'"), (lambda: ps.push("w0", None), UsageError, "table 'w0'"),
        (lambda: ps.pull("w0", out=other), UsageError, "table 'w0'"), (lambda: ps.pull("w0", out=w.T), UsageError, "table 'w0'"),
        (lambda: ps.pull(["w0"], out=[]), UsageError, "out has 0"),
        (lambda: ps.push("w0", nan), NonFiniteGradient, "table 'w0'"),
        (lambda: ps.push({"wn": check.mine("wn"), "w0": nan}), NonFiniteGradient, "table 'w0'"),
    ]
    if not options["directory"]:
        wrong.append((ps.save, UsageError, "checkpoint"))
    for call, kind, says in wrong:
        workload.refused(call, kind, says)
    ps.push("w0", w)  # still open
    check.pushed({"w0": 1})
    check.settle()
    pulls(check)
    check.ps.barrier()  # nobody pushes before all have looked


def creates(check: Check) -> None:
    ps = check.ps
    for name, staleness in (("later", 0), ("last", 0)):
        table = mpips.Dense(name, (40, 50), add, mpips.init.constant(3.0), staleness, options["dtype"])
        ps.create(table)
        ps.create(table)  # the second request changes nothing
        assert name in ps.tables
        assert same(ps.pull(name), 3.0)
        try:
            ps.create(mpips.Dense(name, (40, 51), add, dtype=options["dtype"]))
        except UsageError as error:
            assert f"'{name}'" in str(error)  # noqa: PT017 - no pytest in a job
        else:
            raise AssertionError("a table was created twice, differently")
        ps.barrier()
        ps.push(name, np.full((40, 50), ps.index + 1, table.np_dtype))
        ps.clock()
        assert same(ps.pull(name), 3.0 + check.all)
    try:
        ps.create(mpips.Dense("huge", (1 << 28,), add, dtype=options["dtype"]))
    except UsageError as error:
        assert "reserve" in str(error)  # noqa: PT017 - no pytest in a job
    else:
        raise AssertionError("there is no room for that")


def results(ps: mpips.Worker) -> object:
    return {"index": ps.index, "all": [None, True, 2, 2.5, "é", b"\0", (1, [2]), {"a": np.arange(3, dtype=np.int16)}],
            7: np.zeros((0, 2), BY_NAME["w0"].np_dtype), "scalar": np.float32(0.5)}


def work(ps: mpips.Worker) -> object:
    check = Check(ps)
    for verbs in (pulls, pushes, together, views, gradients, refusals):
        verbs(check)
        ps.barrier()
        views(check)
        ps.barrier()
    if options["reserve"]:
        creates(check)
    if options["directory"]:
        handle = ps.save()
        check.settle()
        workload.refused(handle.wait, ProtocolError, "ask test()")
        end = time.monotonic() + 20
        while not handle.test():  # all are equally far, so each can stand where it is
            assert time.monotonic() < end
            time.sleep(0.001)
        if ps.index == 0:
            from mpips.checkpoint.order import complete
            from mpips.checkpoint.read import Saved

            with Saved(complete(Path(options["directory"]))[-1]) as saved:
                for name in BY_NAME:
                    check.met(name, saved.array(name))
    counted = ps.stats
    assert counted["pulls"] > 0
    assert counted["pushes"] > 0
    assert counted["skipped"] == 0
    ps.barrier()
    for name in BY_NAME:  # a last push without a clock counts
        ps.push(name, check.mine(name))
    return results(ps)


def read(ps: mpips.Reader) -> None:
    assert ps.role == "reader"
    assert not hasattr(ps, "push")
    newest = dict.fromkeys(BY_NAME, 0.0)
    done, now = False, 0
    while not done:
        done = ps.done
        assert ps.now >= now
        now = ps.now
        for name, value in zip(BY_NAME, ps.pull(list(BY_NAME)), strict=True):
            if value.size:
                seen = np.asarray(value, np.float64)
                assert seen.min() >= newest[name], f"{name} went back"
                assert name not in ("w0", "big0", "scalar0") or seen.min() == seen.max(), f"{name} is torn"
                newest[name] = float(seen.min())
        with ps.view("w0") as value:
            assert not value.flags.writeable
    print(json.dumps({"reader": newest}), flush=True)


def main() -> None:
    for turn in range(options["turns"]):
        checkpoint = mpips.Checkpoints(options["directory"] + str(turn)) if options["directory"] else None
        if checkpoint:
            options["directory"] = str(checkpoint.directory)
        got = mpips.run(work, tables, servers=options["servers"], nodes=options["nodes"], readers=options["readers"],
                        read=read if options["readers"] else None, reserve=(1 << 20) * options["reserve"], checkpoint=checkpoint,
                        timeout=30, device="cpu")
        if got is None:
            continue
        for index, result in enumerate(got):
            assert result["index"] == index
            assert result["all"][:7] == [None, True, 2, 2.5, "é", b"\0", (1, [2])]
            assert result["all"][7]["a"].tolist() == [0, 1, 2]
            assert (result[7].shape, result[7].dtype) == ((0, 2), BY_NAME["w0"].np_dtype)
        print(json.dumps({"turn": turn, "workers": len(got)}), flush=True)


main()
