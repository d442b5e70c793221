"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", [
    "features.clicks", "features.criteo", "features.lines", "features.words", "models.dlrm", "models.towers", "nn.bags",
    "nn.metrics",
])
def test_examples(name: str) -> None:
    assert doctest.testmod(import_module(f"mpips.{name}")).failed == 0
