"""What was begun goes on while no verb runs, where servers are elsewhere; its values are those of verbs that wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import mpips
from mpips import Dense, Reader, Worker, optim
from mpips.errors import NonFiniteGradient, UnknownTable, WaitTimeout
from mpips.server import Server
from mpips.transport.local import Local
from mpips.transport.places import Endpoint
from mpips.worker import background
from mpips.worker.background import Background
from tests.mpirun import launcher, mpirun
from tests.playing import play, small_blocks
from tests.test_trace import read

needs_mpirun = pytest.mark.skipif(not launcher(), reason="there is no mpirun")

JOB = """
import sys
import time
import numpy as np
import pytest
import mpips
from mpips.errors import NonFiniteGradient

SIZE = 1_000_000  # a table of 4 MB, so that it is read in several turns

def meanwhile(begun):
    '''Wait without calling MPI.'''
    end = time.monotonic() + 60
    while not begun.over and time.monotonic() < end:
        time.sleep(1e-3)
    return begun.over

def work(ps):
    elsewhere = sys.argv[1] == "single"
    for step in range(3):
        handle = ps.ipull(["w", "v", "s"])
        if elsewhere and step == 1:
            assert meanwhile(handle.pull)
        if step == 2:
            v, s = handle.take([1, 2])
            assert (v == 2 * step).all() and (s == 2 * step).all()
            assert (handle.take([0])[0] == 2 * step).all()
        else:
            assert [float(x.min()) for x in handle.wait()] == [float(x.max()) for x in handle.wait()] == [2 * step] * 3
        push = ps.ipush({"w": np.ones(SIZE, np.float32)})
        if elsewhere:
            assert meanwhile(push.push)
            assert push.test()
        rest = ps.ipush({"v": np.ones(SIZE, np.float32), "s": np.ones(3, np.float32)})
        rows = ps.ipush("rows", np.ones((2, 2), np.float32), rows=[ps.index, 7])
        ps.clock()
        assert rest.test() and rows.test()
        rows = ps.ipull("rows", rows=[0, 1, 7])
        if elsewhere:
            assert meanwhile(rows.pull)
        assert rows.wait()[:, 0].tolist() == [step + 1, step + 1, 2 * step + 2]

    bad = np.full(SIZE, np.nan, np.float32)
    for told in (True, False):
        if not elsewhere:  # the push has found out at once
            with pytest.raises(NonFiniteGradient):
                ps.ipush("w", bad)
            continue
        handle = ps.ipush("w", bad)
        assert meanwhile(handle.push)
        with pytest.raises(NonFiniteGradient):
            handle.wait() if told else ps.clock()
    handle = ps.ipush("w", np.ones(SIZE, np.float32))
    ps.clock()
    assert handle.test(applied=True) in (True, False)
    assert (ps.pull("w") == 8).all()
    ps.ipull("w")
    ps.ipull("loose")  # never waited for

def read(ps):
    while not ps.done:
        handle = ps.ipull(["w", "v"])
        if sys.argv[1] == "single":
            assert meanwhile(handle.pull)
        w, v = handle.wait()
        assert w.min() == w.max() and v.min() == v.max()
    return None

ADD = mpips.optim.Add()
tables = [mpips.Dense("w", (SIZE,), ADD), mpips.Dense("v", (SIZE,), ADD), mpips.Dense("s", (3,), ADD),
          mpips.Dense("loose", (SIZE,), ADD, staleness=None), mpips.Rows("rows", 10, 2, ADD)]
