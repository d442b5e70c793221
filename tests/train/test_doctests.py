"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", [
    "config", "data", "evaluate", "fit", "late", "metrics", "predict", "progress", "setup", "start", "watch",
])
def test_examples(name: str) -> None:
    assert doctest.testmod(import_module(f"mpips.train.{name}")).failed == 0
