"""What stands between a rank and Slurm while MPI starts."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from mpips.cluster import pmi
from mpips.cluster.pmi import LONGEST, short_requests

READ = 1024  # bytes that Slurm reads of a line
MAXES = b"cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max="


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give Slurm's and the rank's end, before MPI has started."""
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    slurm, rank = socket.socketpair()
    with slurm, rank:
        slurm.settimeout(10)
        yield slurm, rank


def says(sender: socket.socket, receiver: socket.socket, line: bytes) -> bytes:
    sender.sendall(line)
    return receiver.recv(4096)


def test_a_value_is_shorter_and_all_else_is_as_it_was(ends: tuple[socket.socket, socket.socket]) -> None:
    slurm, rank = ends
    with short_requests({"PMI_FD": str(rank.fileno()), "SLURM_STEP_ID": "0"}):
        assert says(rank, slurm, b"cmd=get_maxes\n") == b"cmd=get_maxes\n"
        assert says(slurm, rank, MAXES + b"1024\n") == MAXES + LONGEST + b"\n"
        for line in (MAXES + b"512\n", b"cmd=get_result rc=0 value=vallen_max=1024\n", b"36    cmd=kvs-get-response;rc=0;"):
            assert says(slurm, rank, line) == line
        put = b"cmd=put value=" + b"5A" * 505 + b"\n"
        assert says(rank, slurm, put) == put
    assert says(rank, slurm, b"cmd=finalize\n") == b"cmd=finalize\n"
    assert says(slurm, rank, MAXES + b"1024\n") == MAXES + b"1024\n"  # it is Slurm itself again


def test_the_longest_line_is_read_at_once() -> None:
    head = f"cmd=put kvsname={2**32 - 1}.{2**32 - 1} key={'k' * 49} value="  # MPICH has room for 49 letters
    assert int(LONGEST) % 2 == 0
    assert len(head) + int(LONGEST) + len("\n") <= READ


@pytest.fixture
def no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would start one fails."""
    monkeypatch.setattr("subprocess.Popen", None)


@pytest.mark.parametrize("number", ["987654", "0", "", None])
@pytest.mark.usefixtures("no_helper")
def test_what_is_no_socket_is_left_alone(number: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a program that a rank has started without the rank's files, which MPI may start alone."""
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with short_requests({"SLURM_STEP_ID": "0", **({} if number is None else {"PMI_FD": number})}):
        pass


@pytest.mark.usefixtures("no_helper")
def test_outside_a_step_of_slurm_nothing_is_done(ends: tuple[socket.socket, socket.socket]) -> None:
    with short_requests({"PMI_FD": str(ends[1].fileno())}):
        pass


@pytest.mark.usefixtures("no_helper")
def test_without_a_python_to_start_nothing_is_done(ends: tuple[socket.socket, socket.socket],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with short_requests({"PMI_FD": str(ends[1].fileno()), "SLURM_STEP_ID": "0"}):
        pass


@pytest.mark.usefixtures("no_helper")
def test_after_mpi_has_started_nothing_is_done(ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", sys)
    with short_requests({"PMI_FD": str(ends[1].fileno()), "SLURM_STEP_ID": "0"}):
        pass


def test_what_holds_the_socket_does_not_hold_the_rank(ends: tuple[socket.socket, socket.socket],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmi, "LIMIT", 0.1)
    slurm, rank = ends
    with short_requests({"PMI_FD": str(rank.fileno()), "SLURM_STEP_ID": "0"}):
        held = rank.dup()  # as a process that MPI has started
    with held:
        assert says(rank, slurm, b"cmd=finalize\n") == b"cmd=finalize\n"
