"""The arrays that user code gives to a verb or gets from it: checked, and seen as the flat arrays that travel."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.table import Table
from mpips.transport.base import Array
from mpips.worker.device import Device


def target(device: Device | None, table: Table, out: Any) -> tuple[Array, Any]:
    """Return the flat host array that a pull reads into, and the array that it delivers.

    Raises UsageError if `out` is given and does not fit the table.
    """
    if type(out) is np.ndarray and out.shape == table.shape and out.dtype == table.np_dtype and out.flags.carray:
        return (out if out.ndim == 1 else out.reshape(-1)), out  # nearly always
    if out is None:
        if device:
            return device.host(table), None
        array = np.empty(table.shape, table.np_dtype)
        return array.reshape(-1), array
    if device and device.owns(out):
        device.check(table, out, "out of a pull")
        return device.host(table), out
    if not isinstance(out, np.ndarray) or out.shape != table.shape or out.dtype != table.np_dtype:
        raise UsageError(f"table '{table.name}': out must be an array of shape {table.shape} and dtype {table.dtype}, "
                         f"not {seen(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise UsageError(f"table '{table.name}': out must be C-contiguous and writable")
    return out.reshape(-1), out


def deliver(device: Device, table: Table, values: Array, array: Any) -> Any:
    """Return what a pull on a worker with a GPU delivers: `array` itself if it lies on the host, else one on the device."""
    return array if isinstance(array, np.ndarray) else device.deliver(values, table, array)


def flat(device: Device | None, table: Table, gradient: Any) -> Array:
    """Return a gradient as a flat contiguous host array; UsageError if it does not fit the table."""
    if type(gradient) is np.ndarray and gradient.shape == table.shape and gradient.dtype == table.np_dtype \
            and gradient.flags.c_contiguous:
        return gradient if gradient.ndim == 1 else gradient.reshape(-1)  # nearly always
    if device and device.owns(gradient):
        return device.fetch(table, gradient)
    if isinstance(gradient, np.generic):
        gradient = np.asarray(gradient)  # the gradient of a 0-d table
    if (not isinstance(gradient, np.ndarray) or isinstance(gradient, np.ma.MaskedArray)  # whose mask would be lost
            or gradient.shape != table.shape or gradient.dtype != table.np_dtype):
        raise UsageError(f"table '{table.name}': a push takes an array of shape {table.shape} and dtype {table.dtype}, "
                         f"not {seen(gradient)}")
    return np.ascontiguousarray(gradient).reshape(-1)


def seen(value: Any) -> str:
    """Say what was given in place of an array that fits.

    >>> seen(np.zeros(3)), seen([1, 2])
    ('(3,) of float64', 'list [1, 2]')
    """
    shape, kind = getattr(value, "shape", None), type(value)
    if shape is None:
        return f"{kind.__name__} {value!r:.40}"
    other = "" if kind is np.ndarray else f"{kind.__module__.partition('.')[0]}.{kind.__name__} "  # such as torch.Tensor
    return f"{other}{tuple(shape)} of {getattr(value, 'dtype', None)}"
