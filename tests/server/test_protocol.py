"""Random programs on the model transport: what is read keeps the promises, and broken protocols are caught by the same checks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpips import Dense, Rows, layout, optim
from mpips.transport.model import Deadlock
from mpips.transport.words import COMMIT
from mpips.worker import Reader, Worker
from mpips.worker.link import Link
from tests import broken
from tests.chaos import Chaos, tables
from tests.playing import Recorder, build, play, small_blocks

STALENESS = [(0,), (2,), (None,), (0, 2, None)]


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


@pytest.mark.parametrize("staleness", STALENESS)
@pytest.mark.parametrize(("workers", "servers", "readers"), [(1, 1, 0), (2, 1, 1), (2, 2, 0), (3, 2, 1)])
def test_every_read_keeps_its_promise(staleness: tuple[int | None, ...], workers: int, servers: int, readers: int) -> None:
    for seed in range(6):
        Chaos(tables(*staleness), seed, workers, servers, readers).run()


@pytest.mark.parametrize("staleness", STALENESS)
@pytest.mark.parametrize("servers", [1, 2])
def test_every_checkpoint_is_a_cut(staleness: tuple[int | None, ...], servers: int) -> None:
    for seed in range(6):
        Chaos(tables(*staleness), seed, workers=3, servers=servers, every=2, saves=seed % 2 == 0, at_end=True).run()


@pytest.mark.parametrize("staleness", [0, None])
def test_tables_created_by_several_workers(staleness: int | None) -> None:
    for seed in range(6):
        later = [Dense("later", (30,), optim.Add(), staleness=staleness, dtype="float64")]
        Chaos(tables(staleness), seed, workers=3, servers=2, every=2, created=later).run()


def _chaos(staleness: int | None) -> Callable[[int], None]:
    return lambda seed: Chaos(tables(staleness, size=40), seed, workers=3, servers=1, readers=1, clocks=6).run()


def _torn(seed: int) -> None:
    """Readers look at one block without pause while it is folded without pause."""
    def work(ps: Worker) -> None:
        for _ in range(8):
            ps.push("w", np.full(8, 1.0))
            ps.clock()

    def read(ps: Reader) -> None:
        while not ps.done:
            value = ps.pull("w")
            assert (value == value[0]).all(), f"torn block: {value}"

    tables = [Dense("w", (8,), optim.Add(), staleness=None, dtype="float64")]
    build(tables, work, readers=2, read=read, seed=seed).run(limit=50_000)


def test_readers_that_never_pause_find_no_torn_block() -> None:
    for seed in range(30):
        _torn(seed)


def test_ten_million_floats_are_never_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as large as in life, read without pause while they are folded; `tests/jobs/test_torture.py` does it on MPI."""
    monkeypatch.undo()
    size, reads = 10_000_000, 0
    cells = layout.grid(size, 4)

    def work(ps: Worker) -> None:
        for _ in range(2):
            ps.push("w", np.ones(size, np.float32))
            ps.clock()

    def read(ps: Reader) -> None:
        nonlocal reads
        values, done = np.empty(size, np.float32), False
        while not done:
            done = ps.done
            ps.pull("w", out=values)
            assert all(values[a] == values[b - 1] and values[a:b].min() == values[a:b].max() for a, b in cells), "a torn block"
            reads += 1
        assert values.min() == values.max() == 2.0, "what is read when all is done is final"

    build([Dense("w", (size,), optim.Add(), staleness=None)], work, workers=1, readers=1, read=read, seed=4).run()
    assert reads >= 3


