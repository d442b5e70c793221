"""Predictions from a checkpoint, without MPI: the model is rebuilt from what the trainer kept beside the tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpips import models
from mpips.arrays import pick_device, to_host, use
from mpips.errors import CheckpointError, UsageError
from mpips.models import Model
from mpips.train.data import Scale
from mpips.train.evaluate import CHUNK

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Predictor:
    """A trained model with its parameters and the scale of its samples."""

    model: Model
    params: Mapping[str, Any]
    scale: Scale | None
    xp: Any = np

    def __call__(self, x: Array) -> Array:
        """Return logits (n, classes) or values (n, outputs) for samples as they were before any standardisation.

        Raises:
            UsageError: `x` is not an array of numbers, or its samples have another shape than the model's.
        """
        if x.dtype.kind not in "biuf":
            raise UsageError(f"input: {x.dtype} of shape {x.shape}, expected an array of numbers")
        wide = any(array.dtype == np.float64 for array in self.params.values())
        x = x.astype(np.float64 if wide else np.float32, copy=False)
        given = x.shape
        if x.ndim == 1:
            x = x[:, None]
        shape = getattr(self.model, "input_shape", x.shape[1:])
        if x.shape[1:] != shape:
            raise UsageError(f"input: shape {given}, expected a batch of shape {shape}")
        out = []
        for start in range(0, max(len(x), 1), CHUNK):  # no samples are one empty batch
            some = x[start:start + CHUNK]
            some = self.scale(some) if self.scale else some
            out.append(to_host(self.model.predict(dict(self.params), self.xp.asarray(some))))
        return np.concatenate(out)


def predictor(checkpoint: str | os.PathLike[str], device: str = "cpu") -> Predictor:
    """Read a checkpoint that `mpips.fit` wrote.

    Args:
        checkpoint: its directory.
        device: "auto", "cpu" or "gpu".

    Raises:
        CheckpointError: it is incomplete, damaged, or not of `mpips.fit`; UsageError: no such device.
    """
    from mpips.checkpoint.read import Saved

    with Saved(checkpoint) as saved:
        meta = saved.meta
        if not isinstance(meta, Mapping) or not isinstance(meta.get("model"), Mapping):
            raise CheckpointError(f"{checkpoint}: not written by mpips.fit, so it does not say which model it is of")
        try:
            model = models.make(**meta["model"])
            scale = Scale.restore(meta["scale"]) if meta.get("scale") else None
        except (UsageError, TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{checkpoint}: its model cannot be made here: {error}") from None
        xp = use(pick_device(device, 0))
        return Predictor(model, {name: _on(xp, saved.array(name)) for name in saved.tables}, scale, xp)


def _on(xp: Any, values: Array) -> Any:
    """Return values as an array of `xp`; a device has bfloat16 as float32 (`mpips.arrays.half`)."""
    return xp.asarray(values if xp is np or values.dtype.kind == "f" else values.astype(np.float32))
