"""What holds the house together: imports go one way, files stay short, light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mpirun import ROOT, environment

PACKAGE = ROOT / "mpips"
# A file imports from its own room and from rooms above it.
ROOMS = ("errors", "given", "trace", "arrays", "init_rows", "init", "table", "layout", "directory", "sketch", "sampling", "optim",
         "codec", "transport", "server", "worker", "cluster", "checkpoint", "nn", "features", "models", "train", "bench", "interop",
         "cli")
LONGEST = 400
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (room, line) for every import of this package in a file, inside functions too."""
    tree = ast.parse(path.read_text())
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    typing = {id(inner) for node in branches if ast.unparse(node.test) == "TYPE_CHECKING" for inner in ast.walk(node)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "mpips" else [module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mpips" and len(parts) > 1 and id(node) not in typing:
                yield parts[1], getattr(node, "lineno", 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_rooms_above_it(path: Path) -> None:
    own = room(path)
    if own in ("__init__", "__main__"):
        return  # they are the front door
    for other, line in imported(path):
        if other.startswith("__"):
            continue  # __version__
        assert other in ROOMS, f"{path}:{line}: {other} is no room"
        assert ROOMS.index(other) <= ROOMS.index(own), f"{path.relative_to(ROOT)}:{line}: {own} may not import {other}"


def test_every_room_is_known() -> None:
    assert {room(path) for path in FILES} - {"__init__", "__main__"} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


LIGHT = """
import runpy, sys
sys.argv = ["mpips", *sys.argv[1:]]
if len(sys.argv) > 1:
    try:
        runpy.run_module("mpips", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
else:
    import mpips
    mpips.train.Data, mpips.models.Model, mpips.nn.Dense, mpips.optim.SGD  # found without an import of their own
print(sorted({"mpi4py.MPI", "cupy", "numba"} & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [
    (), ("--help",), ("--version",), ("ckpt", "--help"), ("ckpt", "ls", "{empty}"), ("plan", "--help"),
], ids=" ".join)
def test_what_is_light_imports_neither_mpi_nor_cupy_nor_numba(words: tuple[str, ...], tmp_path: Path) -> None:
    arguments = [word.replace("{empty}", str(tmp_path)) for word in words]
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], env=environment(), capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_commands_write_to_stdout(path: Path) -> None:
    if room(path) == "cli":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not [call.lineno for call in prints if "file" not in [keyword.arg for keyword in call.keywords]]
