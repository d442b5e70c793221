"""Random programs on the model transport, and what must be true of all that they read.

Every push of a table adds a power of two of its own to all elements, so each value read says which pushes it has, each of
them once.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpips import Dense, optim
from mpips.layout import grid
from mpips.worker import Reader, Worker
from mpips.worker.push import Push
from tests.playing import Recorder, play

BITS = 17  # pushes of one worker to one table at most: three workers' fit into a float64


def tables(*staleness: int | None, size: int = 20) -> list[Dense]:
    """Tables a, b, ... of several blocks."""
    return [Dense(chr(97 + i), (size + 7 * i,), optim.Add(), staleness=s, dtype="float64") for i, s in enumerate(staleness)]


@dataclass
class Read:
    """One pull: by whom, begun in which clock, of what."""

    client: str
    worker: int
    clock: int
    table: str
    value: np.ndarray[Any, Any]
    late: bool = False  # it was done some time before this was noted


@dataclass
class Chaos:
    """One job: draw it, run it, check it.

    Args:
        seed: of the program and of the schedule.
        every: clocks between two checkpoints; `saves` lets workers ask for more.
        singly: part of the pushes and pulls that are one for each table, by the short way where it has one.
    """

    tables: list[Dense]
    seed: int
    workers: int = 2
    servers: int = 1
    readers: int = 0
    clocks: int = 4
    every: int | None = None
    saves: bool = False
    at_end: bool = False
    barriers: bool = True
    created: list[Dense] = field(default_factory=list)
    mailboxes: int | None = None
    nodes: tuple[int, ...] | None = None
    singly: float = 0.3

    def __post_init__(self) -> None:
        self.pushes: dict[str, list[tuple[int, int, float]]] = defaultdict(list)  # table -> (worker, clock, its power of two)
        self.reads: list[Read] = []
        self.final: list[int] = [0] * self.workers
        self.known = {t.name: t for t in self.tables + self.created}
        self.recorder: Recorder | None = None

    def run(self) -> Chaos:
        """Run the job and check everything."""
        if self.every or self.saves or self.at_end:
            self.recorder = Recorder(pace=1 + self.seed % 7)
        options = {"every": self.every, "at_end": self.at_end} if self.recorder else {}
        self.results = play(self.tables, self._work, workers=self.workers, servers=self.servers, readers=self.readers,
                            read=self._read if self.readers else None, seed=self.seed, saver=self.recorder,
                            reserve=1 << 16 if self.created else 0, mailboxes=self.mailboxes, nodes=self.nodes, **options)
        self.check()
        return self

    def _work(self, ps: Worker) -> None:
        draw = random.Random(self.seed * 31 + ps.index)
        together = random.Random(self.seed)
        steps = draw.randint(max(1, self.clocks - 3), self.clocks)
        create = {together.randrange(self.clocks): t for t in self.created}
        for c in range(self.clocks):
            meet = self.barriers and together.random() < 0.2
            if c >= steps:
                break
            if meet and draw.random() < 2:
                ps.barrier()
            if c in create and draw.random() < 0.7:
                ps.create(create[c])
            for _ in range(draw.randint(1, 4)):
                verb = draw.choice(["_pull", "_pull", "_push", "_push", "_pull_late", "_push_late", "_go_on", "_view", "_more"])
                getattr(self, verb)(ps, draw)
            if self.saves and draw.random() < 0.2:
                ps.save()
            for wait in self._late(ps, draw):
                wait()
            self.final[ps.index] = ps.clock()
        self._pull(ps, draw)
        if draw.random() < 0.5:
            self._push(ps, draw)
            if any(clock == ps.now for p in self.pushes.values() for k, clock, _ in p if k == ps.index):
                self.final[ps.index] = ps.now + 1

    def _late(self, ps: Worker, draw: random.Random) -> list[Any]:
        """Waits of what was begun, in any order, or none of them."""
        waits, ps._begun = getattr(ps, "_begun", []), []  # type: ignore[attr-defined]
        draw.shuffle(waits)
        return waits[: draw.randint(0, len(waits))]

    def _some(self, ps: Worker, draw: random.Random) -> list[str]:
        names = [n for n in ps.tables if n in self.known]
        return draw.sample(names, draw.randint(1, len(names)))

    def _pull(self, ps: Worker, draw: random.Random) -> None:
        names = self._some(ps, draw)
        values = [ps.pull(name) for name in names] if draw.random() < self.singly else ps.pull(names)
        for name, value in zip(names, values, strict=True):
            self._saw(ps, name, value, ps.now)

    def _view(self, ps: Worker, draw: random.Random) -> None:
        name = self._some(ps, draw)[0]
        with ps.view(name) as value:
            self._saw(ps, name, value.copy(), ps.now)

    def _pull_late(self, ps: Worker, draw: random.Random) -> None:
        names, now = self._some(ps, draw), ps.now
        handle = ps.ipull(names)

        def wait() -> None:
            for name, value in zip(names, handle.wait(), strict=True):
                self._saw(ps, name, value, now, late=True)

        ps._begun = [*getattr(ps, "_begun", []), wait]  # type: ignore[attr-defined]
        ps._beside = [*getattr(ps, "_beside", []), handle.pull]  # type: ignore[attr-defined]

    def _go_on(self, ps: Worker, draw: random.Random) -> None:
        """Do what is done beside a worker's compute where servers are elsewhere."""
        for begun in getattr(ps, "_beside", []):
            begun.go_on(draw.choice([1, 100]))

    def _gradients(self, ps: Worker, draw: random.Random) -> dict[str, np.ndarray[Any, Any]]:
        out = {}
        for name in self._some(ps, draw):
            table = self.known[name]
            mine = [clock for k, clock, _ in self.pushes[name] if k == ps.index]
            if len(mine) < BITS and not (table.staleness == 0 and ps.now in mine):
                bit = 2.0 ** (ps.index * BITS + len(mine))
                self.pushes[name].append((ps.index, ps.now, bit))
                out[name] = np.full(table.shape, bit)
        return out

    def _push(self, ps: Worker, draw: random.Random) -> None:
        gradients = self._gradients(ps, draw)
        if draw.random() >= self.singly:
            ps.push(gradients)
            return
        for name, gradient in gradients.items():
            ps.push(name, gradient)

    def _push_late(self, ps: Worker, draw: random.Random) -> None:
        handle = ps.ipush(self._gradients(ps, draw))
        if isinstance(handle.push, Push):
            ps._beside = [*getattr(ps, "_beside", []), handle.push]  # type: ignore[attr-defined]
        if draw.random() < 0.3:
            ps._begun = [*getattr(ps, "_begun", []), handle.wait]  # type: ignore[attr-defined]

    def _more(self, ps: Worker, draw: random.Random) -> None:
        gradients = self._gradients(ps, draw)
        for name, gradient in gradients.items():
            ps.push(name, gradient * 0.25, more=True)
            ps.push(name, gradient * 0.75)

    def _saw(self, ps: Worker | Reader, table: str, value: Any, clock: int, late: bool = False) -> None:
        self.reads.append(Read(f"{ps.role} {ps.index}", ps.index if ps.role == "worker" else -1, clock, table, value, late))

    def _read(self, ps: Reader) -> None:
        while True:
            last = ps.done
            for name in ps.tables:
                if name in self.known:
                    self._saw(ps, name, ps.pull(name), -1)
            if last:
                return

    def check(self) -> None:
        """Compare all that was read, saved and left in the end with the pushes."""
        newest: dict[tuple[str, str, int], int] = {}
        for read in self.reads:
            have = self._whole(read.value, self.known[read.table], f"{read}")
            table = self.known[read.table]
            if table.staleness == 0:
                assert len(set(have)) <= 1, f"torn between blocks: {read}"
            for block, bits in enumerate(have):
                self._promise(read, table, bits)
                key = (read.client, read.table, block)
                if not read.late:
                    assert newest.get(key, 0) & ~bits == 0, f"older than an earlier read: {read}"
                    newest[key] = bits
        self._check_end()
        if self.recorder:
            self._check_cuts(self.recorder)

    def _whole(self, value: np.ndarray[Any, Any], table: Dense, what: str) -> list[int]:
        """Each block's pushes as bits; no block is torn."""
        out = []
        for start, stop in grid(table.size, table.np_dtype.itemsize):
            block = value[start:stop]
            assert (block == block[0]).all(), f"torn block: {what}"
            out.append(int(block[0]))
        return out

    def _promise(self, read: Read, table: Dense, bits: int) -> None:
        pushes = self.pushes[read.table]
        everything = _sum(pushes)
        assert bits & ~everything == 0, f"a push that nobody made, or one twice: {read}"
        if table.staleness == 0:
            clocks = [read.clock] if read.worker >= 0 else range(max(self.final) + 1)
            assert bits in [_sum(p for p in pushes if p[1] < c) for c in clocks], f"not the version of its clock: {read}"
        elif read.worker >= 0:
            seen = -1 if table.staleness is None else read.clock - table.staleness
            need = _sum(p for p in pushes if p[1] < seen or (p[0] == read.worker and p[1] < read.clock))
            assert need & ~bits == 0, f"too old: {read}"

    def _check_end(self) -> None:
        for server in range(self.servers):
            for piece in self.results[f"server {server}"]:
                pushes = self.pushes[piece.table.name]
                assert (piece.value == _sum(pushes)).all(), f"in the end: {piece}"
                if piece.table.staleness != 0:
                    assert piece.folds == len(pushes), f"in the end: {piece}"

    def _check_cuts(self, recorder: Recorder) -> None:
        seen = set()
        for cut, values in recorder.complete:
            assert cut not in seen, f"twice the same {cut}"
            seen.add(cut)
            for name, value in values.items():
                want = _sum(p for p in self.pushes[name] if p[1] < cut.clocks[p[0]])
                assert (value == want).all(), f"{cut}: table {name} is {value}, not {want}"
        if self.at_end:
            assert recorder.complete or not any(self.final)
            if any(self.final):
                assert recorder.complete[-1][0].clocks == tuple(self.final)


def _sum(pushes: Any) -> int:
    return int(sum(bit for _, _, bit in pushes))
