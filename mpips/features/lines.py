"""A text file in blocks of whole lines, plain or .gz, so that several workers share it without reading all of it.

A line belongs to the block of bytes in which it starts, block b to worker b % workers: each line is read exactly once for any
number of workers, and all of them go through the file together, which matters where it is ordered by time. In a .gz file bytes are
those of the text; each worker decompresses all of it, for there is no way into its middle.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from mpips.errors import UsageError

BLOCK = 1 << 19  # bytes: parsing one needs some megabytes
LONGEST = 1 << 16  # bytes that a line may have after the end of its block


class Block(NamedTuple):
    """Whole lines of a file: where they start, in bytes of the text, and the lines, the last one with its end."""

    start: int
    text: bytes


class Lines:
    """The blocks of a file.

    Attributes:
        path: of the file; a name that ends in .gz is one that gzip wrote.
    """

    def __init__(self, path: str | os.PathLike[str], block: int = BLOCK) -> None:
        self.path = Path(path)
        self._block = block
        with self._open():
            pass  # it can be

    @cached_property
    def size(self) -> int:
        """Bytes of the text; all of a .gz file is read, for what it notes at its end is modulo 4 GiB, and of its last part only."""
        with self._open() as file:
            return sum(map(len, iter(lambda: file.read(1 << 20), b""))) if self._gz else self.path.stat().st_size

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-self.size // self._block)

    @property
    def _gz(self) -> bool:
        return self.path.suffix == ".gz"

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """Open the file; whatever the system has against it becomes a UsageError."""
        try:
            with gzip.open(self.path, "rb") if self._gz else self.path.open("rb") as file:
                yield file  # type: ignore[misc]
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UsageError(f"{self.path}: {reason}") from None

    def blocks(self, part: int = 0, parts: int = 1, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Yield what part `part` of `parts` has of the blocks `start:stop`, in order; a block in which no line starts is left out.

        Raises:
            UsageError: the file cannot be read, or has a line that does not end.
        """
        last = self.count if stop is None else stop  # which may be known without the size
        with self._open() as file:
            at = 0  # where the file stands; a line starts there
            for number in range(start + (part - start) % parts, last, parts):
                lo, hi = number * self._block, (number + 1) * self._block
                if at < lo:
                    file.seek(lo - 1)  # one before: a line may start at lo itself
                    at = lo - 1 + len(self._rest(file, lo))
                if at >= hi:
                    continue
                text = file.read(hi - at)
                if not text.endswith(b"\n"):
                    text += self._rest(file, at + len(text))
                if text:
                    yield Block(at, text if text.endswith(b"\n") else text + b"\n")
                at += len(text)

    def _rest(self, file: IO[bytes], at: int) -> bytes:
        """Read to the end of a line."""
        rest = file.readline(LONGEST)
        if len(rest) == LONGEST and not rest.endswith(b"\n"):
            raise UsageError(f"{self.path}:{self.line(at)}: a line of more than {LONGEST} bytes")
        return rest

    def line(self, at: int) -> int:
        """Return the number of the line, from 1, that has byte `at`; this reads all before it."""
        found, left = 1, at
        with self._open() as file:
            while text := file.read(min(left, 1 << 20)):
                found += text.count(b"\n")
                left -= len(text)
        return found
