"""Names of files and datasets, and the manifest: what FORMAT.md says, as types.

Both JSON texts of a checkpoint (`manifest.json`, and `/index` in each shard) protect themselves: their first line holds
the CRC-32 of everything after it.

>>> step_name(100), step_of("step-00000100"), shard_name(0, 2)
('step-00000100', 100, 'shard-0000-of-0002.h5')
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from mpips.errors import CheckpointError, MpipsError
from mpips.table import DTYPES, Table

FORMAT = "mpips-checkpoint"
VERSIONS = (1, 2)  # 2 in files that have tables of rows, which a reader of 1 does not know
MANIFEST = "manifest.json"
MASTER = "model.h5"
INDEX = "index"  # dataset of a shard
VALUE = "value"  # array of a table; the others are slots/<slot>, and of rows FOLDS and maybe IDS
FOLDS = "folds"
IDS = "ids"
H5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)  # what h5py raises on damaged files
# HDF5 has no bfloat16; the integers are of folds, ids and sightings
STORED = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2", "int32": "<i4", "int64": "<i8", "uint16": "<u2"}
LOGICAL: dict[str, np.dtype[Any]] = {**DTYPES, **{name: np.dtype(name) for name in ("int32", "int64", "uint16")}}

_STEP = re.compile(r"step-(\d{8,})")
_SHARD = re.compile(r"shard-\d{4,}-of-\d{4,}(\.r\d+)?\.h5")
LINE = re.compile(rb'\{"crc32": "([0-9a-f]{8})",\n')
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


class Blocks(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """By block number: where it lies, how often it was folded, and its CRC-32 in each array."""

    shard: list[int]  # position in Manifest.shards
    at: list[int]  # its first unit in the shard's datasets of this table
    folds: list[int]  # empty for a table of rows: there each row has its own number
    crc32: dict[str, list[int]]  # by array
    first: list[int] = []  # of rows: the whole table's row that is its first
    rows: list[int] = []  # of rows: how many


class Kept(Frozen, frozen=True):
    """An array that is not of rows."""

    dtype: str
    shape: list[int]
    crc32: int


class State(Frozen, frozen=True):
    """What a server keeps of a table of rows beside its rows."""

    counters: dict[str, int]
    arrays: dict[str, Kept]


class SavedTable(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A table: what was declared, its arrays and its blocks.

    A dense table is a line of elements, cut by a grid; a table of rows is a line of rows, of which a block has every `step`-th, as
    many as its server wrote at a time. The elements of the one and the rows of the other are called units.
    """

    describe: dict[str, Any]
    block: int = 0  # dense: elements; block i is i * block : min((i + 1) * block, size)
    arrays: dict[str, str]  # "value", "slots/<slot>", "folds" and "ids" to the names of their dtypes
    blocks: Blocks
    step: int = 0  # of rows: from a row of a block to its next in the whole table
    single: list[str] = []  # of rows: arrays with one number for each row
    states: list[State | None] = []  # of rows: by shard

    @property
    def name(self) -> str:
        """The table's name."""
        return str(self.describe["name"])

    @property
    def of_rows(self) -> bool:
        """Whether it is a table of rows."""
        return bool(self.describe.get("kind") == "rows")

    @property
    def has_ids(self) -> bool:
        """Whether rows are born with any id, so that their ids are saved beside them."""
        return self.of_rows and self.describe["rows"] is None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its values; where rows come and go, of those that were there."""
        return (self.units, int(self.describe["dim"])) if self.of_rows else tuple(self.describe["shape"])

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def units(self) -> int:
        """Number of elements, or of rows."""
        return sum(self.blocks.rows) if self.of_rows else self.size

    def trail(self, array: str) -> tuple[int, ...]:
        """Shape of one unit of an array."""
        return (int(self.describe["dim"]),) if self.of_rows and array not in self.single else ()

    def whole(self, array: str) -> tuple[int, ...]:
        """Shape of an array of the whole table."""
        return (self.units, *self.trail(array)) if self.of_rows else self.shape

    def place(self, index: int) -> range:
        """Return the units of the whole table that are one block."""
        if not self.of_rows:
            return range(index * self.block, min((index + 1) * self.block, self.size))
        first = self.blocks.first[index]
        return range(first, first + self.step * self.blocks.rows[index], self.step)

    @property
    def places(self) -> list[range]:
        """The units of each block."""
        if self.of_rows:
            return [self.place(index) for index in range(len(self.blocks.shard))]
        size = self.size
        return [range(at, min(at + self.block, size)) for at in range(0, size, self.block)]

    def state(self, shard: int) -> State:
        """Return what the server of a shard kept beside its rows."""
        return (self.states[shard] if self.states else None) or State({}, {})

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(prod(self.whole(array)) * LOGICAL[dtype].itemsize for array, dtype in self.arrays.items())

    def lengths(self) -> dict[int, int]:
        """Units of this table in each shard that has some."""
        out: dict[int, int] = {}
        for shard, place in zip(self.blocks.shard, self.places, strict=True):
            out[shard] = out.get(shard, 0) + len(place)
        return out


class Manifest(Frozen, frozen=True, kw_only=True):
    """A whole checkpoint; the file's existence says that everything it names was on disk before it."""

    format: str = FORMAT
    version: int = 1
    serial: int = 0  # of those completed in this directory; near the beginning, so that `order` need not read the whole file
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


