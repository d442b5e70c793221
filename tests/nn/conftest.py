"""The libraries that everything in nn has to run on: what only works with NumPy fails here and not on a GPU."""

from dataclasses import dataclass
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest


@dataclass(frozen=True)
class Library:
    name: str
    device: Any = None

    def put(self, x, dtype=None):
        x = np.array(x, dtype)
        return x if self.name == "numpy" else strict.asarray(x, device=self.device)

    def get(self, x):
        """Return a NumPy array, after checking that `x` is still of this library and on this device."""
        if self.name == "numpy":
            assert isinstance(x, (np.ndarray, np.generic))
            return np.asarray(x)
        assert isinstance(x, type(strict.ones(1)))
        assert x.device == (self.device or strict.Device("CPU_DEVICE"))
        return np.asarray(strict.asarray(x.to_device(strict.Device("CPU_DEVICE"))))

    def many(self, arrays, dtype=None):
        return {name: self.put(a, dtype) for name, a in arrays.items()}


LIBRARIES = [Library("numpy"), Library("strict"), Library("device1", strict.Device("device1"))]


@pytest.fixture(scope="session", params=LIBRARIES, ids=lambda library: library.name)
def lib(request):
    return request.param


@pytest.fixture(scope="session", params=["float32", "float64"])
def dtype(request):
    return request.param
