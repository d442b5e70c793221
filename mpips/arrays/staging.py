"""Between host and device: pinned buffers, one stream for each direction.

MPI touches host memory only: a pull ends in a pinned buffer that is then copied up, a gradient is copied down into one
that MPI then sends. Three things here are easy to get wrong:

- *The host side.* A copy runs when its stream gets to it. Before MPI reads or writes the host buffer, the stream is
  synchronised: by each call itself, or for many arrays at once with `wait=False` and one `wait()`.
- *The device side.* A copy waits (by an event, not on the host) for what is queued on the caller's current stream: that
  makes the array to be sent, or may still read what used to lie in the memory of the array to be filled, for the pool
  gives memory to the next array as soon as Python drops the last one. Likewise the current stream waits for the copy.
- *Life time.* What a copy still under way reads or writes is kept referenced until `wait()`.

A bfloat16 table is float32 on a device (see `half`): exact on the way up, rounded to nearest even on the way down.
Every other dtype stays what it is. Sources: docs.cupy.dev on `ndarray.set`, `ndarray.get`, `cuda.alloc_pinned_memory`
and `cuda.Stream`, which are as used here in CuPy 13.0 and later.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from mpips.arrays.device import device_available
from mpips.arrays.half import from_words, to_words
from mpips.arrays.namespace import Array
from mpips.errors import UsageError

Host = np.ndarray[Any, np.dtype[Any]]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WORDS = np.dtype(np.uint16)


class Staging:
    """Copies of one thread between the host and one device.

    Pull into `pinned`, compute on `w`, push from `g`:

        staging = Staging(0)
        pinned = staging.empty((64, 10), np.float32)
        w = staging.to_device(pinned)
        g = staging.to_host(w * 2)
    """

    def __init__(self, device: int = 0) -> None:
        ok, why = device_available()
        if not ok:
            raise UsageError(f"device {device}: {why}")
        import cupy

        self._cp = cupy
        self._device = cupy.cuda.Device(device)
        with self._device:
            self._up = cupy.cuda.Stream(non_blocking=True)
            self._down = cupy.cuda.Stream(non_blocking=True)
        self._held: list[Any] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Host:
        """Return an uninitialised NumPy array in pinned memory.

        Its memory goes back to CuPy's pinned pool with the last reference to the array and is kept there by size, so a
        buffer for each step costs nothing after the first. The pool rounds up to a power of two.
        """
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes == 0:
            return np.empty(shape, dtype)
        out: Host = np.ndarray(shape, dtype, buffer=self._cp.cuda.alloc_pinned_memory(nbytes))
        return out

    def to_device(self, host: Any, *, wait: bool = True) -> Array:
        """Return a new device array with the values of `host`; bfloat16 arrives as float32.

        A `host` that is not pinned is right too, only slower: the driver then stages it itself.
        With `wait=False` it must not change before `wait()`; the result can be used at once.
        """
        host = np.asarray(host, order="C")
        half = host.dtype == BFLOAT16
        source = host.view(WORDS) if half else host
        with self._device:
            current = self._cp.cuda.get_current_stream()
            out = self._cp.empty(source.shape, source.dtype)
            if source.size:
                self._up.wait_event(current.record())
                out.set(source, stream=self._up)
                current.wait_event(self._up.record())
                self._held.append((source, out))
            result = from_words(out) if half else out
        if wait:
            self.wait()
        return result

    def to_host(self, x: Array, out: Host | None = None, *, dtype: Any = None, wait: bool = True) -> Host:
        """Return the values of device array `x` in `out`, or in a new pinned NumPy array.

        Args:
            x: a CuPy array; it must not be written to before `wait()` if `wait` is False.
            out: C-contiguous, of the shape of `x`: pinned, or ordinary memory (slower).
            dtype: "bfloat16" to round a float32 `x`; else that of `out` or `x`.
            wait: False returns at once; neither look at the result nor give it to MPI before `wait()`.

        Raises:
            UsageError: `out` has another shape or dtype or is not contiguous, or `x` would have to change its dtype
                in another way.
        """
        have = np.dtype(x.dtype)
        want = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) if dtype is not None else (
            have if out is None else out.dtype)
        if out is not None and (out.shape != tuple(x.shape) or out.dtype != want or not out.flags.c_contiguous):
            raise UsageError(f"staging: an array of shape {tuple(x.shape)} as {want.name} does not fit into one of "
                             f"shape {out.shape}, {out.dtype.name}, C-contiguous: {out.flags.c_contiguous}")
        if have != want and (have.name, want) != ("float32", BFLOAT16):
            raise UsageError(f"staging: a device array of {have.name} does not travel as {want.name}")
        if out is None:
            out = self.empty(tuple(x.shape), want)
        with self._device:
            # `get` would do this by itself, before CuPy 13.3 on a stream that the copy does not wait for.
            source = self._cp.ascontiguousarray(x).reshape(x.shape)  # of a 0-d array it makes a 1-d one
            if want == BFLOAT16:
                source = to_words(source) if have != want else source.view(WORDS)
            if out.size:
                self._down.wait_event(self._cp.cuda.get_current_stream().record())
                source.get(stream=self._down, out=out.view(WORDS) if want == BFLOAT16 else out, blocking=False)
                self._held.append((source, out))
        if wait:
            self.wait()
        return out

    def wait(self) -> None:
        """Return when every copy so far is done; from then on MPI may touch the host buffers."""
        self._up.synchronize()
        self._down.synchronize()
        self._held.clear()
