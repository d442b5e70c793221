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
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import ml_dtypes
import numpy as np

from mpips.errors import UsageError
from mpips.given import whole
from mpips.init import Init, zeros

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
COMBINE = ("sum", "mean")
NONFINITE = ("raise", "skip", "allow")
WHEN_FULL = ("error", "oldest", "rarest", "smallest")


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


class Table:
    """What all kinds of tables have in common."""

    kind: ClassVar[str]
    master = False
    if TYPE_CHECKING:  # what each kind declares, see there

        @property
        def name(self) -> str: ...  # noqa: D102
        @property
        def shape(self) -> tuple[int, ...]: ...  # noqa: D102
        @property
        def optimizer(self) -> Rule: ...  # noqa: D102
        @property
        def init(self) -> Init: ...  # noqa: D102
        @property
        def staleness(self) -> int | None: ...  # noqa: D102
        @property
        def dtype(self) -> str: ...  # noqa: D102
        @property
        def combine(self) -> str: ...  # noqa: D102
        @property
        def nonfinite(self) -> str: ...  # noqa: D102

    def __post_init__(self) -> None:
        name: Any = self.name
        if not isinstance(name, str) or not name or not name.isprintable() or "/" in name or name[0] == ".":
            raise UsageError(f"table {self.name!r}: a name is a string, not empty, printable, without '/', not starting with '.'")
        where = f"table '{self.name}'"
        try:
            object.__setattr__(self, "dtype", dtype_name(self.dtype))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        if self.staleness is not None:
            if (staleness := whole(self.staleness)) is None:
                raise UsageError(f"{where}: staleness {self.staleness!r} is neither None (asynchronous) nor a number from 0")
            object.__setattr__(self, "staleness", staleness)
        if isinstance(self.optimizer, type) or not hasattr(self.optimizer, "slots"):
            raise UsageError(f"{where}: optimizer {self.optimizer!r} is not one of mpips.optim, such as SGD(lr=0.1)")
        if getattr(self.optimizer, "row_slots", ()) and self.kind == "dense":
            raise UsageError(f"{where}: optimizer {self.optimizer!r} keeps numbers for rows, which a dense table does not have")
        if self.combine not in COMBINE:
            raise UsageError(f"{where}: combine {self.combine!r} is not one of {COMBINE}")
        if self.nonfinite not in NONFINITE:
            raise UsageError(f"{where}: nonfinite {self.nonfinite!r} is not one of {NONFINITE}")
        if not isinstance(self.master, bool):
            raise UsageError(f"{where}: master {self.master!r} is neither True nor False")
        if not isinstance(self.init, Init):
            raise UsageError(f"{where}: init {self.init!r:.60} is not one of mpips.init, such as zeros() or array(values)")
        self._check_shape(where)
        self.init.check(self.name, self.shape)

    def _check_shape(self, where: str) -> None:
        """Raise UsageError, beginning with `where`, if it has no sensible size."""
        raise NotImplementedError

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
            "kind": self.kind, "name": self.name, **self._described(), "dtype": self.dtype,
            "staleness": self.staleness, "combine": self.combine, "nonfinite": self.nonfinite,
            "init": self.init.describe(), "optimizer": self.optimizer.describe(),
        }

    def _described(self) -> dict[str, Any]:
        """What only tables of this kind have."""
        raise NotImplementedError