mpips.run(work, tables, servers=2, readers=1, read=read, device="cpu", nodes=sys.argv[1], trace=sys.argv[2])
"""


@needs_mpirun
@pytest.mark.parametrize("nodes", ["real", "single"])
def test_it_goes_on_while_no_verb_runs(tmp_path: Path, nodes: str) -> None:
    (tmp_path / "job.py").write_text(JOB)
    done = mpirun(5, [str(tmp_path / "job.py"), nodes, str(tmp_path / "trace.json")], timeout=90)
    assert done.code == 0, done
    beside = {span["name"] for name, spans in read(tmp_path / "trace.json").items() for span in spans if span["tid"]}
    assert ({"pull", "push"} <= beside) == (nodes == "single")
    names = [event["args"]["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
             if event["name"] == "thread_name"]
    assert ("worker 0, background" in names) == (nodes == "single")


class Played:
    """In place of the thread, which the test plays."""

    far = frozenset(range(8))
    turn = nullcontext()

    def add(self, begun: Any) -> None:
        assert not begun.over
        assert getattr(begun, "_as_of", ()) == (), "nothing of it has been read"


def stepwise(handle: Any) -> None:
    """Do what the thread does, where ranks are threads of a scheduler."""
    begun = handle.pull if hasattr(handle, "pull") else handle.push
    while not begun.over:
        if not begun.go_on(100) and not begun.over:
            begun._link.transport.pause(0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("staleness", [0, 1, None])
def test_slices_are_never_torn(seed: int, staleness: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is of one version, and with staleness 0 all are of the worker's clock, or a reader's one."""
    small_blocks(monkeypatch)

    def whole(values: list[np.ndarray[Any, Any]]) -> bool:
        return all(len(set(block)) == 1 for v in values for block in (v if staleness == 0 else v.reshape(-1, 16)))

    def work(ps: Worker) -> Any:
        seen = []
        ps._link.background = cast(Background, Played())
        for _ in range(3):
            handle = ps.ipull(["w", "v"])
            stepwise(handle)
            seen.append(handle.wait())
            push = ps.ipush({"w": np.ones((4, 16), np.float32), "v": np.ones((2, 16), np.float32)})
            stepwise(push)
            ps.clock()
        return seen

    def look(ps: Reader) -> None:
        ps._link.background = cast(Background, Played())
        while not ps.done:
            handle = ps.ipull(["w", "v"])
            stepwise(handle)
            w, v = handle.wait()
            assert staleness != 0 or (len(np.unique(w)) == 1 and len(np.unique(v)) == 1)

    tables = [Dense(name, (rows, 16), optim.Add(), staleness=staleness) for name, rows in (("w", 4), ("v", 2))]
    results = play(tables, work, servers=2, readers=1, read=look, seed=seed, far=True)
    for worker in ("worker 0", "worker 1"):
        for step, values in enumerate(results[worker]):
            assert whole(values)
            assert staleness != 0 or all((v == 2 * step).all() for v in values)


class Second(Server):
    """The second server is slower than the first."""

    def step(self) -> bool:
        for _ in range(30 * self.index):
            cast(Endpoint, self._transport)._turn()
        return super().step()


@pytest.mark.parametrize("seed", range(8))
def test_slices_that_a_reader_reads_again_are_of_one_clock(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)

    def work(ps: Worker) -> None:
        for _ in range(8):
            ps.push("w", np.ones((6, 16), np.float32))
            ps.clock()

    def look(ps: Reader) -> None:
        ps._link.background = cast(Background, Played())
        while not ps.done:
            handle = ps.ipull("w")
            stepwise(handle)
            assert len(np.unique(handle.wait())) == 1

    play([Dense("w", (6, 16), optim.Add())], work, servers=2, readers=1, read=look, seed=seed, far=True, make=Second)


class Counted:
    """Goes on a few times."""

    def __init__(self, times: int, error: Callable[[], BaseException] | None = None) -> None:
        self.left, self.error = times, error

    @property
    def over(self) -> bool:
        return not self.left

    def go_on(self, most: int) -> bool:
        assert background.LEAST <= most <= background.MOST
        self.left -= 1
        if self.error is not None and self.left:
            raise self.error()
        return True


