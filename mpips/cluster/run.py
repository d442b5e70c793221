"""`run`: from one function and a list of tables to servers, workers and readers, and back to the workers' results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from mpips.arrays.device import CHOICES as DEVICES
from mpips.cluster.roles import plain
from mpips.errors import UsageError
from mpips.given import whole
from mpips.optim import ENGINES
from mpips.server import Server
from mpips.server.saving import Restored, Saver
from mpips.table import Table, check_tables
from mpips.trace import Trace, check
from mpips.transport.plan import Plan, make_plan
from mpips.transport.shared import Shared
from mpips.worker import Reader, Worker
from mpips.worker.background import Background
from mpips.worker.device import Device
from mpips.worker.link import Link
from mpips.worker.neighbours import Neighbours, takes_part

NODES = ("real", "single")
COMBINE = (None, "node")
THREADS = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")


class CheckpointPolicy(Protocol):
    """What `run` asks of `checkpoint=`; `mpips.Checkpoints` is one."""

    @property
    def every(self) -> int | None:
        """Clocks between two checkpoints, or None."""

    @property
    def at_end(self) -> bool:
        """Whether to write one when the last worker has ended."""

    def check(self) -> None:
        """Raise UsageError if checkpoints cannot be written where they should."""

    def restore(self) -> Restored | None:
        """Return the checkpoint to start from, if any."""

    def at(self, path: Path) -> Restored:
        """Open the checkpoint that another rank has found."""

    def bind(self, *, seed: int, meta: Any = None, mpi: str = "", clean: bool = True, token: str = "") -> Saver:
        """Return what writes checkpoints for this run."""


@dataclass(frozen=True)
class Job:
    """The arguments of `run` after checking, the same on every rank."""

    work: Callable[[Worker], Any]
    tables: list[Table]
    servers: int | str | tuple[int, str]
    readers: int
    read: Callable[[Reader], Any] | None
    checkpoint: CheckpointPolicy | None
    seed: int
    device: str
    timeout: float
    nodes: str
    reserve: int
    mailboxes: int | None
    meta: Any
    fold: str
    threads: int | None
    around: Callable[[str, int, int], AbstractContextManager[object]]
    trace: str | os.PathLike[str] | None
    combine: str | None

    def facts(self) -> dict[str, str]:
        """All that must be equal on every rank, by what a person calls it."""
        facts: dict[str, Any] = {f"table '{table.name}' {key}": value for table in self.tables
                                 for key, value in table.describe().items()}
        facts["order of the tables"] = [table.name for table in self.tables]
        for key in ("servers", "readers", "seed", "timeout", "nodes", "reserve", "mailboxes", "fold", "combine"):
            facts[key] = getattr(self, key)
        facts["trace"] = self.trace is not None
        facts["checkpoint"] = self.checkpoint and {"every": self.checkpoint.every, "at_end": self.checkpoint.at_end}
        return {name: json.dumps(fact, sort_keys=True) for name, fact in facts.items()}

    def server(self, transport: Any, plan: Plan, index: int, restored: Restored | None, mpi: str = "",
               trace: Trace | None = None, token: str = "") -> Server:
        """Make server number `index`; `token` is this run's alone."""
        policy, threads = self.checkpoint, threads_of(self.threads)
        saver = policy.bind(seed=self.seed, meta=self.meta, mpi=mpi, clean=index == 0, token=token) if policy else None
        spread_out(threads)
        return Server(transport, plan, index, seed=self.seed, engine=self.fold, threads=threads,
                      clocks=self.clocks(plan, restored), saver=saver, every=policy.every if policy else None,
                      at_end=bool(policy and policy.at_end), restored=restored, trace=trace)

    def clocks(self, plan: Plan, restored: Restored | None) -> list[int]:
        """Clock at which each worker starts: its own if nobody waits for anybody and the workers are as many, else the furthest."""
        if restored is None:
            return [0] * plan.workers
        alone = all(table.staleness is None for table in self.tables)
        if alone and len(restored.clocks) == plan.workers:
            return list(restored.clocks)
        return [max(restored.clocks, default=0)] * plan.workers


