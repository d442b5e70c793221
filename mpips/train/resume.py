"""Going on from a checkpoint: that it is of the same training, and how far it is in the samples.

A clock is a step of all workers together, of as many samples as their batches have. A resumed run may have other batches, or
another number of workers; so every checkpoint keeps which sizes its steps have had, and `Order` goes on behind the last sample.

Other samples to train on are an error, not a warning: some of those that are held out may have been trained on, and the score
would not show it. So is another model for the same tables, and within an epoch another seed: the rest of the epoch would be that of
another order. What an older checkpoint does not say is not compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from mpips.errors import CheckpointError
from mpips.train.setup import Training
from mpips.train.start import by_first


class Kept(msgspec.Struct):
    """What counts here of the configuration that a checkpoint keeps."""

    batch: int
    seed: int


class Meta(msgspec.Struct):
    """What counts here of the `meta` of a checkpoint that `fit` wrote."""

    model: dict[str, Any]
    config: Kept
    data: dict[str, Any] = {}
    before: list[tuple[int, int]] = []


class Found(msgspec.Struct):
    """A checkpoint to go on from: where it is, and `before` for an `Order` that goes on behind it."""

    path: str
    before: list[tuple[int, int]]


def going_on(training: Training) -> Training:
    """Return the training as it goes on from the checkpoint that it names, if any; all ranks call this within `starting`.

    Raises:
        CheckpointError: there is none, or it is damaged, or of another training.
    """
    found = by_first(lambda: find(training))
    if training.checkpoint is None:
        return training
    checkpoint = replace(training.checkpoint, resume=found.path if found else None)
    before = found.before if found else []
    return replace(training, checkpoint=checkpoint, before=before, meta={**training.meta, "before": before})


def find(training: Training) -> Found | None:
    """Open the checkpoint to go on from and compare it with the training."""
    from mpips.checkpoint.read import ANEW
    from mpips.checkpoint.saver import json_values

    saved = training.checkpoint.restore() if training.checkpoint else None
    if saved is None:
        return None
    with saved:
        saved.check(training.tables)
        try:
            meta = msgspec.convert(saved.meta, Meta)
        except msgspec.ValidationError:  # a script's own: nothing is known but the clock
            return Found(str(saved.path), [])
        here = json_values(training.meta)
        differ = [f"{part}: {key} {value!r} in the checkpoint, {here[part][key]!r} here"
                  for part in ("model", "data") for key, value in getattr(meta, part).items()
                  if key in here[part] and here[part][key] != value]
        if differ:
            raise CheckpointError(f"{saved.path} is of another training: {'; '.join(differ)}. {ANEW}")
        clock, size = max(saved.clocks), meta.config.batch * len(saved.clocks)
        before = meta.before[:-1] if meta.before and meta.before[-1][1] == size else meta.before
        before = [*before, (clock, size)]
        order = replace(training, before=before).order(len(saved.clocks))
        if meta.config.seed != order.seed and any(order.seen(one) % order.samples for one in saved.clocks):
            raise CheckpointError(f"{saved.path} is within an epoch: seed {meta.config.seed} in the checkpoint, {order.seed} here; "
                                  "the rest of the epoch would be that of another order")
        return Found(str(saved.path), before)
