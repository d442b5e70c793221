"""NumPy or CuPy: what computes asks the array, what moves bytes asks the device.

| file        | idea                                                             |
|-------------|------------------------------------------------------------------|
| `namespace` | the functions that fit an array, and any array as a NumPy one    |
| `device`    | whether there is a GPU, and which one a rank takes               |
| `half`      | bfloat16 as 2-byte words, for where there is no such dtype       |
| `staging`   | host and device memory: pinned buffers, streams                  |

Nothing here imports CuPy before a device is asked for.
"""

from __future__ import annotations

from mpips.arrays.device import device_available, device_count, pick_device, use
from mpips.arrays.half import from_words, to_words
from mpips.arrays.namespace import Array, is_device_array, namespace, to_host
from mpips.arrays.staging import Staging

__all__ = [
    "Array",
    "Staging",
    "device_available",
    "device_count",
    "from_words",
    "is_device_array",
    "namespace",
    "pick_device",
    "to_host",
    "to_words",
    "use",
]
