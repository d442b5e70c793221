"""Exceptions and the exit codes they stand for.

| code  | meaning                                                          |
|-------|------------------------------------------------------------------|
| 0     | done                                                             |
| 1     | failed, or a comparison differs                                  |
| 2     | usage: the input is wrong, nothing was started or changed        |
| 75    | start me again from the last checkpoint (EX_TEMPFAIL, sysexits.h) |
| 128+n | ended by signal n                                                |
"""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
TRY_AGAIN = 75
INTERRUPTED = 130  # Ctrl-C, which is signal 2


class MpipsError(Exception):
    """Anything this package raises on purpose; `exit_code` is what an uncaught one ends the job with."""

    exit_code = FAILED


class UsageError(MpipsError, ValueError):
    """Wrong input: one line that names the key, table or file; nothing has been changed."""

    exit_code = USAGE


class UnknownTable(UsageError, KeyError):
    """There is no table of this name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


class NonFiniteGradient(UsageError):
    """A gradient with NaN or Inf was pushed to a table with `nonfinite="raise"`."""


class ProtocolError(MpipsError):
    """Verbs were called in an order that is not allowed, such as two pushes of a table with staleness 0 in one clock."""


class WaitTimeout(MpipsError):
    """A wait took longer than `run(timeout=)`; the text says who waited for whom, and for what."""

    exit_code = TRY_AGAIN


class StartAgain(MpipsError):
    """The job was told to end, without an error: started again, it continues from its last checkpoint."""

    exit_code = TRY_AGAIN


class CheckpointError(UsageError):
    """A checkpoint that is incomplete, damaged, or of another model."""
