"""Initial values of a table: each block's values depend on seed, table name and block number alone.

So they are the same for any number of servers. The random bits come from Philox4x64-10 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011), keyed by (seed, table) and started at a counter of its own for each block. The values of
rows that are named by ids depend on the id instead, see `mpips.init_rows`.

>>> import numpy as np
>>> normal(0.5).block("w", (4, 3), np.dtype("f4"), seed=0, index=0, start=0, stop=12).shape
(12,)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from mpips.errors import UsageError
from mpips.given import number, whole
from mpips.init_rows import fill

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Init:
    """One way to fill a table; use the functions of this module to make one.

    Attributes:
        kind: "constant", "uniform", "normal", "xavier", "he" or "array".
        a, b: the constant; low and high; the standard deviation.
        seed: None takes the run's.
        values, crc32: the array, C-contiguous, and its checksum, by which two are compared.
    """

    kind: str
    a: float = 0.0
    b: float = 0.0
    seed: int | None = None
    values: Array | None = field(default=None, compare=False, repr=False)
    crc32: int | None = field(default=None, repr=False)

    def block(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, seed: int, index: int, start: int,
              stop: int) -> Array:
        """Return the flat elements `start:stop`, which are block `index` of the table's grid, as a new array of `dtype`."""
        n = stop - start
        if self.kind == "constant":
            return np.full(n, self.a, dtype)
        if self.kind == "array":
            assert self.values is not None
            return self.values.reshape(-1)[start:stop].astype(dtype)
        key = (np.uint64(self.seed if self.seed is not None else seed), np.uint64(zlib.crc32(name.encode())))
        bits = np.random.Generator(np.random.Philox(key=np.array(key), counter=np.array([0, 0, 0, index], np.uint64)))
        draw: type[Any] = np.float64 if dtype == np.float64 else np.float32  # half tables start from their float32 master
        low, high, scale = self._bounds(shape)
        if scale is not None:
            values: Array = bits.standard_normal(n, draw) * draw(scale)
        else:
            values = bits.random(n, draw) * draw(high - low) + draw(low)
        return values.astype(dtype, copy=False)

    def rows(self, name: str, dim: int, dtype: np.dtype[Any], *, seed: int, ids: Any,
             fill: Callable[..., Array] = fill) -> Array:
        """Return the rows of int64 `ids`, a new (len(ids), dim) array of `dtype`; one id always gets the same row.

        Both fans are `dim`, for who looks a row up sees nothing of the others. `fill` draws, here or as `optim.drawing` does.
        Raises UsageError if this is an array and has not all of these rows.
        """
        ids = np.asarray(ids, np.int64)
        if self.kind == "constant":
            return np.full((len(ids), dim), self.a, dtype)
        if self.values is not None:
            if self.values.ndim != 2 or self.values.shape[1] != dim:
                raise UsageError(f"table '{name}': the initial array has shape {self.values.shape}, a row {dim} elements")
            wrong = ids[(ids < 0) | (ids >= len(self.values))]
            if len(wrong):
                raise UsageError(f"table '{name}': row {wrong[0]} is not one of the initial array's {len(self.values)}")
            some: Array = self.values[ids].astype(dtype)
            return some
        draw = np.dtype(np.float64 if dtype == np.float64 else np.float32)  # as in a block
        law = self._bounds((dim, dim))
        out = np.empty((len(ids), dim), draw)
        fill(out, ids, seed=self.seed if self.seed is not None else seed, stream=zlib.crc32(name.encode()), law=law)
        return out.astype(dtype, copy=False)

    @property
    def seeded(self) -> bool:
        """Whether the values follow from the seed of the run."""
        return self.kind not in ("constant", "array") and self.seed is None

    def _bounds(self, shape: tuple[int, ...]) -> tuple[float, float, float | None]:
        """Return (low, high, None) for a uniform law or (0, 0, sigma) for a normal one."""
        fan_in, fan_out = fans(shape)
        if self.kind == "uniform":
            return self.a, self.b, None
        if self.kind == "xavier":
            limit = sqrt(6.0 / max(1, fan_in + fan_out))
            return -limit, limit, None
        if self.kind == "he":
            return 0.0, 0.0, sqrt(2.0 / max(1, fan_in))
        return 0.0, 0.0, self.a

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise UsageError if this cannot fill a table of `shape`."""
        if self.values is None:
            return
        if self.values.shape != tuple(shape):
            raise UsageError(f"table '{name}': the initial array has shape {self.values.shape}, the table {tuple(shape)}")
        if self.values.dtype.kind not in "biuf" and self.values.dtype.name != "bfloat16":
            raise UsageError(f"table '{name}': the initial array is of {self.values.dtype}, not of numbers")

    def describe(self) -> dict[str, Any]:
        """Return what makes two initialisers the same, as JSON values (an array by its checksum)."""
        out: dict[str, Any] = {"kind": self.kind, "a": self.a, "b": self.b, "seed": self.seed}
        return out if self.values is None else {**out, "crc32": self.crc32}


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (fan_in, fan_out): weights are (in, out); a kernel is (height, width, in, out); a vector has fan 1."""
    if len(shape) < 2:
        return 1, shape[0] if shape else 1
    area = int(np.prod(shape[:-2], dtype=np.int64))
    return area * shape[-2], area * shape[-1]


