"""The command as a whole: help, version, one line for wrong input, nothing heavy imported."""

from __future__ import annotations

import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpips
from mpips import cli
from mpips.cli import COMMANDS, UNREAD, main
from mpips.errors import CheckpointError, UsageError, WaitTimeout


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=False,
                          cwd=Path(mpips.__file__).parent.parent)


HEAVY = """
import sys
from mpips.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
heavy = {"mpi4py.MPI", "cupy", "numba", "rich", "sklearn"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("args", [
    ["--help"], ["--version"], ["train", "--help"], ["predict", "--help"], ["ckpt", "--help"], ["train", "none.toml"],
    ["predict", "none", "--input", "none", "--output", "none"],
])
def test_light(args: list[str]) -> None:
    done = python(HEAVY, *args)
    assert done.returncode == (2 if "none" in str(args) else 0), done.stderr


def test_help_and_version() -> None:
    code = "import runpy; runpy.run_module('mpips', run_name='__main__')"
    done = python(code, "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    assert python(code, "--version").stdout == f"mpips {mpips.__version__}\n"


def test_help_of_train_names_where_the_keys_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    named = re.findall(r"mpips(?:\.\w+)+", capsys.readouterr().out)
    assert "mpips.train.Config" in named
    assert all(pydoc.locate(name) for name in named)


@pytest.mark.parametrize("lines", ["1", "100000"])
def test_who_reads_may_go(lines: str) -> None:
    """As `mpips ckpt ls DIR | head -1`: no traceback, and not the exit code of a failure."""
    code = """
import sys, types
from mpips import cli
cli._parse = lambda argv: types.SimpleNamespace(run=lambda args: [print("line") for _ in range(int(argv[0]))] and 0)
sys.exit(cli.main())
"""
    with subprocess.Popen([sys.executable, "-c", code, lines], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          cwd=Path(mpips.__file__).parent.parent) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(60) == UNREAD


PRINTS = """
import signal, sys, types
from mpips import cli

def run(args):
    print(sys.argv[1] * int(sys.argv[2]))
    if sys.argv[3] == "interrupted":
        signal.raise_signal(signal.SIGINT)
    return 0

cli._parse = lambda argv: types.SimpleNamespace(run=run)
sys.exit(cli.main())
"""


@pytest.mark.parametrize("times", ["1", "100000"])
def test_a_full_disk_under_stdout_is_one_line(times: str) -> None:
    """As `mpips ckpt tree STEP > /full/disk/file`."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS, "word", times, ""], stdout=full, stderr=subprocess.PIPE, text=True,
                              timeout=60, check=False, cwd=Path(mpips.__file__).parent.parent)
    assert (done.returncode, done.stderr) == (1, "mpips: error: stdout: No space left on device\n")


def test_ctrl_c_is_one_line() -> None:
    done = python(PRINTS, "word", "1", "interrupted")
    assert (done.returncode, done.stdout, done.stderr) == (130, "word\n", "mpips: interrupted (Ctrl-C)\n")


def test_ctrl_c_of_one_rank_of_several_is_for_those_who_can_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parse", interrupted)
    assert main([]) == 130
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(KeyboardInterrupt):
        main([])


def test_names_that_stdout_cannot_show_are_no_failure() -> None:
    """Of tables under a locale without UTF-8, or of files that are not UTF-8."""
    done = subprocess.run([sys.executable, "-c", PRINTS, "\u8868\udcff", "1", ""], capture_output=True, timeout=60, check=False,
                          env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
                          cwd=Path(mpips.__file__).parent.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u8868\\udcff\n", b"")


@pytest.mark.parametrize(("args", "line"), [
    ([], "the following arguments are required: COMMAND (see mpips --help)"),
    (["traim"], "argument COMMAND: invalid choice: 'traim'"),
    (["train"], "the following arguments are required: FILE.toml (see mpips train --help)"),
    (["train", "x.toml", "--sett"], "unrecognized arguments: --sett"),
])
def test_wrong_words(capsys: pytest.CaptureFixture[str], args: list[str], line: str) -> None:
    assert main(args) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"mpips: error: {line}")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(("error", "told"), [(UsageError("a\n  b"), True), (CheckpointError("a b"), True),
                                             (WaitTimeout("late"), False), (KeyError("bug"), False)])
def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                           error: Exception, told: bool) -> None:
    from mpips.cli import train

    def run(args: object) -> int:
        raise error

    monkeypatch.setattr(train, "run", run)
    if told:
        assert main(["train", "x.toml"]) == 2
        assert capsys.readouterr().err == "mpips: error: a b\n"
    else:
        with pytest.raises(type(error)):
            main(["train", "x.toml"])
