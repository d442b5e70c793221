"""A bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import threading
from pathlib import Path
from typing import IO, Any

import pytest

from mpips.train.progress import Bar, Lines, clock_time, figures, on_terminal, progress

RECORD: dict[str, Any] = {
    "clock": 30, "loss": 0.25, "accuracy": 0.975, "samples_per_s": 12345.6, "staleness": 0, "pull_gb_per_s": 1.234,
    "push_gb_per_s": 0.5, "wait_s": 0.1, "skipped": 0, "left_s": 72.4,
}
TEXT = "loss 0.2500  accuracy 0.9750  12,346 samples/s  staleness 0  pull 1.23 GB/s  push 0.50 GB/s  1:12 left"


def run(stream: IO[str]) -> object:
    shown = progress(0, 100, stream)
    for clock in range(30):
        shown.step(clock + 1)
    shown.show(RECORD)
    shown.close()
    return shown


def test_lines_elsewhere() -> None:
    stream = io.StringIO()
    assert isinstance(run(stream), Lines)
    assert stream.getvalue() == f"step 30/100  {TEXT}\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(os, "getppid", lambda: 1)  # even if a launcher started these tests
    master, slave = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # all slaves are closed
                return
            seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as stream:
        assert isinstance(run(stream), Bar)
    reader.join()
    os.close(master)
    text = b"".join(seen).decode()
    assert "30/100" in text
    assert TEXT in text
    assert "\x1b[" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is visible again


def test_figures_of_little() -> None:
    record = dict.fromkeys(RECORD) | {"skipped": 3, "mse": 0.0123}
    assert figures(record) == "mse 0.0123  staleness none  3 skipped"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def process(proc: Path, pid: int, name: str, parent: int, stdout: str) -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 0 0")
    (proc / str(pid) / "fd" / "1").symlink_to(stdout)


@pytest.mark.parametrize(("tree", "pipe", "terminal"), [
    ([("bash", "/dev/pts/0")], False, True),
    ([("mpirun", "/dev/pts/0"), ("bash", "/dev/pts/0")], True, True),
    ([("mpirun", "/some/file"), ("bash", "/dev/pts/0")], False, False),
    ([("sh (x)", "pipe:[1]"), ("hydra_pmi_proxy", "pipe:[2]"), ("mpiexec.hydra", "/dev/pts/1")], True, True),
    ([("prted", "pipe:[1]"), ("sshd", "pipe:[2]")], False, False),
    ([("slurmstepd", "pipe:[1]")], False, False),
])
def test_the_launcher_decides(tmp_path: Path, tree: list[tuple[str, str]], pipe: bool, terminal: bool) -> None:
    for number, (name, stdout) in enumerate(tree):
        parent = 11 + number if number + 1 < len(tree) else 1
        process(tmp_path, 10 + number, name, parent, stdout)
    assert on_terminal(io.StringIO() if pipe else Terminal(), 10, tmp_path) is terminal


def test_without_proc(tmp_path: Path) -> None:
    assert on_terminal(Terminal(), 10, tmp_path)
    assert not on_terminal(io.StringIO(), 10, tmp_path)
