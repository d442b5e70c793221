from __future__ import annotations

import json

import numpy as np

from mpips import __version__
from mpips.cluster.agree import difference, spans, versions
from mpips.transport.words import PROTOCOL
from tests.mpirun import mpirun, vendor


def test_what_all_ranks_must_share() -> None:
    assert vendor() in versions()["MPI"]
    assert versions()["mpips"] == __version__
    assert versions()["NumPy"] == np.__version__
    assert versions()["protocol"] == str(PROTOCOL)


def test_every_difference_is_named_with_its_ranks() -> None:
    everyone = [{"mpips": "1", "layout": "ab" * 32}, {"mpips": "1", "layout": "cd" * 32}, {"layout": "ab" * 32}]
    assert difference(everyone) == ("layout: abababababab on ranks 0, 2 and cdcdcdcdcdcd on rank 1; "
                                    "mpips: 1 on ranks 0-1 and nothing on rank 2")
    assert difference([{"a": "1"}] * 3) == ""


def test_spans() -> None:
    assert [spans(r) for r in ([], [3], [0, 1], [0, 2, 3, 4, 9])] == ["", "3", "0-1", "0, 2-4, 9"]


SAME = """
from mpi4py import MPI
from mpips.cluster.agree import agree
agree(MPI.COMM_WORLD, {"layout": "x", "tables": "y" * 100_000})
print("agreed")
"""


def test_ranks_that_are_equal_agree() -> None:
    done = mpirun(3, SAME)
    assert (done.code, done.out.split()) == (0, ["agreed"] * 3), done


DIFFERENT = """
import json
from mpi4py import MPI
from mpips.cluster.agree import agree
from mpips.errors import UsageError
rank = MPI.COMM_WORLD.rank
try:
    agree(MPI.COMM_WORLD, {"layout": "x", "seed": "1" if rank < 2 else "a much longer value \\u00fc"})
except UsageError as error:
    print(json.dumps([rank, str(error), error.alike]))
"""


def test_a_difference_is_the_same_error_on_every_rank() -> None:
    done = mpirun(4, DIFFERENT)
    line = "the ranks differ in seed: 1 on ranks 0-1 and a much longer value ü on ranks 2-3"
    assert done.code == 0, done
    assert sorted(map(json.loads, done.out.splitlines())) == [[rank, line, True] for rank in range(4)], done


def test_a_long_difference_is_cut_short() -> None:
    everyone = [{"seed": "1", **{f"table '{t}' init": f"{rank}" for t in range(9)}} for rank in range(64)]
    said = difference(everyone)
    assert said.startswith("table '0' init: 0 on rank 0 and 1 on rank 1 and 2 on rank 2 and 3 on rank 3 and 60 others; table '1'")
    assert said.endswith("; 5 more")


LATE = """
import sys, time
import numpy as np
from mpi4py import MPI
from mpips.cluster.agree import meet
from mpips.errors import WaitTimeout
comm = MPI.COMM_WORLD
if comm.rank in MISSING:
    time.sleep(4)
    sys.stdout.flush()
    comm.Abort(7)
try:
    meet(comm, np.zeros(3, "u1"), 1.0)
except WaitTimeout as error:
    print(comm.rank, error, flush=True)
    time.sleep(60)
"""


def test_a_rank_that_does_not_come_is_named() -> None:
    done = mpirun(4, LATE.replace("MISSING", "(1, 3)"))
    assert sorted(done.out.splitlines()) == [
        "0 waited 1 s at the start for ranks 1, 3",
        "2 waited 1 s at the start for rank 0, or for those that it waits for",
    ], done


def test_rank_0_does_not_come() -> None:
    done = mpirun(2, LATE.replace("MISSING", "(0,)"))
    assert done.out.splitlines() == ["1 waited 1 s at the start for rank 0, or for those that it waits for"], done


MEET = """
import json
import numpy as np
from mpi4py import MPI
from mpips.cluster.agree import meet
comm = MPI.COMM_WORLD
for k in range(50):
    rows = meet(comm, np.array([comm.rank, k], "u1"))
    assert rows.tolist() == [[r, k] for r in range(comm.size)]
print("met")
"""


def test_everybody_gets_everybodys_row() -> None:
    done = mpirun(4, MEET)
    assert (done.code, done.out.split()) == (0, ["met"] * 4), done
