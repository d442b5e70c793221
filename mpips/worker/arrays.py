"""The arrays that user code gives to a verb or gets from it: checked, and seen as the flat arrays that travel.

| given                                   | seen                                                                           |
|-----------------------------------------|--------------------------------------------------------------------------------|
| a NumPy array                           | as it is                                                                       |
| a CuPy array, on a worker with a GPU    | through pinned memory, `mpips.worker.device`                                   |
| another library's array on the host     | by DLPack, not copied; to fill one NumPy 2.1 is needed, and a library that     |
| (PyTorch, JAX, array-api-strict, ...)   | says that it may be written to                                                 |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpips.arrays import is_device_array
from mpips.errors import UsageError
from mpips.table import Table
from mpips.transport.base import Array
from mpips.worker.device import Device

HOST = (1, 3, 11)  # memory of the host as DLPack numbers it; the last two are pinned


def target(device: Device | None, table: Table, out: Any) -> tuple[Array, Any]:
    """Return the flat host array that a pull reads into, and the array that it delivers.

    Raises UsageError if `out` is given and does not fit the table.
    """
    if type(out) is np.ndarray and out.shape == table.shape and out.dtype == table.np_dtype and out.flags.carray:
        return (out if out.ndim == 1 else out.reshape(-1)), out  # nearly always
    if out is None:
        if device:
            return device.empty((table.size,), table), None
        array = np.empty(table.shape, table.np_dtype)
        return array.reshape(-1), array
    if device and device.owns(out):
        device.check(table, out, "out of a pull")
        return device.empty((table.size,), table), out
    host = on_host(table, out, "out of a pull")
    if not isinstance(host, np.ndarray) or host.shape != table.shape or host.dtype != table.np_dtype:
        raise UsageError(f"table '{table.name}': out must be an array of shape {table.shape} and dtype {table.dtype}, "
                         f"not {seen(out)}")
    if not host.flags.c_contiguous or not host.flags.writeable:
        raise UsageError(f"table '{table.name}': out must be C-contiguous and writable{read_only(host, out)}")
    return host.reshape(-1), out


def deliver(device: Device, table: Table, values: Array, array: Any) -> Any:
    """Return what a pull on a worker with a GPU delivers: `array` itself if it lies on the host, else one on the device."""
    return device.deliver(values.reshape(table.shape), array) if array is None or device.owns(array) else array


def flat(device: Device | None, table: Table, gradient: Any) -> Array:
    """Return a gradient as a flat contiguous host array; UsageError if it does not fit the table."""
    if type(gradient) is np.ndarray and gradient.shape == table.shape and gradient.dtype == table.np_dtype \
            and gradient.flags.c_contiguous:
        return gradient if gradient.ndim == 1 else gradient.reshape(-1)  # nearly always
    if device and device.owns(gradient):
        return device.fetch(table, gradient)
    host = on_host(table, gradient, "a push")
    if isinstance(host, np.generic):
        host = np.asarray(host)  # the gradient of a 0-d table
    if (not isinstance(host, np.ndarray) or isinstance(host, np.ma.MaskedArray)  # whose mask would be lost
            or host.shape != table.shape or host.dtype != table.np_dtype):
        raise UsageError(f"table '{table.name}': a push takes an array of shape {table.shape} and dtype {table.dtype}, "
                         f"not {seen(gradient)}")
    return np.ascontiguousarray(host).reshape(-1)


def on_host(table: Table, value: Any, what: str) -> Any:
    """Return a host array of another library (PyTorch, JAX) as NumPy's, with the same memory; anything else as it is.

    Raises UsageError, which names the table and `what` it was for, if its library does not hand it out or NumPy has no such dtype.
    """
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        return value
    where = f"table '{table.name}': {what}: {seen(value)}"
    try:
        kind = int(value.__dlpack_device__()[0])
        if kind in HOST:
            return np.from_dlpack(value)
    except Exception as error:  # each library has its own
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from error
    hint = "; mpips.run(..., device='gpu') takes such arrays" if is_device_array(value) else ""
    raise UsageError(f"{where} lies on DLPack device {kind}, not on the host{hint}")


def read_only(host: Any, out: Any) -> str:
    """Say why an array of another library, `out`, cannot be written to, if it is that."""
    if host is out or not isinstance(host, np.ndarray) or host.flags.writeable:
        return ""
    return "; by DLPack this one is read-only, as all are for NumPy before 2.1"


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
