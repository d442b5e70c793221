"""Which functions fit an array: its own library's, under the names of the array API standard (data-apis.org, 2022.12).

CuPy is never imported for this: an array of it can only exist where somebody has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from mpips.errors import UsageError

Array: TypeAlias = Any  # of NumPy, CuPy or any other library of the array API; there is no common base class to name


def namespace(*arrays: Array) -> Any:
    """Return the array API namespace that all of `arrays` share; Python numbers and None among them are skipped.

    Raises:
        UsageError: they are of more than one library (a host and a device array in one formula), or not arrays at all.

    >>> namespace(np.ones(3, np.float32)).sum(np.ones(3, np.float32)).dtype.name
    'float32'
    """
    try:
        return array_api_compat.array_namespace(*arrays)
    except TypeError:
        kinds = sorted({_kind(a) for a in arrays})
        if len(kinds) > 1:
            raise UsageError(f"arrays of {' and '.join(kinds)} in one call: move them to one side first") from None
        raise UsageError(f"{kinds[0] if kinds else 'nothing'} is not an array") from None


def _kind(value: Any) -> str:
    """Name the library of an array, or the type of anything else."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else kind.__module__.partition(".")[0]


def is_device_array(x: Any) -> bool:
    """Return whether `x` is a CuPy array."""
    cupy = sys.modules.get("cupy")
    # Not `array_api_compat.is_cupy_array`: before 1.12 NumPy's scalars are CuPy's for it, and have no `get`.
    return cupy is not None and isinstance(x, cupy.ndarray)


def to_host(x: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Return `x` (any array, number or sequence) as a NumPy array; a NumPy array is returned as it is.

    A device array is copied after everything queued before it has run. Use `Staging` where the speed of it matters.
    """
    return np.asarray(x.get()) if is_device_array(x) else np.asarray(x)
