"""The examples in docstrings are true, in every module that has some."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.mpirun import ROOT


def has_examples(path: Path) -> bool:
    return any(">>> " in line and "+SKIP" not in line for line in path.read_text().splitlines())


FILES = [path.relative_to(ROOT) for path in sorted((ROOT / "mpips").rglob("*.py")) if has_examples(path)]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_examples_in_docstrings_hold(path: Path) -> None:
    found = doctest.testmod(import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__")))
    assert found.attempted
    assert not found.failed