class Revision(Frozen, frozen=True):
    """Of a manifest, maybe of a later version, what a writer must know so that it touches none of its files."""

    revision: int


class ShardTable(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """The blocks of one table in a shard; they lie one after another in the order of these lists.

    Of a table of rows, `start` and `stop` count the rows of this shard, and `folds` is empty.
    """

    arrays: dict[str, str]
    index: list[int]
    start: list[int]
    stop: list[int]
    folds: list[int]
    crc32: dict[str, list[int]]
    single: list[str] = []
    state: State | None = None


class ShardIndex(Frozen, frozen=True, kw_only=True):
    """What a shard says about itself."""

    format: str = FORMAT
    version: int = 1
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


def state_array(name: str) -> str:
    """Array of a state."""
    return f"state/{name}"


def row_slots(table: Table) -> list[str]:
    """Arrays of the slots of which a table of rows has one number for each row."""
    return [slot_array(slot) for slot in getattr(table.optimizer, "row_slots", ())]


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
    return native.view(LOGICAL[dtype]) if dtype == "bfloat16" else native


def crc32(array: np.ndarray[Any, np.dtype[Any]], before: int = 0) -> int:
    """CRC-32 (zlib's) of the bytes of a contiguous array as it is stored, behind others of which it is `before`."""
    return zlib.crc32(array.view(np.uint8).data, before)


def encode(record: Manifest | ShardIndex) -> bytes:
    """Return the JSON text, its first line being the checksum of the rest; equal records give equal bytes."""
    rest = msgspec.json.encode(record, enc_hook=_plain)[1:] + b"\n"
    return b'{"crc32": "%08x",\n' % zlib.crc32(rest) + rest


def decode(raw: bytes, kind: type[T], where: str, versions: Sequence[int] | None = VERSIONS) -> T:
    """Return the record of a JSON text, or raise CheckpointError that starts with `where`; `versions` None takes any."""
    line = LINE.match(raw)
    if line is None or int(line[1], 16) != zlib.crc32(raw[line.end():]):
        raise CheckpointError(f"{where}: damaged, its checksum does not match")
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.format != FORMAT:
            raise CheckpointError(f"{where}: format {head.format!r} is not {FORMAT!r}")
        if versions is not None and head.version not in versions:
            raise CheckpointError(f"{where}: format version {head.version}, this mpips reads {' and '.join(map(str, versions))}")
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
        try:
            fits = _fits(table, len(manifest.shards))
        except (KeyError, TypeError, IndexError, ValueError):  # of `describe`, or lists that are too short
            fits = False
        if not fits:
            what = "rows are not the rows of its blocks" if table.describe.get("kind") == "rows" else "blocks do not fit its grid"
            raise CheckpointError(f"{path}: table '{table.describe.get('name')}': its {what}")
    return manifest


def _fits(table: SavedTable, shards: int) -> bool:
    """Whether the lists about a table's blocks fit each other and the table."""
    blocks, places = table.blocks, table.places
    lists = [blocks.shard, blocks.at, *blocks.crc32.values(), *([blocks.first, blocks.rows] if table.of_rows else [blocks.folds])]
    if (table.arrays.keys() != blocks.crc32.keys() or any(len(x) != len(places) for x in lists)
            or any(not 0 <= s < shards for s in blocks.shard) or any(d not in LOGICAL for d in table.arrays.values())):
        return False
    if table.states and (len(table.states) != shards
                         or any(kept.dtype not in LOGICAL for s in range(shards) for kept in table.state(s).arrays.values())):
        return False
    if not table.of_rows:
        return True
    units, _ = table.shape
    return table.describe["rows"] in (None, units) and {FOLDS, *([IDS] if table.has_ids else [])} <= {*table.single} and all(
        len(place) == n and 0 <= place[0] <= place[-1] < units for place, n in zip(places, blocks.rows, strict=True))


def version_of(tables: Iterable[SavedTable | ShardTable]) -> int:
    """Return the version of a file with these tables: no higher than need be, so that an older mpips reads what it can."""
    return 2 if any(table.single for table in tables) else 1


def steps(directory: Path) -> list[tuple[int, Path]]:
    """Return (clock, directory) of everything named like a checkpoint, complete or not, oldest clock first."""
    if not directory.is_dir():
        return []
    found = ((step_of(entry.name), entry) for entry in directory.iterdir())
    return sorted((clock, entry) for clock, entry in found if clock is not None and entry.is_dir())


def _plain(value: Any) -> Any:
    """Hyperparameters may be NumPy scalars."""
    if isinstance(value, np.generic):
        return value.item()
    raise MpipsError(f"checkpoint: {type(value).__name__} {value!r} is not JSON")
