"""README keeps its word: the example runs as written, every command is one, every path is there."""

from __future__ import annotations

import ast
import pydoc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mpips import errors
from mpips.cli import COMMANDS, _parse, main
from tests.mpirun import ROOT, environment, mpirun, start

TEXT = (ROOT / "README.md").read_text()
INDENTED = [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
QUOTED = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S))
PICTURE = re.compile(r"[|+^]|--")


def example(number: int = 0) -> str:
    dense, rows = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    return str((dense, rows)[number])


def commands(program: str) -> list[list[str]]:
    """Everything that README types with a program, comments and placeholders away."""
    found = [line for line in [*INDENTED, *QUOTED] if line.startswith(program + " ") or f" {program} " in line]
    return [shlex.split(line[line.index(program):], comments=True) for line in found if not PICTURE.match(line)]


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_example_runs_as_written(tmp_path: Path, ranks: int) -> None:
    demo = tmp_path / "demo.py"
    demo.write_text(example())
    done = (mpirun(ranks, demo, cwd=tmp_path) if ranks > 1 else
            start([sys.executable, str(demo)], env=environment(), cwd=tmp_path, timeout=60))
    assert done.code == 0, done
    assert "mpirun -n 3 python demo.py" in TEXT
    assert "`python demo.py`" in TEXT
    assert "UserWarning" not in done.err
    weights = ast.literal_eval(done.out.strip())
    assert len(weights) == max(1, ranks - 1)
    for worker in weights:
        assert worker == weights[0], "BSP: all workers read the same"
        assert worker == pytest.approx([1, -2, 3], abs=2e-3)


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_example_of_rows_runs_as_written(tmp_path: Path, ranks: int) -> None:
    demo = tmp_path / "rows.py"
    demo.write_text(example(1))
    done = (mpirun(ranks, demo, cwd=tmp_path) if ranks > 1 else
            start([sys.executable, str(demo)], env=environment(), cwd=tmp_path, timeout=60))
    assert done.code == 0, done
    assert max(ast.literal_eval(done.out.strip())) < 0.1, "the rows have been fitted; at first the error is about 1"


def test_the_example_has_the_length_that_it_claims() -> None:
    code = [line for line in example().splitlines() if line.strip()]
    assert "## Twenty lines" in TEXT
    assert len(code) <= 20


def test_it_says_what_this_is_in_a_few_lines() -> None:
    first = TEXT.split("\n\n")[1]
    assert len(first.splitlines()) <= 6
    assert max(len(line) for line in TEXT.splitlines() if not line.startswith("|")) <= 132


def test_every_mpips_command_parses() -> None:
    found = commands("mpips")
    assert {words[1] for words in found} >= set(COMMANDS) - {"bench"}
    for words in found:
        if len(words) == 2 and words[1] in ("ckpt", "plan", "train"):
            continue  # the command as a whole
        assert callable(_parse(words[1:]).run), words
    for action in ("ls", "tree", "show", "diff", "verify"):
        assert ["mpips", "ckpt", action] in [words[:3] for words in found]


def paths() -> list[str]:
    """Everything in backquotes or on a command line that looks like a path of the repository."""
    words = [word for text in [*INDENTED, *QUOTED] for word in text.split()]
    words += re.findall(r"\]\(([^)#]+)\)", TEXT)
    names = {entry.name for entry in ROOT.iterdir()} | {"test_torture.py"}
    return sorted({w.strip(".,;:()[]'\"`") for w in words if w.split("/")[0] in names and not w.startswith("runs/") and "/" in w})


def test_there_are_paths_to_look_at() -> None:
    assert {"scripts/quickstart", "scripts/test", "scripts/digits.toml", "tests/jobs/test_bsp.py"} <= set(paths())


@pytest.mark.parametrize("path", paths())
def test_every_path_is_there(path: str) -> None:
    assert list(ROOT.glob(path))


def test_every_test_named_beside_a_promise_is_there() -> None:
    promises = TEXT[TEXT.index("## Promises") : TEXT.index("## On your machine")]
    found = re.findall(r"`([\w/]*test_\w+\.py|tests/\w+)`", promises)
    assert len(found) >= 8
    for name in found:
        assert (ROOT / name).exists() or (ROOT / "tests" / "jobs" / name).exists(), name


def test_extras_are_those_of_the_package() -> None:
    extras = msgspec.toml.decode((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for text in re.findall(r"\[([\w,]+)\]", TEXT) for extra in text.split(",")} & (set(extras) | {"gpu", "all"})
    assert {"local", "mpich", "cuda12", "cuda13", "fast"} <= named
    assert named <= set(extras)


def test_exit_codes_and_defaults_are_as_told() -> None:
    assert errors.TRY_AGAIN == 75
    assert "exit code 75" in TEXT


def test_every_public_name_is_importable() -> None:
    import mpips

    for name in re.findall(r"\bmpips\.(\w+)", example()):
        assert hasattr(mpips, name)
    for name in mpips.__all__:
        assert getattr(mpips, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Row'"):
        mpips.Row  # noqa: B018


def test_every_name_that_it_mentions_is_there() -> None:
    named = {name.removesuffix(".py") for name in re.findall(r"\bmpips(?:\.\w+)+", TEXT)}
    assert {"mpips.train.Config", "mpips.optim.clip_by_norm", "mpips.sampling.Sampler"} <= named
    assert [name for name in sorted(named) if pydoc.locate(name) is None] == []


def test_every_name_that_it_mentions_is_there_after_one_import() -> None:
    """`import mpips` is all that its examples do; here other tests have imported everything already."""
    named = sorted({name.removesuffix(".py") for name in re.findall(r"\bmpips(?:\.\w+)+", TEXT)})
    code = f"import mpips\nfor name in {named}:\n    eval(name)\nassert set(mpips.__all__) <= set(dir(mpips))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_its_figures_are_those_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    command, = (line.split("#")[0].strip() for line in INDENTED if "--summary" in line)
    files = sorted(str(file) for file in (ROOT / "tests" / "bench").glob("*.json"))
    assert files, "README shows figures"
    assert command == "mpips bench --from tests/bench/*.json --summary"
    assert main(["bench", "--from", *files, "--summary"]) == 0
    assert capsys.readouterr().out.strip() in TEXT
