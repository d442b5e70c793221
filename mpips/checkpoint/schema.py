"""Names of files and datasets, and the manifest: what FORMAT.md says, as types.

Both JSON texts of a checkpoint (`manifest.json`, and `/index` in each shard) protect themselves: their first line holds
the CRC-32 of everything after it.

>>> step_name(100), step_of("step-00000100"), shard_name(0, 2)
('step-00000100', 100, 'shard-0000-of-0002.h5')
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from mpips.errors import CheckpointError, MpipsError
from mpips.table import DTYPES

FORMAT = "mpips-checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
MASTER = "model.h5"
INDEX = "index"  # dataset of a shard
VALUE = "value"  # array of a table; the others are slots/<slot>
H5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)  # what h5py raises on damaged files
STORED = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2"}  # HDF5 has no bfloat16

_STEP = re.compile(r"step-(\d{8,})")
_SHARD = re.compile(r"shard-\d{4,}-of-\d{4,}(\.r\d+)?\.h5")
_LINE = re.compile(rb'\{"crc32": "([0-9a-f]{8})",\n')
T = TypeVar("T")


class Frozen(msgspec.Struct, frozen=True):
    """Base: unknown fields are ignored, so that a later minor addition does not lock out this reader."""


class Job(Frozen, frozen=True):
    """What wrote it: the job's id ("local" outside Slurm) and how often Slurm had started it again."""

    id: str
    restart: int


class Shard(Frozen, frozen=True):
    """One file with blocks, in the checkpoint's directory."""

    file: str
    bytes: int


class Master(Frozen, frozen=True):
    """The master file. HDF5 may crash on a damaged one, so its bytes are compared before it is opened."""

    bytes: int
    crc32: int


class Blocks(Frozen, frozen=True):
    """By block number: where it lies, how often it was folded, and its CRC-32 in each array."""

    shard: list[int]  # position in Manifest.shards
    at: list[int]  # its first element in the shard's datasets of this table
    folds: list[int]
    crc32: dict[str, list[int]]  # by array


