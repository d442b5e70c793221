from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["report", "text"])
def test_examples(name: str) -> None:
    found = doctest.testmod(import_module(f"mpips.bench.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
