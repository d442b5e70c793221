"""What the work function may return, as one run of bytes and back: a JSON header, then the arrays' own bytes.

Nothing is ever executed or looked up by name on the way back, so a damaged or foreign message can only be refused.

    magic (8) | CRC-32 of all that follows (4) | length of the header (4) | header | bytes of strings and arrays

In the header every value is a list whose first item says what it is:

| tag           | then                     | value                                               |
|---------------|--------------------------|-----------------------------------------------------|
| `n`           |                          | None                                                |
| `b`           | true or false            | bool                                                |
| `i`           | hexadecimal text         | int of any size                                     |
| `f`           | 16 hexadecimal digits    | float, its IEEE 754 bits                            |
| `s`           | text                     | str                                                 |
| `y`           | offset, length           | bytes                                               |
| `a`, `g`      | dtype, shape, offset     | array; NumPy scalar                                 |
| `l`, `t`, `d` | values; pairs for a dict | list, tuple, dict                                   |
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from mpips.arrays.namespace import is_device_array
from mpips.errors import MpipsError, UsageError

MAGIC = b"mpipsR1\n"
DEPTH = 64  # containers in containers; a list that contains itself ends here
DTYPES = {
    np.dtype(t).name: np.dtype(t)
    for t in (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.float16,
              np.float32, np.float64, np.complex64, np.complex128, ml_dtypes.bfloat16)
}
_HEAD = struct.Struct("<II")
_MAY = "None, bool, int, float, str, bytes, arrays, and lists, tuples and dicts of these are possible"
_SCALARS: dict[type, Callable[[Any], list[Any]]] = {
    type(None): lambda _: ["n"],
    bool: lambda v: ["b", v],
    int: lambda v: ["i", f"{v:x}"],
    float: lambda v: ["f", struct.pack(">d", v).hex()],
    str: lambda v: ["s", v],
}


def encode(value: Any, of: str = "the result") -> bytes:
    """Return `value` as bytes.

    Allowed are None, bool, int, float, str, bytes, NumPy arrays and scalars, CuPy arrays (they become NumPy arrays),
    and lists, tuples and dicts of these. Anything else raises UsageError, which names `of` and where in it the value
    stands.
    """
    writer = _Writer(of)
    header = json.dumps(writer.value(value, "", 0), separators=(",", ":")).encode()
    body = b"".join([header, *writer.chunks])
    size = struct.pack("<I", len(header))
    return b"".join([MAGIC, struct.pack("<I", zlib.crc32(body, zlib.crc32(size))), size, body])


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Return the value that `encode` was given; arrays are new and writable. Raise MpipsError on anything damaged."""
    view = memoryview(data).cast("B")
    start = len(MAGIC) + _HEAD.size
    if len(view) < start or view[: len(MAGIC)] != MAGIC:
        raise MpipsError("a result that came over MPI is not one: it does not start as results do")
    crc, length = _HEAD.unpack_from(view, len(MAGIC))
    if zlib.crc32(view[len(MAGIC) + 4 :]) != crc or start + length > len(view):
        raise MpipsError("a result that came over MPI is damaged: its checksum differs")
    try:
        return _Reader(view[start + length :]).value(json.loads(bytes(view[start : start + length])))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, struct.error) as error:
        raise MpipsError(f"a result that came over MPI cannot be read: {error}") from error


class _Writer:
    """Turns values into header lists and collects the bytes that follow the header."""

    def __init__(self, of: str) -> None:
        self.of = of
        self.chunks: list[bytes] = []
        self.size = 0

    def value(self, value: Any, at: str, depth: int) -> list[Any]:
        if depth > DEPTH:
            raise UsageError(f"{self.of}: {at[:60]}... is nested deeper than {DEPTH} levels")
        scalar = _SCALARS.get(type(value))
        if scalar is not None:
            return scalar(value)
        if type(value) is bytes:
            return ["y", self.add(value), len(value)]
        if type(value) is list or type(value) is tuple:
            items = [self.value(item, f"{at}[{index}]", depth + 1) for index, item in enumerate(value)]
            return ["l" if type(value) is list else "t", items]
        if type(value) is dict:
            return ["d", [[self.value(key, f"{at} key {_short(key)}", depth + 1),
                           self.value(item, f"{at}[{_short(key)}]", depth + 1)] for key, item in value.items()]]
        if is_device_array(value):
            value = value.get()
        if type(value) is np.ndarray or isinstance(value, np.generic):
            return self.array(value, at)
        raise UsageError(f"{self.name(at)} is a {type(value).__name__}; {_MAY}")

    def array(self, value: Any, at: str) -> list[Any]:
        name = value.dtype.name
        if name not in DTYPES:
            raise UsageError(f"{self.name(at)} is an array of {value.dtype}; possible are {', '.join(DTYPES)}")
        native = np.ascontiguousarray(value, DTYPES[name].newbyteorder("<"))
        return ["a" if type(value) is np.ndarray else "g", name, list(value.shape), self.add(native.tobytes())]

    def add(self, data: bytes) -> int:
        at = self.size
        self.chunks.append(data)
        self.size += len(data)
        return at

    def name(self, at: str) -> str:
        return f"{self.of}: {at.strip()}" if at else self.of


def _short(key: Any) -> str:
    """Return a key as it stands in a message; `repr` of an int with more than 4300 digits raises."""
    return hex(key)[:40] if type(key) is int and key.bit_length() > 64 else repr(key)[:40]


class _Reader:
    """Turns header lists back into values, looking only into the bytes it was given."""

    def __init__(self, body: memoryview) -> None:
        self.body = body

    def value(self, cell: Any) -> Any:
        tag, *rest = cell
        if tag == "n":
            return None
        if tag == "b":
            return rest[0] is True
        if tag == "i":
            return int(rest[0], 16)
        if tag == "f":
            return struct.unpack(">d", bytes.fromhex(rest[0]))[0]
        if tag == "s":
            return str(rest[0])
        if tag == "y":
            return bytes(self.part(rest[0], rest[1]))
        if tag == "l":
            return [self.value(item) for item in rest[0]]
        if tag == "t":
            return tuple(self.value(item) for item in rest[0])
        if tag == "d":
            return {self.value(key): self.value(item) for key, item in rest[0]}
        if tag in ("a", "g"):
            return self.array(tag, *rest)
        raise ValueError(f"no value is tagged {tag!r}")

    def array(self, tag: str, name: str, shape: list[int], at: int) -> Any:
        dtype = DTYPES[name]
        count = 1
        for n in shape:
            count *= n
        raw = np.frombuffer(self.part(at, count * dtype.itemsize), dtype.newbyteorder("<"))
        out = raw.astype(dtype).reshape(shape)
        return out[()] if tag == "g" else out

    def part(self, at: int, length: int) -> memoryview:
        if at < 0 or length < 0 or at + length > len(self.body):
            raise ValueError(f"bytes {at} to {at + length} of {len(self.body)}")
        return self.body[at : at + length]