class SavedTable(Frozen, frozen=True):
    """A table: what was declared, its grid, its arrays and its blocks."""

    describe: dict[str, Any]
    block: int  # elements; block i is i * block : min((i + 1) * block, size)
    arrays: dict[str, str]  # "value" and "slots/<slot>" to the names of their dtypes
    blocks: Blocks

    @property
    def name(self) -> str:
        """The table's name."""
        return str(self.describe["name"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The table's shape."""
        return tuple(self.describe["shape"])

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def cells(self) -> list[tuple[int, int]]:
        """The grid: [start, stop) of each block."""
        return [(at, min(at + self.block, self.size)) for at in range(0, self.size, self.block)]

    def cell(self, index: int) -> tuple[int, int]:
        """Return [start, stop) of one block."""
        return index * self.block, min((index + 1) * self.block, self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of the values and slots."""
        return self.size * sum(DTYPES[d].itemsize for d in self.arrays.values())

    def lengths(self) -> dict[int, int]:
        """Elements of this table in each shard that has some."""
        out: dict[int, int] = {}
        for shard, (start, stop) in zip(self.blocks.shard, self.cells, strict=True):
            out[shard] = out.get(shard, 0) + stop - start
        return out


class Manifest(Frozen, frozen=True, kw_only=True):
    """A whole checkpoint; the file's existence says that everything it names was on disk before it."""

    format: str = FORMAT
    version: int = VERSION
    clock: int
    clocks: list[int]  # of the workers
    revision: int  # how many complete ones of this clock it has replaced
    seed: int
    versions: dict[str, str]
    job: Job
    servers: int
    shards: list[Shard]
    master: Master
    tables: list[SavedTable]
    meta: Any


class ShardTable(Frozen, frozen=True):
    """The blocks of one table in a shard; they lie one after another in the order of these lists."""

    arrays: dict[str, str]
    index: list[int]
    start: list[int]
    stop: list[int]
    folds: list[int]
    crc32: dict[str, list[int]]


class ShardIndex(Frozen, frozen=True, kw_only=True):
    """What a shard says about itself."""

    format: str = FORMAT
    version: int = VERSION
    clocks: list[int]
    server: int
    servers: int
    job: Job
    tables: dict[str, ShardTable]


class _Head(msgspec.Struct):
    format: str
    version: int


def step_name(clock: int) -> str:
    """Directory of the checkpoint of a clock."""
    return f"step-{clock:08d}"


def step_of(name: str) -> int | None:
    """Clock of a directory's name, None if it is not one of `step_name`."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def shard_name(server: int, servers: int, revision: int = 0) -> str:
    """File of one server; what replaces a complete checkpoint has a revision, so that it touches none of its files."""
    return f"shard-{server:04d}-of-{servers:04d}{f'.r{revision}' if revision else ''}.h5"


def is_shard(name: str) -> bool:
    """Whether a file has a name of `shard_name`."""
    return _SHARD.fullmatch(name) is not None


def slot_array(slot: str | None) -> str:
    """Array of a slot; None is the values."""
    return VALUE if slot is None else f"slots/{slot}"


def dataset(table: str, array: str) -> str:
    """Path of an array in a shard and in the master."""
    return f"tables/{table}/{array}"


def stored(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return `array` in the dtype in which HDF5 keeps it, without a copy (on little-endian machines)."""
    dtype = STORED[array.dtype.name]
    return np.ascontiguousarray(array.view(np.uint16) if array.dtype.name == "bfloat16" else array, dtype)


def logical(array: np.ndarray[Any, np.dtype[Any]], dtype: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Undo `stored`."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.view(DTYPES[dtype]) if dtype == "bfloat16" else native


def crc32(array: np.ndarray[Any, np.dtype[Any]]) -> int:
    """CRC-32 (zlib's) of the bytes of a contiguous array as it is stored."""
    return zlib.crc32(array.view(np.uint8).data)


def encode(record: Manifest | ShardIndex) -> bytes:
    """Return the JSON text, its first line being the checksum of the rest; equal records give equal bytes."""
    rest = msgspec.json.encode(record, enc_hook=_plain)[1:] + b"\n"
    return b'{"crc32": "%08x",\n' % zlib.crc32(rest) + rest


def decode(raw: bytes, kind: type[T], where: str) -> T:
    """Return the record of a JSON text, or raise CheckpointError that starts with `where`."""
    line = _LINE.match(raw)
    if line is None or int(line[1], 16) != zlib.crc32(raw[line.end():]):
        raise CheckpointError(f"{where}: damaged, its checksum does not match")
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.format != FORMAT:
            raise CheckpointError(f"{where}: format {head.format!r} is not {FORMAT!r}")
        if head.version != VERSION:
            raise CheckpointError(f"{where}: format version {head.version}, this mpips reads {VERSION}")
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def load_manifest(step: Path) -> Manifest:
    """Read the manifest in a checkpoint's directory; CheckpointError if it is missing, damaged or makes no sense."""
    path = step / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{step}: no {MANIFEST}, so this is not a complete checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    manifest = decode(raw, Manifest, str(path))
    for table in manifest.tables:
        blocks, n = table.blocks, len(table.cells)
        lists = (blocks.shard, blocks.at, blocks.folds, *blocks.crc32.values())
        if (table.arrays.keys() != blocks.crc32.keys() or any(len(x) != n for x in lists)
                or any(not 0 <= s < len(manifest.shards) for s in blocks.shard)
                or any(d not in DTYPES for d in table.arrays.values())):
            raise CheckpointError(f"{path}: the blocks of table '{table.name}' do not fit its grid")
    return manifest


def steps(directory: Path) -> list[tuple[int, Path]]:
    """Return (clock, directory) of everything named like a checkpoint, complete or not, oldest clock first."""
    if not directory.is_dir():
        return []
    found = ((step_of(entry.name), entry) for entry in directory.iterdir())
    return sorted((clock, entry) for clock, entry in found if clock is not None and entry.is_dir())


def complete(directory: Path) -> list[Path]:
    """Return the complete checkpoints in the order in which they were completed.

    That is the order of their manifests' times, not of their clocks: a run that began anew in the directory of an older one has
    smaller clocks for a while, and its checkpoints are the newer ones all the same.
    """
    found = [(clock, step / MANIFEST) for clock, step in steps(directory) if (step / MANIFEST).is_file()]
    return [manifest.parent for _, manifest in sorted(found, key=lambda f: (f[1].stat().st_mtime_ns, f[0]))]


def _plain(value: Any) -> Any:
    """Hyperparameters may be NumPy scalars."""
    if isinstance(value, np.generic):
        return value.item()
    raise MpipsError(f"checkpoint: {type(value).__name__} {value!r} is not JSON")
