"""How far a training is, for the person who waits: a bar on a terminal, one line for each interval elsewhere.

Only worker 0 shows anything. Under a launcher the worker's own stdout says nothing: Open MPI gives its ranks a
pseudo-terminal even when mpirun's output goes into a file, MPICH a pipe even when it goes to a terminal. So the
launcher's stdout is looked at.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO, Any, Protocol

from mpips.train.metrics import Record

LAUNCHERS = {"mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "prte", "prun"}
AGENTS = {"prted", "orted", "hydra_pmi_proxy", "hydra_bstrap_proxy", "slurmstepd"}  # work for a launcher elsewhere
REFRESH = 0.1  # seconds between two drawings of the bar


class Progress(Protocol):
    """What the trainer tells while it runs."""

    def step(self, clock: int) -> None:
        """Say that this many steps are done."""

    def show(self, record: Record) -> None:
        """Show the figures of an interval."""

    def close(self) -> None:
        """Leave the screen in order."""


class Lines:
    """One line for each interval."""

    def __init__(self, total: int, stream: IO[str]) -> None:
        self.total, self.stream = total, stream

    def step(self, clock: int) -> None:
        """Show nothing."""

    def show(self, record: Record) -> None:
        """Write the line at once."""
        self.stream.write(f"step {record['clock']}/{self.total}  {figures(record)}\n")
        self.stream.flush()

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A bar that is redrawn in place, from the training's own thread."""

    def __init__(self, start: int, total: int, stream: IO[str]) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        console = Console(file=stream, force_terminal=True)
        self.bar = RichProgress(TextColumn("step"), MofNCompleteColumn(), BarColumn(), console=console)
        self.task = self.bar.add_task("", total=total, completed=start)
        self.text = Text()
        self.live = Live(Group(self.bar, self.text), console=console, auto_refresh=False)
        self.drawn = 0.0
        self.live.start()

    def step(self, clock: int) -> None:
        """Move the bar, and draw it if the last drawing is old enough."""
        self.bar.update(self.task, completed=clock)
        if time.monotonic() - self.drawn >= REFRESH:
            self._draw()

    def show(self, record: Record) -> None:
        """Draw the figures below the bar."""
        self.bar.update(self.task, completed=record["clock"])
        self.text.plain = figures(record)
        self._draw()

    def close(self) -> None:
        """Leave the last drawing on the screen."""
        self.live.stop()

    def _draw(self) -> None:
        self.live.refresh()
        self.drawn = time.monotonic()


def progress(start: int, total: int, stream: IO[str] | None = None) -> Progress:
    """Return a `Bar` if `stream` (stdout) ends on a terminal, else `Lines`."""
    stream = sys.stdout if stream is None else stream
    return Bar(start, total, stream) if on_terminal(stream) else Lines(total, stream)


def figures(record: Record) -> str:
    """Return the figures of an interval in one line; what is not known is left out."""
    score = next((key for key in ("accuracy", "mse") if record.get(key) is not None), None)
    samples = record["samples_per_s"]
    parts = [
        _part("loss {:.4f}", record["loss"]),
        _part(f"{score} {{:.4{'f' if score == 'accuracy' else 'g'}}}", record[score]) if score else "",
        _part("{:,.0f} samples/s", samples),
        f"staleness {'none' if record['staleness'] is None else record['staleness']}",
        _part("pull {:.2f} GB/s", record["pull_gb_per_s"]),
        _part("push {:.2f} GB/s", record["push_gb_per_s"]),
        f"{record['skipped']} skipped" if record["skipped"] else "",
        f"{clock_time(record['left_s'])} left" if record["left_s"] is not None else "",
    ]
    return "  ".join(filter(None, parts))


def clock_time(seconds: float) -> str:
    """Return h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def on_terminal(stream: IO[str], pid: int | None = None, proc: Path = Path("/proc")) -> bool:
    """Tell whether what is written to `stream` ends on a terminal.

    Args:
        stream: this process's own.
        pid: the process to begin at, None for this one's parent.
        proc: where to read about processes.
    """
    agent = False
    parent = os.getppid() if pid is None else pid
    while parent > 1:
        try:
            name, _, rest = (proc / str(parent) / "stat").read_text().partition("(")[2].rpartition(")")
            if name in LAUNCHERS:
                return str((proc / str(parent) / "fd" / "1").readlink()).startswith(("/dev/pts/", "/dev/tty"))
        except OSError:  # not Linux, or somebody else's process
            break
        agent = agent or name in AGENTS
        parent = int(rest.split()[1])
    return not agent and stream.isatty()


def _part(form: str, value: Any) -> str:
    return "" if value is None else form.format(value)
