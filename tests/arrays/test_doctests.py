import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", [
    "arrays.namespace", "arrays.device", "arrays.half",
    "nn", "nn.dense", "nn.sequential", "nn.gradcheck", "models",
])
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"mpips.{name}")).failed == 0