@pytest.mark.parametrize("mistake", broken.ALL, ids=lambda f: f.__name__)
def test_a_broken_protocol_is_caught(mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    caught: list[Any] = []
    for seed in range(60):
        for program in (_chaos(None), _chaos(0), _torn):
            try:
                program(seed)
            except Exception as error:  # noqa: BLE001 - a broken protocol may fail in any way
                caught.append(error)
        if caught:
            return
    pytest.fail(f"{mistake.__name__} was not noticed")


def test_a_push_that_is_left_out_is_left_out_in_every_schedule() -> None:
    """Its stamp is written again once NaN is found; also where the servers are on other nodes, and stores arrive in any order."""
    def work(ps: Worker) -> Any:
        for clock in range(4):
            gradient = np.full(20, 1.0)
            gradient[-1] = np.nan if clock % 2 else 1.0
            ps.push({"a": np.full(20, 1.0), "w": gradient})
            ps.clock()
        return ps.pull("w")

    kinds = [Dense(name, (20,), optim.Add(), dtype="float64", nonfinite="skip") for name in ("a", "w")]
    for seed in range(8):
        assert (play(kinds, work, seed=seed, servers=2)["worker 1"] == 4).all()


@pytest.mark.parametrize("staleness", [0, 2, None])
@pytest.mark.parametrize("told", [0, 1, 2])
def test_a_push_whose_worker_dies_is_in_no_checkpoint(monkeypatch: pytest.MonkeyPatch, staleness: int | None, told: int) -> None:
    """It dies when its third push has been committed on so many of the two servers; the job would be ended then."""
    tell_all = Link.tell_all

    def dying(link: Link, word: int, value: int) -> None:
        if (link.index, word, value) != (1, COMMIT, 3):
            tell_all(link, word, value)
            return
        for server in range(told):
            link.tell(server, word, value)
        while True:
            link.transport.pause(0)

    monkeypatch.setattr(Link, "tell_all", dying)

    def work(ps: Worker) -> None:
        for _ in range(5):
            ps.pull("w")
            ps.push("w", np.full(60, 1.0 + 100 * ps.index))
            ps.clock()

    saved, kinds = 0, [Dense("w", (60,), optim.Add(), staleness=staleness, dtype="float64")]
    for seed in range(4):
        recorder = Recorder()
        with pytest.raises(Deadlock):
            build(kinds, work, servers=2, seed=seed, saver=recorder, every=1).run(limit=20_000)
        for cut, values in recorder.complete:
            assert cut.clocks[1] <= 2
            assert (values["w"] == cut.clocks[0] + 101 * cut.clocks[1]).all(), f"seed {seed}: {cut}"
            saved += 1
    assert saved


@pytest.mark.parametrize("staleness", [0, 1, None])
def test_a_mean_is_over_the_workers_whatever_the_staleness(staleness: int | None) -> None:
    def work(ps: Worker) -> Any:
        for _ in range(4):
            ps.push("w", np.full(5, 1.0))
            ps.push("r", np.full((2, 3), 1.0), rows=[1, 2])
            ps.clock()
        ps.barrier()
        return None

    common: Any = {"optimizer": optim.Add(), "staleness": staleness, "dtype": "float64", "combine": "mean"}
    done = play([Dense("w", (5,), **common), Rows("r", rows=3, dim=3, **common)], work, workers=2, seed=3)
    w, *r = done["server 0"]
    assert w.value.tolist() == [4] * 5
    assert sum(piece.value.sum() for piece in r) == 2 * 3 * 4


@pytest.mark.parametrize("staleness", [2, None])
def test_where_workers_are_apart_the_rate_is_that_of_the_slowest(staleness: int | None) -> None:
    """Worker 1 stays in its first clock until everything that worker 0 may do before is published."""
    ahead = 2

    def work(ps: Worker) -> None:
        if ps.index:
            while ps.pull("w")[0] > -ahead:
                pass
        for _ in range(ahead):
            ps.ipush("w", np.ones(5)).wait(applied=True)
            ps.clock()
        ps.barrier()

    rule = optim.SGD(lr=optim.Step(1.0, every=1, gamma=0.5))  # 1, 1/2, 1/4, ...
    done = play([Dense("w", (5,), rule, staleness=staleness, dtype="float64")], work, seed=3)
    assert done["server 0"][0].value.tolist() == [-ahead - 1 - 0.5] * 5


def test_a_reader_can_be_shown_after_its_end() -> None:
    """In a debugger, or in a message: it asks the servers for nothing then."""
    kept: list[Reader] = []

    def read(ps: Reader) -> None:
        assert repr(ps) == "<reader 0, clock 0>"
        kept.append(ps)

    play([Dense("w", (3,), optim.Add())], lambda ps: None, workers=1, readers=1, read=read)
    assert repr(kept[0]) == "<reader 0, ended>"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_block_that_is_read_early_is_of_this_clock(workers: int) -> None:
    """A worker two clocks ahead of the fold: words read one after the other may belong to both folds that it waits for."""
    def work(ps: Worker) -> None:
        for _ in range(6):
            for _ in range(2):
                ps.push("w", np.ones(40))
                ps.clock()
            assert (ps.pull("w") == ps.now * workers).all()

    for seed in range(40):
        play([Dense("w", (40,), optim.Add(), dtype="float64")], work, workers=workers, seed=seed)


def _one_is_ahead(seed: int) -> None:
    """Worker 1 reads clock after clock again once its own push is published, while worker 0 pushes for the clock after."""
    def work(ps: Worker) -> None:
        for clock in range(4):
            handle = ps.ipush("w", np.full(24, 1.0))
            handle.wait(applied=ps.index == 1)
            if ps.index == 1:
                for _ in range(3):
                    assert (ps.pull("w") == 2 * clock).all()
            ps.clock()

    build([Dense("w", (24,), optim.Add(), staleness=0, dtype="float64")], work, seed=seed).run(limit=20_000)


def test_a_worker_reads_its_own_clock_while_another_is_ahead() -> None:
    for seed in range(0, 60, 2):
        _one_is_ahead(seed)


def test_folding_ahead_of_a_worker_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    broken.begun_ahead_of_a_worker(monkeypatch)
    with pytest.raises(Exception, match=r"worker|steps|waits"):
        deque(map(_one_is_ahead, range(0, 60, 2)))
