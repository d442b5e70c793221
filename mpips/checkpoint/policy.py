"""Where checkpoints go, how often, how many are kept, and what a run starts from."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpips.errors import CheckpointError, UsageError
from mpips.given import whole

if TYPE_CHECKING:
    from mpips.checkpoint.read import Saved
    from mpips.checkpoint.saver import DirectorySaver

log = logging.getLogger("mpips.checkpoint")


@dataclass(frozen=True)
class Checkpoints:
    """Settings of a run's checkpoints.

    Args:
        directory: holds one directory for each checkpoint, `step-00000100`; on several nodes it must be shared by all. A job
            that begins there ends one that still writes there.
        every: clocks of the slowest worker between two checkpoints; None writes them only at the end and when a worker calls
            `save()`.
        keep_last: how many complete ones remain; None keeps all.
        at_end: write one when the last worker has ended.
        resume: what to start from.

            | resume   | starts from                                                        |
            |----------|--------------------------------------------------------------------|
            | None     | the initial values                                                 |
            | "latest" | the checkpoint of `directory` that was completed last; an error if there is none |
            | "auto"   | the same, or the initial values if there is none                   |
            | a path   | that checkpoint: its directory, its `model.h5` or `manifest.json`  |

    If the newest one is complete but damaged, "auto" is an error too: going further back is a person's choice.

    >>> Checkpoints("runs/demo", every=100).keep_last
    3
    """

    directory: str | os.PathLike[str]
    every: int | None = None
    keep_last: int | None = 3
    at_end: bool = True
    resume: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)) or not str(self.directory):
            raise UsageError(f"checkpoint directory {self.directory!r} is not a path")
        for key, unit in (("every", "clocks"), ("keep_last", "checkpoints")):
            value = getattr(self, key)
            if value is None:
                continue
            if (found := whole(value, 1)) is None:
                raise UsageError(f"checkpoint {key}: {value!r} is neither None nor a number of {unit} from 1")
            object.__setattr__(self, key, found)
        if not isinstance(self.at_end, bool):
            raise UsageError(f"checkpoint at_end: {self.at_end!r} is neither True nor False")
        if self.resume is not None and (not isinstance(self.resume, (str, os.PathLike)) or not str(self.resume)):
            raise UsageError(f"checkpoint resume: {self.resume!r} is none of None, 'latest', 'auto' and a path")

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.directory)

    def check(self) -> None:
        """Create the directory if need be, write a file into it, and see what is there; UsageError that names what fails.

        A checkpoint that cannot be looked at may be newer than all others, so that none could be numbered after it.
        """
        from mpips.checkpoint.order import last_serial

        where = f"checkpoint directory {self.path}"
        probe = self.path / f".mpips-probe-{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"x")
            finally:
                probe.unlink(missing_ok=True)  # a full disk takes the name, not the byte
        except OSError as error:
            raise UsageError(f"{where}: cannot be written: {error.strerror or error}") from error
        try:
            last_serial(self.path)
        except OSError as error:
            raise UsageError(f"{where}: {error.filename}: {error.strerror}") from error

    def restore(self) -> Saved | None:
        """Open the checkpoint that `resume` names; None if the run starts from the initial values.

        On a network file system two nodes may see different newest checkpoints: let one rank call this, and the others
        `at(its path)`.

        Raises:
            CheckpointError: there is none, or it is incomplete or damaged; the text names the file.
        """
        if self.resume is None:
            return None
        from mpips.checkpoint.order import complete
        from mpips.checkpoint.read import Saved
        from mpips.checkpoint.schema import step_of

        if self.resume not in ("latest", "auto"):
            return Saved(self.resume)
        try:
            there = complete(self.path)
        except OSError as error:
            raise CheckpointError(f"checkpoint directory {self.path}: {error.filename}: {error.strerror}") from error
        if there:
            furthest = max(there, key=lambda step: step_of(step.name) or 0)
            if furthest != there[-1]:  # a run that began anew here; or checkpoints that were copied together
                log.warning("resume from %s, completed last; %s is further and was completed before it", there[-1], furthest)
            return Saved(there[-1])
        if self.resume == "auto":
            return None
        raise CheckpointError(f"checkpoint directory {self.path}: resume='latest', but it holds no complete checkpoint")

    def at(self, path: str | os.PathLike[str]) -> Saved:
        """Open the checkpoint that another rank has found."""
        from mpips.checkpoint.read import Saved

        return Saved(path)

    def bind(self, *, seed: int, meta: Any = None, mpi: str = "", clean: bool = True, token: str = "") -> DirectorySaver:
        """Return what a server writes with: an `mpips.server.saving.Saver`.

        Args:
            seed: of the run.
            meta: JSON values kept in the manifest, such as model and configuration.
            mpi: version text of the MPI library, kept in the manifest.
            clean: take the directory over from any job that still writes there, and remove the leftovers of killed lives. Bind
                before the ranks meet in their first collective call, when no other rank is writing yet.
            token: of this start of the job, the same on all its ranks and no other's.

        Raises:
            UsageError: `meta` is not made of JSON values.
        """
        from mpips.checkpoint.disk import Life
        from mpips.checkpoint.saver import DirectorySaver, json_values

        directory = self.path.absolute()  # the program may go to another directory later
        saver = DirectorySaver(directory, keep_last=self.keep_last, seed=int(seed), meta=json_values(meta), mpi=mpi,
                               life=replace(Life.of(os.environ), token=token))
        if clean:
            saver.clean()
        return saver
