"""Completing a checkpoint, and removing: what it replaces, what is too old, and the leftovers of killed lives.

Nothing here removes a file that is not of this format, and nothing takes away a file that a standing manifest names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from mpips.checkpoint.disk import Life, commit, is_temporary, replacing, sync_directory
from mpips.checkpoint.master import intact, write_master
from mpips.checkpoint.order import complete
from mpips.checkpoint.schema import MANIFEST, MASTER, Manifest, encode, is_shard, load_manifest, step_name, steps
from mpips.errors import CheckpointError

log = logging.getLogger("mpips.checkpoint")


def write_manifest(step: Path, manifest: Manifest, life: Life) -> Iterator[None]:
    """Write `manifest.json`, by which a checkpoint becomes complete, or another one than it was."""
    with replacing(step / MANIFEST, life) as path:
        path.write_bytes(encode(manifest))
        yield from commit(path, step / MANIFEST, life)


def settle(step: Path, manifest: Manifest, life: Life) -> Iterator[None]:
    """Remove what a complete checkpoint's manifest does not name, unless another job that has begun here may be writing it."""
    for entry in unnamed(step, manifest):
        life.check(step.parent)
        entry.unlink(missing_ok=True)
        yield


def unnamed(step: Path, manifest: Manifest) -> list[Path]:
    """Return the shards and temporary files in a checkpoint that its manifest does not name."""
    named = {shard.file for shard in manifest.shards}
    return [entry for entry in sorted(step.iterdir())
            if (is_shard(entry.name) and entry.name not in named) or is_temporary(entry.name)]


def prune(directory: Path, clock: int, keep_last: int, life: Life) -> Iterator[None]:
    """Remove complete checkpoints before `clock` so that `keep_last` with the one of `clock` remain: those completed last.

    Those of later clocks belong to a run that this one has left by resuming from an earlier point; they, and incomplete
    ones, are not touched. What is removed stops being complete first. What cannot be removed (somebody has made it
    read-only to keep it, or it is another person's) stays, and the run goes on.
    """
    before = {step for at, step in steps(directory) if at <= clock and step.name != step_name(clock)}
    old = [step for step in complete(directory) if step in before]  # maybe some of a run that this one has begun anew
    for step in old[: max(len(old) + 1 - keep_last, 0)]:
        life.check(directory)
        try:
            yield from remove(step)
        except OSError as error:
            log.warning("checkpoint %s: not removed, though only the last %d are to be kept: %s", step, keep_last, error.strerror)


def remove(step: Path) -> Iterator[None]:
    """Remove a checkpoint: its manifest first, and only files of this format, and the directory if nothing is left."""
    (step / MANIFEST).unlink(missing_ok=True)
    sync_directory(step)
    (step / MASTER).unlink(missing_ok=True)
    yield
    for entry in sorted(step.iterdir()):
        if is_shard(entry.name) or is_temporary(entry.name):
            entry.unlink(missing_ok=True)
            yield
    if not any(step.iterdir()):
        step.rmdir()


def clean(directory: Path, life: Life) -> None:
    """Remove what killed lives left behind; call it before anything is written by this one.

    That is: temporary files, shards of incomplete checkpoints, and shards of a replacement that was not completed. A
    file that may be another job's work of this hour is left alone. An incomplete checkpoint that has its master lacks
    nothing but the manifest, and is left for a person to look at.
    """
    for _, step in steps(directory):
        try:
            for _ in _clean(step, life):
                pass
        except FileNotFoundError:
            continue  # a job that still writes here was faster
        except OSError as error:
            log.warning("checkpoint %s: leftovers are not removed: %s", step, error.strerror)


def _clean(step: Path, life: Life) -> Iterator[None]:
    idle = life.outlived(step)
    files = sorted(step.iterdir())
    for entry in files:
        if is_temporary(entry.name) and life.outlived(entry):
            entry.unlink(missing_ok=True)
    shards = [entry for entry in files if is_shard(entry.name)]
    if not (step / MANIFEST).exists():
        if idle and not (step / MASTER).exists() and all(life.outlived(entry) for entry in shards):
            yield from remove(step)
        return
    try:
        manifest = load_manifest(step)
    except CheckpointError:
        return  # damaged, which whoever wants to read it is told
    named = {shard.file for shard in manifest.shards}
    spare = [entry for entry in shards if entry.name not in named]
    if spare and all(life.outlived(entry) for entry in spare):
        if not intact(step, manifest):  # killed between the two renames: the master shows the spare shards
            master = yield from write_master(step, manifest.clock, manifest.shards, manifest.tables, life)
            if master != manifest.master:  # by another version of HDF5
                yield from write_manifest(step, structs.replace(manifest, master=master), life)
        yield from settle(step, manifest, life)