@dataclass(frozen=True)
class Dense(Table):
    """A dense array: every pull and push moves all of it.

    Args:
        name: unique among the tables; printable, without '/', not starting with '.'.
        shape: any tuple of sizes, `()` and empty shapes included; a number is the shape of a vector.
        optimizer: the rule that applies a gradient, see `mpips.optim`.
        init: the initial values, see `mpips.init`.
        staleness: how many clocks a worker may run ahead of the slowest one. 0: bulk synchronous (BSP); n: stale synchronous
            (SSP; Ho et al., NIPS 2013); None: no limit, asynchronous (ASP).
        dtype: "float32", "float64", "float16" or "bfloat16", of pulled values and of gradients.
        combine: "sum" or "mean" of the workers' gradients. With staleness 0 those of one clock are combined: a worker that pushes
            nothing in it counts as zeros, one that has ended counts no more. Otherwise every push is an update of its own, and
            "mean" divides it by the number of workers of the run, so that a learning rate means the same.
        nonfinite: what to do with a gradient that has NaN or Inf: "raise" `NonFiniteGradient`, "skip" that push and count it, or
            "allow" it. "allow" does not check, which saves up to a third of a large push.
        master: whether a float16 or bfloat16 table keeps a float32 copy that the optimizer updates.

    Raises UsageError, which names the table, for any value that makes no sense.

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

    kind = "dense"

    def _check_shape(self, where: str) -> None:
        given: Any = self.shape  # a number is the shape of a vector
        sizes = (given,) if whole(given) is not None else tuple(given) if isinstance(given, Iterable) else (None,)
        shape = tuple(n for n in map(whole, sizes) if n is not None)
        if len(shape) < len(sizes) or prod(shape) >= 1 << 60:
            raise UsageError(f"{where}: shape {self.shape!r} is not a tuple of sizes")
        object.__setattr__(self, "shape", shape)

    def _described(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "master": self.master}


@dataclass(frozen=True)
class Rows(Table):
    """A table of rows, such as embeddings: a pull or push moves only the rows it names.

    With `rows=N` the ids are 0 to N - 1 and every row exists from the start. With `rows=None` any int64 is an id (hashes in uint64
    become that by `.view(np.int64)`), and a row is created when it is first pushed; until then a pull returns its initial value.

    Args:
        name, optimizer, init, staleness, combine, nonfinite: as for `Dense`. The initial value of a row depends only on the seed,
            the table's name and the row's id.
        rows: the number of rows, or None.
        dim: numbers in a row, at least 1.
        dtype: "float32" or "float64".
        capacity: with rows=None, how many rows may exist at a time on all servers together. Each of several servers has room for
            its share and a little more, because hashed ids do not spread evenly.
        admit: with rows=None, when a row is created: at the k-th push of its id (an int), or at any push with this probability (a
            float below 1). Gradients pushed before that are dropped.
        ttl: with rows=None, how many clocks a row lives without being pushed; None: forever.
        when_full: with rows=None, what happens when there is no room for a new row: "error" ends the job, "oldest", "rarest" or
            "smallest" evicts others. See `mpips.server.population`.
        decay: the fraction of its values that a row loses in each clock without a push. It is applied lazily, at the row's next
            push, so a pull returns what the last push left.

    Raises UsageError, which names the table, for any value that makes no sense.

    >>> from mpips import optim
    >>> Rows("user", rows=100_000, dim=32, optimizer=optim.Adagrad(lr=0.05), staleness=None).size
    3200000
    """

    name: str
    rows: int | None
    dim: int
    optimizer: Rule
    init: Init = zeros()  # noqa: RUF009 - immutable
    staleness: int | None = 0
    dtype: str = "float32"
    combine: str = "sum"
    nonfinite: str = "raise"
    capacity: int | None = None
    admit: int | float = 1
    ttl: int | None = None
    when_full: str = "error"
    decay: float = 0.0

    kind = "rows"

    def _check_shape(self, where: str) -> None:
        for key, value, least in (("rows", self.rows, 0), ("dim", self.dim, 1), ("capacity", self.capacity, 1)):
            if value is None and key != "dim":
                continue
            if (found := whole(value, least, 1 << 40)) is None:
                raise UsageError(f"{where}: {key} {value!r} is not a number from {least}")
            object.__setattr__(self, key, found)
        if (self.rows is None) == (self.capacity is None):
            raise UsageError(f"{where}: give either rows=N, or rows=None and capacity=N, how many may live at a time")
        if self.rows is not None and (self.admit, self.ttl, self.when_full) != (1, None, "error"):
            raise UsageError(f"{where}: admit, ttl and when_full are for rows=None, where rows come and go")
        if not (isinstance(self.admit, float) and 0 < self.admit < 1):
            if (admit := whole(self.admit, 1, 1 << 16)) is None:
                raise UsageError(f"{where}: admit {self.admit!r} is neither a number of pushes from 1 to 65535 nor a probability")
            object.__setattr__(self, "admit", admit)
        if self.ttl is not None:
            if (ttl := whole(self.ttl, 1)) is None:
                raise UsageError(f"{where}: ttl {self.ttl!r} is neither None nor a number of clocks from 1")
            object.__setattr__(self, "ttl", ttl)
        if self.when_full not in WHEN_FULL:
            raise UsageError(f"{where}: when_full {self.when_full!r} is not one of {WHEN_FULL}")
        decay: Any = self.decay
        if isinstance(decay, bool) or not isinstance(decay, Real) or not 0 <= float(decay) < 1:
            raise UsageError(f"{where}: decay {decay!r} is not a number in [0, 1)")
        object.__setattr__(self, "decay", float(decay))
        for slot in {"seen", "folded"} & set(self.optimizer.slots):
            raise UsageError(f"{where}: optimizer slot {slot!r}: a checkpoint of rows has something else of that name")
        if self.rows is None and isinstance(self.init, Init) and self.init.values is not None:
            raise UsageError(f"{where}: init.array for rows=None; a row that is born takes its first value from its id")
        if self.half:
            raise UsageError(f"{where}: dtype {self.dtype}; a table of rows is float32 or float64")

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim); where rows come and go, as many as may live."""
        rows = self.rows if self.rows is not None else self.capacity
        assert rows is not None
        return rows, self.dim

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's values."""
        return self.dim * self.np_dtype.itemsize

    @property
    def seeded(self) -> bool:
        """Whether the seed of the run says who is born, or with what, in clocks to come."""
        return self.rows is None and (isinstance(self.admit, float) or self.init.seeded)

    def _described(self) -> dict[str, Any]:
        return {"rows": self.rows, "dim": self.dim, "capacity": self.capacity, "admit": self.admit, "ttl": self.ttl,
                "when_full": self.when_full, "decay": self.decay}


def check_tables(tables: Any) -> list[Table]:
    """Return `tables` as a list after checking that they are tables with different names."""
    if isinstance(tables, (str, Table)) or not isinstance(tables, Iterable):
        raise UsageError(f"tables: {tables!r:.60} is not a list of tables")
    out = list(tables)
    seen: set[str] = set()
    for table in out:
        if not isinstance(table, Table):
            raise UsageError(f"tables: {table!r} is not a table; use mpips.Dense(...) or mpips.Rows(...)")
        if table.name in seen:
            raise UsageError(f"table '{table.name}' is declared twice")
        seen.add(table.name)
    return out
