"""The `Saver` that servers are given: settings of the run bound to the writing of shards and the publishing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpips.checkpoint.disk import Life
from mpips.checkpoint.order import last_serial
from mpips.checkpoint.publish import publish
from mpips.checkpoint.schema import MANIFEST, Revision, decode, step_name
from mpips.checkpoint.tidy import clean
from mpips.checkpoint.write import write_shard
from mpips.errors import CheckpointError, MpipsError, UsageError
from mpips.table import Table

if TYPE_CHECKING:
    from mpips.server.saving import Cut, Piece, RowShard

NEAR = 60  # characters before a wrong one that an error shows


class DirectorySaver:
    """Writes checkpoints into one directory.

    Args:
        directory: holds one directory for each checkpoint.
        keep_last: how many complete ones remain; None keeps all.
        seed: of the run.
        meta: JSON values, kept as they are.
        mpi: version text of the MPI library.
        life: of this process; by default what Slurm's environment says.
    """

    def __init__(self, directory: Path, *, keep_last: int | None = 3, seed: int = 0, meta: Any = None, mpi: str = "",
                 life: Life | None = None) -> None:
        self.directory = directory
        self.keep_last = keep_last
        self.seed = seed
        self.meta = meta
        self.mpi = mpi
        self.life = life or Life.of(os.environ)
        self._serial: int | None = None
        self._revisions: dict[tuple[int, int], int] = {}  # (clock, server) to what this process wrote last

    def write_shard(self, cut: Cut, server: int, servers: int, pieces: Sequence[Piece | RowShard]) -> Iterator[None]:
        """Write one server's file under its final name, data on disk when the generator ends.

        Raises:
            MpipsError: the disk refuses; the text names the file and the machine.
        """
        revision = max(self._next(cut.clock), self._revisions.get((cut.clock, server), -1) + 1)
        self._revisions[cut.clock, server] = revision
        yield from write_shard(self.directory, cut, server, servers, pieces, life=self.life, revision=revision)

    def publish(self, cut: Cut, servers: int, tables: Sequence[Table]) -> Iterator[None]:
        """On server 0, after every shard is there: the master file, then the manifest that makes it complete.

        Raises:
            MpipsError: a shard does not appear here (the directory is not shared), or the disk refuses.
        """
        revision = self._revisions.get((cut.clock, 0))
        try:
            self._serial = 1 + (last_serial(self.directory) if self._serial is None else self._serial)
            yield from publish(self.directory, cut, servers, tables, life=self.life,
                               revision=self._next(cut.clock) if revision is None else revision, serial=self._serial,
                               seed=self.seed, meta=self.meta, mpi=self.mpi, keep_last=self.keep_last)
        except OSError as error:
            where = error.filename or self.directory / step_name(cut.clock)
            raise MpipsError(f"checkpoint {where}: on {socket.gethostname()}: {error.strerror or error}") from error

    def clean(self) -> None:
        """Take the directory over and remove what killed lives left behind; call it before any rank writes."""
        self.life.claim(self.directory)
        clean(self.directory, self.life)

    def _next(self, clock: int) -> int:
        """Revision that touches no file of the complete checkpoint of this clock.

        All servers find the same one, because nothing is published between their looks. What this process wrote before
        is remembered, because a network file system may hide the newest manifest for a while.
        """
        path = self.directory / step_name(clock) / MANIFEST
        try:
            return decode(path.read_bytes(), Revision, str(path), versions=None).revision + 1
        except FileNotFoundError:
            return 0
        except CheckpointError:
            return 0  # damaged: nobody can read it any more, so none of its files is worth keeping
        except OSError as error:
            raise MpipsError(f"checkpoint {path}: cannot be read on {socket.gethostname()}: {error.strerror}") from error


def json_values(meta: Any) -> Any:
    """Return `meta` as it will come back from the manifest (tuples become lists), or raise UsageError."""
    try:
        text = json.dumps(meta, allow_nan=False, ensure_ascii=False)
        text.encode()
        return json.loads(text)
    except UnicodeEncodeError as error:  # half a surrogate pair, as Python has bytes of a file's name that are not UTF-8
        where = text[max(0, error.start - NEAR) : error.end]
        raise UsageError(f"checkpoint meta: not JSON values: not UTF-8 at the end of {where!r}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"checkpoint meta: not JSON values: {error}") from error