def run(work: Callable[[Worker], Any], tables: Sequence[Table], *, servers: int | str | tuple[int, str] = 1, readers: int = 0,
        read: Callable[[Reader], Any] | None = None, checkpoint: CheckpointPolicy | None = None, seed: int = 0,
        device: str = "cpu", timeout: float = 300.0, nodes: str = "real", reserve: int = 0,
        mailboxes: int | None = None, meta: Any = None, fold: str = "auto", threads: int | None = None,
        around: Callable[[str, int, int], AbstractContextManager[object]] | None = None,
        trace: str | os.PathLike[str] | None = None, combine: str | None = None) -> list[Any] | None:
    """Run `work(ps)` on every worker rank, with `tables` on the server ranks.

    Every rank of the job calls it, with the same arguments: start the script by `mpirun -n 6 python demo.py` or
    `srun python demo.py`. Started as a single process, it runs one worker and `servers` servers in that process, without readers.

    | argument   | choices                                                                                          |
    |------------|--------------------------------------------------------------------------------------------------|
    | servers    | n: spread over the nodes; "per-node": one on each; (n, "first"): the first n ranks                |
    | readers    | how many ranks run `read(ps)` with a `Reader`: they only pull, while the training goes on         |
    | checkpoint | `mpips.Checkpoints(directory, every=, keep_last=, resume=)`                                       |
    | device     | where workers get their arrays: "cpu", for a `work` of NumPy; "gpu", or "auto" (a GPU if CuPy     |
    |            | finds one), for one that makes its arrays with `ps.xp`: the two kinds do not mix                  |
    | timeout    | seconds after which any wait ends the job, with a line that says who waited for whom: more than    |
    |            | the longest step takes. A checkpoint may take longer, as long as the servers get on with it. Who  |
    |            | has ended waits for who still works up to 12 times as long: a last evaluation may take its time   |
    | nodes      | "real"; "single" treats each rank as alone on its node (tests, benchmarks)                        |
    | reserve    | spare bytes on each server for tables made later by `Worker.create`                               |
    | mailboxes  | bytes on each server for gradients on their way. None: room for two whole gradients of each worker; |
    |            | a number: no more than that, if need be in rings of blocks (staleness 0 only; same results)        |
    | meta       | JSON values kept in every checkpoint                                                              |
    | fold       | what runs the optimizers: "auto", "numpy" or "numba"; the results are the same bit by bit         |
    | threads    | threads of each server's optimizer, with the same results; None: OMP_NUM_THREADS, else             |
    |            | SLURM_CPUS_PER_TASK, else 1. With more than the cores it is bound to, a server unbinds itself      |
    | around     | `around(role, index, rank)` returns a context manager around the rank's whole work (log files)    |
    | trace      | path of a file that rank 0 writes at the end: what every rank did when, see `mpips.trace`         |
    | combine    | None; "node": the workers of a node add up their gradients and one of them pushes the sum, which  |
    |            | means less traffic to the servers; see `mpips.worker.neighbours` for what it changes              |

    Args:
        work: called with a `Worker`; returns None, bool, int, float, str, bytes, an array, or lists, tuples and dicts of these.
        tables: the tables, with unique names.
        read: called with a `Reader`; it should return once `ps.done`: the others wait for it, at most 12 times `timeout`.
        seed: of the initial values. A resumed run needs the same seed if it may still create rows (`mpips.Rows(rows=None)`) whose
            creation or initial values are random.

    Returns:
        On worker 0 the results of all workers in their order, on every other rank None.

    Raises:
        UsageError: wrong arguments, on every rank, before anything is started.

    >>> run(lambda ps: ps.workers, [])                                                # doctest: +SKIP
    [1]
    """
    from mpips.cluster import abort, mpi, world

    mpi.start()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    with abort.installed(comm):
        problem = None
        try:
            job = checked(work=work, tables=tables, servers=servers, readers=readers, read=read, checkpoint=checkpoint, seed=seed,
                          device=device, timeout=timeout, nodes=nodes, reserve=reserve, mailboxes=mailboxes, meta=meta, fold=fold,
                          threads=threads, around=around, trace=trace, combine=combine)
            world.refuse_singletons(comm.Get_size())
            if job.trace is not None and comm.Get_rank() == 0:
                check(job.trace)
        except UsageError as error:
            problem = error
        abort.settle(comm, problem)
        if comm.Get_size() == 1:
            from mpips.cluster.alone import run_alone

            return run_alone(job)
        from mpips.cluster.together import run_together

        return run_together(job, comm)


def _nothing(role: str, index: int, rank: int) -> AbstractContextManager[object]:
    return nullcontext()


