"""Row ids as user code gives them: checked, duplicates added up, and sorted out by the servers on which they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from mpips.directory import owners
from mpips.errors import UsageError
from mpips.table import Rows, Table
from mpips.transport.base import Array
from mpips.worker.arrays import on_host, read_only, seen
from mpips.worker.device import Device


@dataclass(frozen=True, eq=False)
class Part:
    """Those of some rows that lie on one server.

    Attributes:
        index: (n,) int64, where they lie there; where ids come and go, the ids.
        places: (n,) where they stand in the array of all; None if they are all, in their order.
    """

    server: int
    index: Array
    places: Array | None

    def of(self, some: Array) -> Part:
        """Those at these positions, (m,) int64."""
        return Part(self.server, self.index[some], some if self.places is None else self.places[some])


def rows_table(table: Table, verb: str) -> Rows:
    """Return the table if it has rows, else raise UsageError."""
    if isinstance(table, Rows):
        return table
    raise UsageError(f"table '{table.name}': {verb} with rows=, but it is dense")


def all_rows(table: Rows) -> Array:
    """Return all ids of a table, or raise UsageError if they are not known beforehand."""
    if table.rows is None:
        raise UsageError(f"table '{table.name}': a pull needs rows=, its ids are not known beforehand")
    return np.arange(table.rows)


def ids_of(device: Device | None, table: Rows, rows: Any, verb: str) -> Array:
    """Return row ids as a new contiguous int64 array of the shape given; UsageError if they are no ids of this table."""
    host = device.to_host(rows) if device and device.owns(rows) else on_host(table, rows, f"rows of a {verb}")
    try:
        ids = np.asarray(host)
    except ValueError:  # ragged
        raise UsageError(f"table '{table.name}': rows of a {verb} are an array of whole numbers, not {rows!r:.40}") from None
    if ids.size == 0 and ids.dtype.kind == "f" and not isinstance(rows, np.ndarray):
        ids = ids.astype(np.int64)  # an empty list
    if ids.dtype.kind not in "iu":
        raise UsageError(f"table '{table.name}': rows of a {verb} are whole numbers, not {ids.dtype}")
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, -1)
    last = (1 << 63 if table.rows is None else table.rows) - 1
    if high > last or (low < 0 and table.rows is not None):
        known = f"its rows are 0 to {last}" if last >= 0 else "it has no rows"
        if table.rows is None:  # negative ones are ids, too
            known = "any int64 is an id; hashes of 64 bits without sign become that by .view(np.int64)"
        raise UsageError(f"table '{table.name}': row {high if high > last else low} in a {verb}; {known}")
    return np.array(ids, np.int64, order="C")


def rows_target(device: Device | None, table: Rows, ids: Array, out: Any) -> tuple[Array, Callable[[], Any]]:
    """Return the host array (ids.size, dim) that a pull of these rows reads into, and what then gives the array it delivers.

    Raises UsageError if `out` is given and does not fit.
    """
    shape = (*ids.shape, table.dim)
    if out is None and device is None:
        values = np.empty(shape, table.np_dtype)
        return values.reshape(-1, table.dim), lambda: values
    there = device is not None and (out is None or device.owns(out))
    host = out if there else on_host(table, out, "out of a pull")
    if out is not None and (not (there or (isinstance(host, np.ndarray) and host.flags.carray))
                            or tuple(host.shape) != shape or host.dtype != table.np_dtype):
        raise UsageError(f"table '{table.name}': out must be a C-contiguous, writable array of shape {shape} and dtype "
                         f"{table.dtype}, not {seen(out)}{read_only(host, out)}")
    if device is None or not there:
        return host.reshape(-1, table.dim), lambda: out
    pinned = device.empty(shape, table)
    return pinned.reshape(-1, table.dim), lambda: device.deliver(pinned, out)


def gradient_of(device: Device | None, table: Rows, shape: tuple[int, ...], gradient: Any) -> Array:
    """Return the gradient of so many rows as a contiguous array (rows, dim); UsageError if it has another shape or dtype."""
    count, shape = prod(shape), (*shape, table.dim)
    here = device is not None and device.owns(gradient)
    host = gradient if here else on_host(table, gradient, "a push")
    if not (here or isinstance(host, np.ndarray)) or tuple(host.shape) != shape or host.dtype != table.np_dtype:
        raise UsageError(f"table '{table.name}': a push of {count} rows takes an array of shape {shape} and dtype "
                         f"{table.dtype}, not {seen(gradient)}")
    if device is not None and here:
        host = device.to_host(host)
    return np.ascontiguousarray(host).reshape(-1, table.dim)


def distinct(ids: Array, gradient: Array) -> tuple[Array, Array, Array | slice]:
    """Return ascending ids without repeats, the sum of each one's gradients in the order in which they stand, and its first place.

    >>> distinct(np.array([7, 3, 7]), np.array([[1.0], [2.0], [4.0]]))
    (array([3, 7]), array([[2.],
           [5.]]), array([1, 0]))
    """
    if ids.size < 2 or bool((ids[1:] > ids[:-1]).all()):
        return ids, gradient, slice(None)
    order = _order(ids)
    ids = ids[order]
    new = np.append(True, ids[1:] != ids[:-1])
    first = order[new]
    total, dim = np.take(gradient, first, axis=0), gradient.shape[1]
    again = np.flatnonzero(~new)
    if again.size:
        place, more = (np.cumsum(new) - 1)[again], np.take(gradient, order[again], axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # a sum that overflows is found like any Inf
            # One after the other, unlike `np.add.reduceat`, which is no faster.
            np.add.at(total.reshape(-1), (place[:, None] * dim + np.arange(dim)).reshape(-1), more.reshape(-1))
    return ids[new], total, first


def _order(ids: Array) -> Array:
    """Return what sorts ids, equal ones as they stand.

    >>> _order(np.array([7, 3, 7])).tolist(), _order(np.array([7, -3, 7])).tolist()
    ([1, 0, 2], [1, 0, 2])
    """
    bits = len(ids).bit_length()
    if int(ids.min()) < 0 or int(ids.max()) >> (63 - bits):
        return np.argsort(ids, kind="stable")
    order = ids << bits  # sorting id and place as one number takes a fifth of the time
    order |= np.arange(len(ids))
    order.sort()
    order &= (1 << bits) - 1
    return order


def parts_of(table: Rows, ids: Array, servers: int) -> Sequence[Part]:
    """Sort ids, (n,), out by server; see `mpips.layout`."""
    if servers == 1:
        return [Part(0, ids, None)] if ids.size else []
    named = table.rows is None
    owner = owners(ids, servers) if named else ids % servers
    owner = owner.astype(np.int16 if servers <= 1 << 15 else np.int64)  # NumPy sorts these by radix
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(servers + 1)).tolist()
    ids = ids[order] if named else ids[order] // servers
    return [Part(server, ids[lo:hi], order[lo:hi])
            for server, (lo, hi) in enumerate(pairwise(edges)) if lo < hi]
