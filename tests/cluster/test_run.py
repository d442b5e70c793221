"""Wrong arguments of `run` and of the verbs: one UsageError that names what is wrong, before anything starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpips
from mpips.cluster.run import spread_out, threads_of
from mpips.errors import USAGE, ProtocolError, UsageError

TABLE = mpips.Dense("w", (3,), mpips.optim.SGD(lr=0.1))
LARGE = mpips.Dense("large", (3_000_000,), mpips.optim.SGD(lr=0.1), dtype="float16")
ASP = mpips.Dense("asp", (3,), mpips.optim.SGD(lr=0.1), staleness=None)
GRADIENT = np.ones(3, np.float32)


@pytest.mark.parametrize(("arguments", "says"), [
    ({"work": 3}, "run: work 3 is not a function"),
    ({"tables": None}, "tables: None is not a list of tables"),
    ({"tables": TABLE}, "is not a list of tables"),
    ({"tables": [TABLE, TABLE]}, "table 'w' is declared twice"),
    ({"tables": ["w"]}, "'w' is not a table"),
    ({"seed": -1}, "run: seed -1"),
    ({"seed": 1 << 64}, "does not fit into 64 bits"),
    ({"timeout": "5"}, "run: timeout '5'"),
    ({"timeout": 0}, "run: timeout 0"),
    ({"readers": 1}, "readers=1 without read=, which says what they do"),
    ({"read": len}, "read= without readers=: no rank would run it"),
    ({"readers": 1, "read": "evaluate"}, "run: read 'evaluate' is not a function"),
    ({"checkpoint": "runs"}, "run: checkpoint 'runs' is not mpips.Checkpoints"),
    ({"fold": "fast"}, "run: fold 'fast'"),
    ({"threads": 0}, "run: threads 0 is not a number from 1"),
    ({"nodes": "none"}, "run: nodes 'none'"),
    ({"combine": "nodes"}, "run: combine 'nodes' is not one of (None, 'node')"),
    ({"combine": True}, "run: combine True is not one of"),
    ({"combine": ["node"]}, "run: combine ['node'] is not one of"),
    ({"mailboxes": 0}, "run: mailboxes 0 is not a number of bytes from 1"),
    ({"mailboxes": 2.5}, "run: mailboxes 2.5 is not a number of bytes from 1"),
    ({"mailboxes": 1 << 20, "tables": [LARGE]}, "run: mailboxes=1048576 bytes for 1 workers: each needs a ring of two blocks"),
    ({"mailboxes": 5 << 20, "tables": [LARGE, ASP]}, "table 'asp': staleness None where mailboxes are rings"),
    ({"mailboxes": 5 << 20, "tables": [LARGE], "combine": "node"}, "table 'large': float16 where mailboxes are rings"),
    ({"device": "tpu"}, "run: device 'tpu'"),
    ({"servers": 0}, "run: servers=0"),
    ({"servers": (1, "last")}, "run: servers=(1, 'last')"),
    ({"meta": {"a": object()}, "checkpoint": True}, "run: checkpoint True"),
])
def test_wrong_arguments(arguments: dict[str, Any], says: str) -> None:
    given = {"work": lambda ps: pytest.fail("it was started"), "tables": [TABLE], **arguments}
    with pytest.raises(UsageError) as caught:
        mpips.run(given.pop("work"), given.pop("tables"), **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("verb", "says"), [
    (lambda ps: ps.pull(3), "pull: 3 is neither"),
    (lambda ps: ps.pull("v"), "unknown table 'v'; the tables are: w"),
    (lambda ps: ps.pull(["w", "w"], out=[GRADIENT]), "2 tables, but out has 1 arrays"),
    (lambda ps: ps.pull("w", out=np.ones(4, np.float32)), "table 'w': out must be an array of shape (3,) and dtype float32"),
    (lambda ps: ps.push(["w"], GRADIENT), "push: ['w'] is neither"),
    (lambda ps: ps.push({"w": GRADIENT}, GRADIENT), "push: a dict of gradients and another gradient"),
    (lambda ps: ps.push("w", [1, 2, 3]), "table 'w': a push takes an array"),
    (lambda ps: ps.push("w", GRADIENT.astype(np.float64)), "dtype float32, not (3,) of float64"),
    (lambda ps: ps.push("w", GRADIENT, more=True), "table 'w': the end after push(more=True)"),
    (lambda ps: ps.push("w", memoryview(GRADIENT)), "dtype float32, not builtins.memoryview (3,) of None"),
    (lambda ps: ps.push({"w": GRADIENT}, rows=[0]), "push: rows= goes with one table's name, not with a dict"),
    (lambda ps: ps.create(mpips.Dense("v", (3,), mpips.optim.SGD(lr=0.1))), "table 'v': there is no space to create it in"),
    (lambda ps: ps.save(), "save: run() was given no checkpoint"),
])
def test_wrong_use_of_a_verb(verb: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        mpips.run(verb, [TABLE], device="cpu", timeout=5)
    assert says in str(caught.value)


def test_a_loop_without_clock_is_told_about_it() -> None:
    def work(ps: mpips.Worker) -> None:
        for _ in range(2):
            ps.push("w", GRADIENT)

    with pytest.raises(ProtocolError, match=r"'w' is closed for clock 0: .* end the step with clock\(\)"):
        mpips.run(work, [TABLE], device="cpu")


@pytest.mark.parametrize("late", [
    lambda ps: ps.pull("w"), lambda ps: ps.pull("w", out=np.empty(3, np.float32)), lambda ps: ps.push("w", GRADIENT),
    lambda ps: ps.clock(), lambda ps: ps.view("w").__enter__(), lambda ps: ps.ipull(["w"]), lambda ps: ps.barrier(),
])
def test_a_worker_has_no_verbs_after_its_end(late: Any) -> None:
    """In one process they would seem to work; beside other ranks the windows are gone."""
    kept: list[mpips.Worker] = []

    def work(ps: mpips.Worker) -> None:
        ps.pushpull({"w": GRADIENT})
        kept.append(ps)

    mpips.run(work, [TABLE], device="cpu")
    with pytest.raises(ProtocolError, match="worker 0 has ended: its verbs are for the function that run"):
        late(kept[0])
    assert (kept[0].now, kept[0].stats["pushes"], repr(kept[0])) == (1, 1, "<worker 0 of 1, clock 1>")


@pytest.mark.parametrize(("threads", "environ", "found"), [
    (None, {}, 1), (3, {"OMP_NUM_THREADS": "2"}, 3), (None, {"OMP_NUM_THREADS": "2", "SLURM_CPUS_PER_TASK": "8"}, 2),
    (None, {"SLURM_CPUS_PER_TASK": "8"}, 8), (None, {"OMP_NUM_THREADS": ""}, 1), (None, {"OMP_NUM_THREADS": "4,2"}, 4),
])
def test_how_many_threads_fold(threads: int | None, environ: dict[str, str], found: int) -> None:
    assert threads_of(threads, environ) == found


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_server_with_threads_leaves_the_core_it_was_bound_to() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        spread_out(1)
        assert os.sched_getaffinity(0) == {min(before)}
        spread_out(2)
        assert os.sched_getaffinity(0) >= before
    finally:
        os.sched_setaffinity(0, before)


def test_threads_that_are_no_number() -> None:
    with pytest.raises(UsageError, match="OMP_NUM_THREADS 'many' is not a number from 1"):
        threads_of(None, {"OMP_NUM_THREADS": "many"})


def born(name: str = "word", **options: Any) -> mpips.Rows:
    return mpips.Rows(name, **{"rows": None, "capacity": 9, "dim": 2, "optimizer": mpips.optim.SGD(lr=0.1), **options})


RANDOM = mpips.init.normal(1.0)


@pytest.mark.parametrize(("table", "refused"), [
    (born(init=RANDOM), True), (born(admit=0.5), True), (born(init=mpips.init.xavier(), admit=2), True), (born(admit=2), False),
    (born(init=mpips.init.normal(1.0, seed=4)), False), (born(rows=9, capacity=None, init=RANDOM), False), (TABLE, False),
    (mpips.Dense("w", (3,), mpips.optim.SGD(lr=0.1), init=RANDOM), False),
])
def test_rows_that_are_yet_to_be_born_follow_from_one_seed(tmp_path: Path, table: Any, refused: bool) -> None:
    def go(seed: int, resume: str | None) -> None:
        mpips.run(lambda ps: ps.clock(), [table], device="cpu", seed=seed, checkpoint=mpips.Checkpoints(tmp_path, resume=resume))

    go(3, None)
    go(3, "latest")
    if refused:
        with pytest.raises(UsageError, match="table 'word': seed 3 in the checkpoint, 4 here") as caught:
            go(4, "latest")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == USAGE
    else:
        go(4, "latest")


def test_a_resumed_run_is_told_which_tables_it_must_create_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would silently be missing in its checkpoints."""
    def go(*names: str) -> tuple[list[Any] | None, str]:
        def work(ps: mpips.Worker) -> float:
            for name in names:
                ps.create(mpips.Dense(name, (3,), mpips.optim.Add()))
                ps.push(name, GRADIENT)
            ps.clock()
            return sum(float(ps.pull(name)[0]) for name in names)

        done = mpips.run(work, [TABLE], device="cpu", reserve=1 << 12, checkpoint=mpips.Checkpoints(tmp_path, resume="auto"))
        return done, capsys.readouterr().err

    assert go("head", "tail") == ([2.0], "")
    for done, said in (go("head", "tail"), go()):
        assert done in ([4.0], [0.0])
        assert "table head, tail only if it is created again" in said
    assert "created" not in go()[1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no list of open files")
def test_a_checkpoint_is_closed_once_the_servers_have_started_from_it(tmp_path: Path) -> None:
    def shards(ps: Any) -> list[str]:
        files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [file for file in files if file.startswith(str(tmp_path))]

    mpips.run(lambda ps: ps.clock(), [TABLE], device="cpu", checkpoint=mpips.Checkpoints(tmp_path))
    again = mpips.Checkpoints(tmp_path, resume="latest")
    assert mpips.run(shards, [TABLE], servers=2, device="cpu", checkpoint=again) == [[]]


def test_one_process_has_no_readers_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert mpips.run(lambda ps: ps.workers, [TABLE], servers=3, readers=2, read=lambda ps: None, device="cpu") == [1]
    assert caplog.messages == ["one process: the 2 reader(s) are left out"]
