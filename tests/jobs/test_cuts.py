"""Promise 4 with staleness: every checkpoint holds exactly the pushes of its vector of clocks, in all tables, on all servers.

On real ranks first; then on the model of a weak memory, where the order of events can be chosen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips import Dense, Worker, optim
from mpips.checkpoint.order import complete
from mpips.checkpoint.read import Saved
from mpips.errors import ProtocolError
from tests.mpirun import mpirun, told
from tests.playing import Recorder, play, small_blocks

JOB = Path(__file__).parent / "cuts_job.py"
PER_CLOCK = {"bsp": 1, "ssp": 2, "asp": 2}
STALENESS = {"bsp": 0, "ssp": 2, "asp": None}
MIXES = {"ssp": ["ssp"], "asp": ["asp"], "bsp and asp": ["bsp", "asp"], "all three": ["bsp", "ssp", "asp"]}


def job(directory: Path, tables: list[str], clocks: list[int], *, servers: int = 1, nodes: str = "real", every: int | None = None,
        saves: list[list[int]] | None = None, at_end: bool = True, resume: str | None = None, barrier: bool = False,
        pause: float = 0.004, ranks: int = 0) -> list[list[Any]]:
    """Run it, one worker for each of `clocks`."""
    options = {"directory": str(directory), "tables": {name: STALENESS[name] for name in tables}, "clocks": clocks,
               "workers": len(clocks), "servers": servers, "nodes": nodes, "every": every, "saves": saves or [],
               "at_end": at_end, "resume": resume, "barrier": barrier, "pause": pause}
    results: list[list[Any]]
    (results,) = told(ranks or len(clocks) + servers, JOB, options, timeout=90)
    return results


def exact(directory: Path, tables: list[str], skipped: list[int] | None = None) -> list[tuple[int, ...]]:
    """Check every checkpoint of a directory; return their vectors of clocks.

    Args:
        skipped: clocks that the workers left out when they were resumed.
    """
    found = []
    for path in complete(directory):
        with Saved(path) as saved:
            assert saved.tables == tuple(tables)
            clocks = np.array(saved.clocks) - (skipped or 0)
            for name in tables:
                rows = saved.array(name)
                assert (rows == rows[:, :1]).all(), f"{path.name}: table {name} is torn"
                np.testing.assert_array_equal(rows[:, 0], PER_CLOCK[name] * clocks, f"{path.name}: table {name}")
            found.append(saved.clocks)
    return sorted(found, key=max)


@pytest.mark.parametrize("nodes", ["real", "single"])
@pytest.mark.parametrize("mix", MIXES)
def test_every_checkpoint_holds_exactly_the_pushes_of_its_clocks(tmp_path: Path, mix: str, nodes: str) -> None:
    tables = MIXES[mix]
    results = job(tmp_path, tables, [24, 24, 24], servers=2, nodes=nodes, every=5, saves=[[0, 7], [1, 11], [2, 11], [1, 16]])
    clocks = exact(tmp_path, tables)
    # Workers that do not wait for each other may be far apart, and cuts with the same furthest clock have one name.
    assert len(clocks) >= (2 if mix == "asp" else 5), "four by `every`, one at the end"
    assert clocks[-1] == tuple(end for _, end, _ in results)
    assert [got for _, _, got in results] == [1, 2, 1]
    if mix != "asp":
        assert all(len(set(c)) == 1 for c in clocks[:-1]), "workers that wait for each other stop at one clock"


@pytest.mark.parametrize(("mix", "before", "after"), [("ssp", 2, 1), ("asp", 1, 2), ("bsp and asp", 2, 1), ("all three", 1, 2)])
def test_a_run_goes_on_from_a_checkpoint_on_other_servers(tmp_path: Path, mix: str, before: int, after: int) -> None:
    tables = MIXES[mix]
    job(tmp_path, tables, [8, 8], servers=before, every=3)
    (clocks,) = {c for c in exact(tmp_path, tables) if max(c) == 8}
    results = job(tmp_path, tables, [12, 12], servers=after, every=3, resume="latest")
    assert clocks == (8, 8)
    assert [first for first, _, _ in results] == [8, 8]
    assert exact(tmp_path, tables)[-1] == (12, 12)


def test_workers_without_waiting_resume_each_at_its_own_clock(tmp_path: Path) -> None:
    job(tmp_path, ["asp"], [4, 9], every=None)
    assert exact(tmp_path, ["asp"]) == [(4, 9)]
    results = job(tmp_path, ["asp"], [6, 12], servers=2, resume="latest")
    assert [first for first, _, _ in results] == [4, 9]
    assert exact(tmp_path, ["asp"])[-1] == (6, 12)


def test_workers_that_wait_for_each_other_resume_at_the_furthest_clock(tmp_path: Path) -> None:
    job(tmp_path / "a", ["bsp", "ssp"], [4, 9])
    assert exact(tmp_path / "a", ["bsp", "ssp"]) == [(4, 9)]
    results = job(tmp_path / "b", ["bsp", "ssp"], [11, 11], servers=2, resume=str(complete(tmp_path / "a")[-1]))
    assert [first for first, _, _ in results] == [9, 9]
    assert exact(tmp_path / "b", ["bsp", "ssp"], skipped=[5, 0]) == [(11, 11)]


@pytest.mark.parametrize("mix", ["ssp", "asp", "all three"])
def test_barriers_and_uneven_ends_do_not_stop_a_cut(tmp_path: Path, mix: str) -> None:
    tables = MIXES[mix]
    job(tmp_path, tables, [6, 10, 13], servers=2, every=1, barrier=True, at_end=False, pause=0.01)
    assert exact(tmp_path, tables)


@pytest.mark.parametrize("mix", MIXES)
def test_alone_in_one_process(tmp_path: Path, mix: str) -> None:
    tables = MIXES[mix]
    results = job(tmp_path, tables, [10], servers=3, every=3, saves=[[0, 4], [0, 7]], ranks=1)
    clocks = exact(tmp_path, tables)
    assert results == [[0, 10, 2]]
    assert clocks[-1] == (10,)


# The same cuts on the model, where every seed is another order of events. 64 elements are 4 blocks on 2 servers.

SIZE = 64
Work = Callable[[Worker], None]


def steps(clocks: int, inside: Work = lambda ps: None, after: Work = lambda ps: None) -> Work:
    one = np.ones(SIZE, np.float32)

    def work(ps: Worker) -> None:
        for _ in range(clocks + ps.index):
            for name in ps.tables:
                ps.pull(name)
                ps.push(name, one)
            inside(ps)
            ps.clock()
        after(ps)
    return work


def last(ps: Worker) -> None:
    """What `mpips.fit` does at its end."""
    ps.pull(ps.tables[0])
    ps.barrier()


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("staleness", [2, None])
@pytest.mark.parametrize(("inside", "after"), [(None, None), (None, last), (Worker.barrier, None)])
def test_in_any_order_of_events(monkeypatch: pytest.MonkeyPatch, staleness: int | None, inside: Work | None, after: Work | None,
                                at_end: bool) -> None:
    small_blocks(monkeypatch)
    tables = [Dense("w", (SIZE,), optim.Add(), staleness=staleness)]
    work = steps(3, inside or (lambda ps: None), after or (lambda ps: None))
    for seed in range(25):
        recorder = Recorder()
        play(tables, work, servers=2, every=2, at_end=at_end, saver=recorder, seed=seed)
        for cut, values in recorder.complete:
            assert (values["w"] == sum(cut.clocks)).all(), f"seed {seed}: {cut}"
        if at_end:
            assert recorder.complete[-1][0].clocks == (3, 4), f"seed {seed}"


def test_a_straggler_is_saved_as_often_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)

    def work(ps: Worker) -> None:
        while ps.index == 1 and ps.pull("w")[0] < 20:  # until worker 0, which waits for nobody, has done all its clocks
            pass
        for _ in range(20):
            ps.push("w", np.ones(SIZE, np.float32))
            ps.clock()

    for seed in range(5):
        recorder = Recorder()
        play([Dense("w", (SIZE,), optim.Add(), staleness=None)], work, servers=2, every=2, at_end=False, saver=recorder, seed=seed)
        cuts = [cut.clocks for cut, _ in recorder.complete]
        assert len(cuts) >= 3, f"seed {seed}: {cuts}"


@pytest.mark.parametrize("staleness", [0, 2, None])
def test_waiting_for_a_save_after_a_push_ends_or_is_refused(monkeypatch: pytest.MonkeyPatch, staleness: int | None) -> None:
    small_blocks(monkeypatch)

    def work(ps: Worker) -> None:
        handle = ps.save()
        ps.clock()
        ps.push("w", np.ones(SIZE, np.float32))
        if staleness == 0:
            handle.wait()
        else:
            with contextlib.suppress(ProtocolError):  # unless the push itself stood for it
                handle.wait()

    for seed in range(10):
        recorder = Recorder()
        play([Dense("w", (SIZE,), optim.Add(), staleness=staleness)], work, saver=recorder, seed=seed)
        assert recorder.complete, f"seed {seed}"


def test_a_push_can_be_waited_for_while_a_cut_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    tables = [Dense("w", (SIZE,), optim.Add(), staleness=None), Dense("v", (SIZE,), optim.Add())]

    def work(ps: Worker) -> None:
        one = np.ones(SIZE, np.float32)
        for _ in range(4):
            ps.ipush("v", one).wait(applied=True)
            ps.push("w", one)
            ps.clock()

    for seed in range(25):
        recorder = Recorder()
        play(tables, work, saver=recorder, every=2, seed=seed)
        for cut, values in recorder.complete:
            assert (values["w"] == sum(cut.clocks)).all(), f"seed {seed}: {cut}"
            assert (values["v"] == sum(cut.clocks)).all(), f"seed {seed}: {cut}"



@pytest.mark.parametrize("staleness", [0, None])
@pytest.mark.parametrize("ranks", [1, 3])
def test_asking_test_alone_brings_a_save_to_its_end(tmp_path: Path, ranks: int, staleness: int | None) -> None:
    done = mpirun(ranks, f"""
import time, numpy as np, mpips
def work(ps):
    handle = ps.save()
    ps.push("w", np.ones(3, np.float32))
    ps.clock()
    end = time.monotonic() + 20
    while not handle.test():
        assert time.monotonic() < end, "test() never says yes"
        time.sleep(0.01)
    return ps.now
mpips.run(work, [mpips.Dense("w", (3,), mpips.optim.Add(), staleness={staleness})], device="cpu",
          checkpoint=mpips.Checkpoints({str(tmp_path / "ckpt")!r}))
""", timeout=60)
    assert done.code == 0, done