def until(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not what() and time.monotonic() < end:
        time.sleep(1e-3)
    return what()


def test_nothing_goes_on_in_a_verbs_turn() -> None:
    threads = threading.active_count()
    beside = Background(Local([64]), frozenset([0]))
    assert threading.active_count() == threads, "no thread before there is something to do"
    first, second = Counted(3), Counted(5, lambda: WaitTimeout("somebody waits for it"))
    with beside.turn:
        beside.add(first)
        time.sleep(0.05)
        assert first.left == 3
    assert until(lambda: first.over)
    with beside.turn:
        beside.add(second)
    assert until(lambda: second.over), "who waits for it sees the error itself"
    endless = Counted(1 << 60)
    with beside.turn:
        beside.add(endless)
    assert until(lambda: endless.left < 1 << 60)
    beside.close()
    assert not endless.over
    assert threading.active_count() == threads


def test_an_end_in_the_middle_of_the_last_turn() -> None:
    begun = threading.Event()

    class Long(Counted):
        def go_on(self, most: int) -> bool:
            begun.set()
            time.sleep(0.02)
            return super().go_on(most)

    beside = Background(Local([64]), frozenset([0]))
    with beside.turn:
        beside.add(Long(1))
    assert begun.wait(30)
    closing = threading.Thread(target=beside.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()


def test_what_fails_ends_the_thread_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)  # in a job it ends the job, see `mpips.cluster.abort`
    beside = Background(Local([64]), frozenset([0]))
    with beside.turn:
        beside.add(Counted(5, lambda: ValueError("a bug")))
    assert until(lambda: bool(told))
    assert isinstance(told[0].exc_value, ValueError)
    beside.close()


def test_a_push_that_failed_where_nobody_saw_it_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ps: Worker) -> str:
        link = ps._link
        link.background = beside = Background(link.transport, frozenset([0]))
        monkeypatch.setattr(beside, "add", lambda begun: None)  # the thread is played here
        for way in ("wait", "clock", "both"):
            handle = ps.ipush("w", np.full(3, np.nan, np.float32))
            assert handle.push is not None
            assert handle.push.go_on(1)
            assert handle.push.over
            with pytest.raises(NonFiniteGradient):
                ps.clock() if way == "clock" else handle.wait()
            if way == "both":
                with pytest.raises(NonFiniteGradient):
                    handle.wait()
        ps.push("w", np.ones(3, np.float32))
        ps.clock()
        return str(ps.pull("w"))

    assert mpips.run(work, [Dense("w", (3,), optim.Add())], device="cpu") == ["[1. 1. 1.]"]


def test_every_verb_takes_its_turn_before_it_calls_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that meets an unknown name, and asks the servers for tables that others have created."""
    def work(ps: Worker) -> None:
        link = ps._link
        link.background = beside = Background(link.transport, frozenset([0]))
        load, owned = link.transport.load, list[bool]()

        def look(server: int, word: int) -> int:
            owned.append(beside.turn._is_owned())  # type: ignore[attr-defined]
            return load(server, word)

        monkeypatch.setattr(link.transport, "load", look)
        verbs: list[Callable[[str], Any]] = [
            ps.pull, ps.ipull, ps.view, ps.gradients, ps.server_stats, lambda name: ps.push(name, np.ones(3)),
            lambda name: ps.cache(name, 3), lambda name: ps.intent(name, [1], 0)]
        for verb in verbs:
            with pytest.raises(UnknownTable):
                verb("other")
        assert len(owned) >= len(verbs)
        assert all(owned)

    mpips.run(work, [Dense("w", (3,), optim.Add())], device="cpu")


END = """
import time
import mpips
from mpips.transport.words import END
from mpips.worker.background import Background

class Begun:
    over = False
    def __init__(self, link):
        self.link = link
    def go_on(self, most):
        assert self.link.transport.load(0, self.link.own + END) == 0, "the servers may be gone"
        return False

def work(ps):
    background = ps._link.background
    background.add(Begun(ps._link))
    close = background.close
    background.close = lambda: (time.sleep(0.1), close())

mpips.run(work, [mpips.Dense("w", (3,), mpips.optim.Add())], device="cpu", nodes="single")
"""


@needs_mpirun
def test_nothing_goes_on_when_the_worker_has_said_that_it_is_gone() -> None:
    done = mpirun(2, END)
    assert done.code == 0, done
