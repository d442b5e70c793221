"""What is stored: a table is a named array with an optimizer and a staleness.

| dtype                 | travels as | the server keeps                          |
|-----------------------|------------|-------------------------------------------|
| float32, float64      | itself     | the values                                |
| float16, bfloat16     | 2 bytes    | the values and a float32 master as a slot |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from mpips.errors import UsageError
from mpips.init import Init, zeros

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
COMBINE = ("sum", "mean")
NONFINITE = ("raise", "skip")


def dtype_name(dtype: Any) -> str:
    """Return the name of `DTYPES` for anything that names a dtype, or raise UsageError."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    try:
        name = str(dtype if dtype is None else np.dtype(dtype).name)  # for NumPy None is float64
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r}: a table is one of {', '.join(DTYPES)}")
    return name


class Rule(Protocol):
    """What a table needs of its optimizer (all of them stand in `mpips.optim`)."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the per-element state arrays."""

    def describe(self) -> dict[str, Any]:
        """Name and hyperparameters as JSON values."""


@dataclass(frozen=True)
class Dense:
    """A dense array: every pull and push moves all of it.

    Args:
        name: unique, not empty, without '/'.
        shape: any, `()` and empty ones too.
        optimizer: how a gradient changes it, see `mpips.optim`.
        init: how it starts, see `mpips.init`.
        staleness: 0 is BSP, n is SSP, None is ASP (Ho et al., NIPS 2013).
        dtype: one of `DTYPES`.
        combine: with staleness 0, "sum" or "mean" of the workers' gradients.
        nonfinite: "raise" on NaN or Inf in a gradient, or "skip" that push and count it.
        master: float16 and bfloat16 tables keep a float32 copy that the optimizer works on.

    >>> from mpips import optim
    >>> Dense("w", shape=(64, 10), optimizer=optim.SGD(lr=0.1)).size
    640
    """

    name: str
    shape: tuple[int, ...]
    optimizer: Rule
    init: Init = zeros()  # noqa: RUF009 - immutable
    staleness: int | None = 0
    dtype: str = "float32"
    combine: str = "sum"
    nonfinite: str = "raise"
    master: bool = True

    def __post_init__(self) -> None:
        name: Any = self.name
        if not isinstance(name, str) or not name or not name.isprintable() or "/" in name or name[0] == ".":
            raise UsageError(f"table {self.name!r}: a name is a string, not empty, printable, without '/', not starting with '.'")
        where = f"table '{self.name}'"
        given: Any = self.shape  # a number is the shape of a vector
        shape = (given,) if _count(given) else tuple(given) if isinstance(given, Iterable) else (None,)
        if not all(map(_count, shape)) or prod(shape) >= 1 << 60:
            raise UsageError(f"{where}: shape {self.shape!r} is not a tuple of sizes")
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        try:
            object.__setattr__(self, "dtype", dtype_name(self.dtype))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        if self.staleness is not None:
            if not _count(self.staleness):
                raise UsageError(f"{where}: staleness {self.staleness!r} is neither None nor a number from 0")
            object.__setattr__(self, "staleness", int(self.staleness))
        if isinstance(self.optimizer, type) or not hasattr(self.optimizer, "slots"):
            raise UsageError(f"{where}: optimizer {self.optimizer!r} is not one of mpips.optim")
        if self.combine not in COMBINE:
            raise UsageError(f"{where}: combine {self.combine!r} is not one of {COMBINE}")
        if self.nonfinite not in NONFINITE:
            raise UsageError(f"{where}: nonfinite {self.nonfinite!r} is not one of {NONFINITE}")
        if not isinstance(self.master, bool):
            raise UsageError(f"{where}: master {self.master!r} is neither True nor False")
        if not isinstance(self.init, Init):
            raise UsageError(f"{where}: init {self.init!r:.60} is not one of mpips.init")
        self.init.check(self.name, self.shape)

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def np_dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of pulled values and pushed gradients."""
        return DTYPES[self.dtype]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one copy."""
        return self.size * self.np_dtype.itemsize

    @cached_property
    def half(self) -> bool:
        """Whether the elements have two bytes."""
        return self.np_dtype.itemsize == 2

    @cached_property
    def compute_dtype(self) -> np.dtype[Any]:
        """What sums and optimizer arithmetic use: float64 for float64 tables, else float32."""
        return DTYPES["float64" if self.dtype == "float64" else "float32"]

    def describe(self) -> dict[str, Any]:
        """Everything that must be equal on all ranks, as JSON values."""
        return {
            "kind": "dense", "name": self.name, "shape": list(self.shape), "dtype": self.dtype,
            "staleness": self.staleness, "combine": self.combine, "nonfinite": self.nonfinite, "master": self.master,
            "init": self.init.describe(), "optimizer": self.optimizer.describe(),
        }


def _count(value: Any) -> bool:
    """Whether `value` is a whole number from 0."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


def check_tables(tables: Any) -> list[Dense]:
    """Return `tables` as a list after checking that they are tables with different names."""
    if not isinstance(tables, Iterable):
        raise UsageError(f"tables: {tables!r:.60} is not a list of tables")
    if isinstance(tables, (str, Dense)) or not isinstance(tables, Iterable):
        raise UsageError(f"tables: {tables!r:.60} is not a list of tables")
    out = list(tables)
    seen: set[str] = set()
    for table in out:
        if not isinstance(table, Dense):
            raise UsageError(f"tables: {table!r} is not a table; use mpips.Dense(...)")
        if table.name in seen:
            raise UsageError(f"table '{table.name}' is declared twice")
        seen.add(table.name)
    return out