def zeros() -> Init:
    """All zeros."""
    return Init("constant", 0.0)


def constant(value: float) -> Init:
    """All `value`."""
    return Init("constant", number(value, "init constant: value"))


def uniform(low: float = -0.05, high: float = 0.05, *, seed: int | None = None) -> Init:
    """Uniform on [low, high); rounding may give `high` itself."""
    low, high = number(low, "init uniform: low"), number(high, "init uniform: high")
    if low > high:
        raise UsageError(f"init uniform: low {low} is above high {high}")
    return Init("uniform", low, high, _seed(seed, "uniform"))


def normal(stddev: float = 0.05, *, seed: int | None = None) -> Init:
    """Normal with mean 0 and standard deviation `stddev`."""
    stddev = number(stddev, "init normal: stddev")
    if stddev < 0:
        raise UsageError(f"init normal: stddev {stddev} is below 0")
    return Init("normal", stddev, 0.0, _seed(seed, "normal"))


def xavier(*, seed: int | None = None) -> Init:
    """Uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010, eq. 16); in tables of rows both fans are dim."""
    return Init("xavier", seed=_seed(seed, "xavier"))


def he(*, seed: int | None = None) -> Init:
    """Normal with sigma = sqrt(2 / fan_in) (He et al., ICCV 2015, eq. 10); in tables of rows fan_in is dim."""
    return Init("he", seed=_seed(seed, "he"))


def array(values: Any) -> Init:
    """The given array; every rank must be given the same one (compared by checksum at start).

    It is copied, so that it stays what the checksum says whatever is written to yours; not if yours is read-only, as one of
    `np.load(file, mmap_mode="r")` is, of which each server then reads its part.
    """
    try:
        given = np.asarray(values, order="C")
    except ValueError as error:
        raise UsageError(f"init array: {error}") from None
    given = given.copy() if given.flags.writeable else given
    objects = given.dtype.hasobject  # which no table takes: `check` says so, and names the table
    return Init("array", values=given, crc32=None if objects else zlib.crc32(given.reshape(-1).view(np.uint8).data))


def _seed(seed: Any, kind: str) -> int | None:
    """Return `seed` if a generator can be keyed by it, or raise UsageError."""
    if seed is None:
        return None
    if (found := whole(seed, 0, 1 << 64)) is None:
        raise UsageError(f"init {kind}: seed {seed!r} is neither None nor a number from 0 to 2**64 - 1")
    return found
