"""A worker's GPU: pulled tables arrive on it, gradients leave from it, both through pinned host buffers."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.arrays import Staging, is_device_array, use
from mpips.errors import UsageError
from mpips.table import Table
from mpips.transport.base import Array


class Device:
    """CuPy device number `index` as the worker's verbs see it; a bfloat16 table is float32 there (`mpips.arrays.half`)."""

    def __init__(self, index: int) -> None:
        self.xp = use(index)
        self._staging = Staging(index)

    def owns(self, x: Any) -> bool:
        """Whether `x` is a device array."""
        return is_device_array(x)

    def check(self, table: Table, x: Any, verb: str) -> None:
        """Raise UsageError unless device array `x` has the table's shape and its dtype on a device."""
        want = np.dtype(np.float32) if table.dtype == "bfloat16" else table.np_dtype
        if tuple(x.shape) != table.shape or np.dtype(x.dtype) != want:
            raise UsageError(f"table '{table.name}': {verb} takes a device array of shape {table.shape} and dtype {want.name}, "
                             f"not {tuple(x.shape)} of {np.dtype(x.dtype).name}")

    def empty(self, shape: tuple[int, ...], table: Table) -> Array:
        """Return a pinned buffer for values of a table."""
        return self._staging.empty(shape, table.np_dtype)

    def deliver(self, values: Array, out: Any = None) -> Any:
        """Return a device array with these values, or fill `out`."""
        there = self._staging.to_device(values)
        if out is None:
            return there
        out[...] = there
        return out

    def to_host(self, x: Any, dtype: Any = None) -> Array:
        """Return a device array as a contiguous host array."""
        return self._staging.to_host(x, dtype=dtype)

    def fetch(self, table: Table, gradient: Any) -> Array:
        """Return a device gradient as a flat host array of the table's dtype, ready for MPI."""
        self.check(table, gradient, "a push")
        return self._staging.to_host(gradient, dtype=table.np_dtype).reshape(-1)
