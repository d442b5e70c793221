from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["checkpoint.master", "checkpoint.policy", "checkpoint.schema", "cli.ckpt"])
def test_examples_in_docstrings_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"mpips.{name}"))
    assert found.attempted
    assert not found.failed
