"""Whether there is a GPU to use, and which one a rank takes.

`import cupy` works on a machine without a GPU or a driver, so the import says nothing; the number of devices is the driver's
own word. Not `cupy.is_available()`: before CuPy 14 that raises where there is no driver, or one older than CuPy's CUDA.
"""

from __future__ import annotations

from typing import Any

from mpips.errors import UsageError

CHOICES = ("auto", "cpu", "gpu")


def device_available() -> tuple[bool, str]:
    """Return (whether CuPy can compute on this machine, why not; or the number of devices in words)."""
    try:
        import cupy
    except ImportError as error:
        why = " ".join(str(error).split())
        return False, f"CuPy cannot be imported ({why}); install mpips[cuda12] or mpips[cuda13]"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # a CUDARuntimeError, or that a library of CUDA's cannot be loaded
        why = " ".join(str(error).split())
        return False, f"CuPy {cupy.__version__} is installed but finds no usable GPU: {why}"
    if count > 0:
        return True, f"{count} device(s)"
    return False, f"CuPy {cupy.__version__} is installed but no GPU is visible (see CUDA_VISIBLE_DEVICES)"


def device_count() -> int:
    """Return how many devices this process may use; 0 where there is none."""
    if not device_available()[0]:
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def pick_device(choice: str, local_rank: int, count: int | None = None) -> int | None:
    """Return the device that a rank computes on, or None for the CPU.

    Args:
        choice: "auto" takes a device if there is one, "gpu" must have one, "cpu" takes none (and never asks for any).
        local_rank: number of the rank among those of its node that want a device; more ranks than devices share them.
        count: visible devices, None to ask the driver.

    Raises:
        UsageError: an unknown choice, or "gpu" without a usable device, with the reason.

    >>> [pick_device("gpu", rank, 2) for rank in range(3)], pick_device("auto", 0, 0)
    ([0, 1, 0], None)
    """
    if choice not in CHOICES:
        raise UsageError(f"device: {choice!r} is not one of {', '.join(CHOICES)}")
    if choice == "cpu":
        return None
    visible = device_count() if count is None else count
    if visible > 0:
        return local_rank % visible
    if choice == "gpu":
        why = device_available()[1] if count is None else "none is visible"
        raise UsageError(f"device: 'gpu' was asked for, but {why}")
    return None


def use(device: int | None) -> Any:
    """Return the module to make arrays with: numpy for None, else cupy with `device` made the thread's current one."""
    if device is None:
        import numpy

        return numpy
    import cupy

    cupy.cuda.Device(device).use()
    return cupy