def checked(*, tables: Any, around: Any, **others: Any) -> Job:
    """Return the arguments of `run`, all of them by name, as a job, or raise UsageError."""
    for key, least, unit in (("readers", 0, ""), ("reserve", 0, ""), ("seed", 0, ""), ("mailboxes", 1, " of bytes")):
        given = others[key]
        if (found := whole(given, least)) is None and (given is not None or key != "mailboxes"):
            raise UsageError(f"run: {key} {given!r} is not a number{unit} from {least}")
        others[key] = found
    try:
        others["servers"] = plain(others["servers"])
    except UsageError as error:
        raise UsageError(f"run: {error}") from None
    timeout = others["timeout"]
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not float(timeout) > 0:
        raise UsageError(f"run: timeout {timeout!r} is not a number of seconds above 0")
    others["timeout"] = float(timeout)
    job = Job(tables=check_tables(tables), around=around or _nothing, **others)
    if not callable(job.work):
        raise UsageError(f"run: work {job.work!r} is not a function")
    if job.fold not in ENGINES:
        raise UsageError(f"run: fold {job.fold!r} is not one of {ENGINES}")
    threads_of(job.threads)
    if job.nodes not in NODES:
        raise UsageError(f"run: nodes {job.nodes!r} is not one of {NODES}")
    if job.combine not in COMBINE:
        raise UsageError(f"run: combine {job.combine!r} is not one of {COMBINE}")
    if job.seed >= 1 << 64:
        raise UsageError(f"run: seed {job.seed} does not fit into 64 bits")
    if job.checkpoint is not None and not hasattr(job.checkpoint, "bind"):
        raise UsageError(f"run: checkpoint {job.checkpoint!r} is not mpips.Checkpoints(...)")
    if job.read is None and job.readers:
        raise UsageError(f"run: readers={job.readers} without read=, which says what they do")
    if job.read is not None and not (job.readers and callable(job.read)):
        raise UsageError("run: read= without readers=: no rank would run it" if callable(job.read) else
                         f"run: read {job.read!r} is not a function")
    if job.device not in DEVICES:
        raise UsageError(f"run: device {job.device!r} is not one of {DEVICES}")
    return job


def threads_of(threads: int | None, environ: Mapping[str, str] = os.environ) -> int:
    """Return how many threads a server of this process folds with.

    >>> threads_of(None, {"OMP_NUM_THREADS": "4,2", "SLURM_CPUS_PER_TASK": "8"}), threads_of(2)
    (4, 2)
    """
    found: Any = threads
    where = "run: threads"
    if threads is None:
        where = next((name for name in THREADS if environ.get(name)), "")
        found = environ[where].split(",")[0].strip() if where else 1  # OMP_NUM_THREADS may list nested levels
        found = int(found) if isinstance(found, str) and found.isdecimal() else found
    if (count := whole(found, 1)) is None:
        raise UsageError(f"{where} {found!r} is not a number from 1")
    return count


def spread_out(threads: int) -> None:
    """Let this process run on all cores that it can get, if its launcher has bound it to fewer than it has threads (Linux)."""
    if hasattr(os, "sched_setaffinity") and threads > len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the kernel takes out what a job's cgroup does not allow


def make_worker(job: Job, transport: Any, plan: Plan, index: int, now: int, number: int | None, trace: Trace | None,
                shared: Shared | None = None, members: Sequence[int] = (), background: Background | None = None) -> Worker:
    """Make worker `index`, on device `number`; `shared` is the memory that it shares with the workers `members` of its node."""
    link = Link(transport, plan, index, now, job.timeout, combines=shared is not None, trace=trace, background=background)
    return Worker(link, device=Device(number) if number is not None else None, saves=job.checkpoint is not None,
                  neighbours=Neighbours(link, shared, members) if shared else None)


def plan_of(job: Job, servers: int, workers: int, readers: int, far: bool = False) -> Plan:
    """Lay out the job's tables; `far`: whether somebody is on another node than a server."""
    plan = make_plan(job.tables, servers=servers, workers=workers, readers=readers, reserve=job.reserve, mailboxes=job.mailboxes,
                     far=far)
    for table in job.tables if plan.rings and job.combine else ():
        if not takes_part(table):  # its pieces would wait in a ring for workers of the node that wait for this one's clock()
            raise UsageError(f"table '{table.name}': {table.dtype} where mailboxes are rings (run(mailboxes=...)) and "
                             "combine='node'; these two together take float32 and float64")
    return plan


def restore(job: Job) -> Restored | None:
    """Open the checkpoint to start from, compare it with the tables, and check that others can be written."""
    if job.checkpoint is None:
        return None
    restored = job.checkpoint.restore()
    if restored is not None:
        restored.check(job.tables, more=job.reserve > 0, seed=job.seed)  # tables that were created later are created again
    job.checkpoint.check()  # last, for it makes the directory
    if restored is not None:
        declared = {table.name for table in job.tables}
        later = ", ".join(name for name in restored.tables if name not in declared)
        wanted = f"; the next checkpoint has table {later} only if it is created again before" if later else ""
        print(f"mpips: resumed from {restored.path}, clock {max(restored.clocks)}{wanted}", file=sys.stderr, flush=True)
    return restored
