"""From a configuration to what a run needs: source, model, tables, checkpoints. All that can be wrong is found here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from mpips import models, optim
from mpips.checkpoint import Checkpoints
from mpips.errors import UsageError
from mpips.models import Model
from mpips.table import Dense
from mpips.train.config import Config, Named, Table, bound, nearest, plain
from mpips.train.data import Data, Order, Source, load, source
from mpips.train.metrics import check_directory


@dataclass(frozen=True)
class Training:
    """All of a training that is the same on every rank; nothing of it has been started.

    Attributes:
        source: where the samples come from; the ranks that need them load them again, the servers do not keep them.
        samples: how many of them are trained on.
        meta: what `mpips predict` and a resume need, kept in every checkpoint.
        before: of a resumed run, see `Order`.
    """

    config: Config
    source: Source | Data
    samples: int
    model: Model
    tables: list[Dense]
    checkpoint: Checkpoints | None
    meta: dict[str, Any]
    before: Sequence[tuple[int, int]] = ()

    @property
    def names(self) -> list[str]:
        """Names of the model's tables."""
        return [table.name for table in self.tables]

    @property
    def by_reader(self) -> bool:
        """Whether readers evaluate while the workers train."""
        return self.config.evaluate == "reader" or (self.config.evaluate is None and self.config.readers > 0)

    def data(self, xp: Any = np) -> Data:
        """Load the samples, as arrays of `xp`."""
        return samples(self.source, self.config).to(xp)

    def order(self, workers: int) -> Order:
        """Return the order in which so many workers take the samples."""
        return Order(self.samples, batch=self.config.batch, workers=workers, seed=self.config.seed, before=self.before)


def prepare(config: Config, where: str = "fit", *, model: Model | None = None, data: Source | Data | None = None,
            optimizer: Any = None) -> Training:
    """Check everything that can be checked before a start and return what the run needs.

    Args:
        config: checked by its types already.
        where: begins the line of every error.
        model: an object to use in place of what the configuration names; so `data` and `optimizer`.

    Raises:
        UsageError, CheckpointError: one line that names the key.
    """
    try:
        if config.readers and config.evaluate == "worker":
            raise UsageError(f"readers: {config.readers} that only read, but evaluate is 'worker'")
        if config.evaluate == "reader" and not config.readers:
            raise UsageError("evaluate: 'reader', but readers is 0")
        origin = source(config.data, where) if data is None else data
        if not isinstance(origin, (Source, Data)):
            raise UsageError(f"data: {type(origin).__name__} is neither a source's name, nor a mpips.train.Data or Source")
        if isinstance(origin, Source):
            origin.check()
        loaded = samples(origin, config)
        if model is None:
            model = make_model(config.model, loaded)
        check_model(model)
        check_fit(model, loaded)
        tables = make_tables(config, model, optimizer)
        check_directory(config.log_directory, "checkpoint.directory" if config.log is None else "log")
        checkpoint = None
        if config.checkpoint is not None:
            given = config.checkpoint
            checkpoint = Checkpoints(given.directory, every=given.every, keep_last=given.keep_last, at_end=given.at_end,
                                     resume=given.resume)
        scale = loaded.scale
        meta = {"model": model.describe(), "task": model.task, "scale": scale.describe() if scale else None,
                "config": plain(config), "data": loaded.facts()}
    except UsageError as error:
        if str(error).startswith(f"{where}: "):
            raise
        raise type(error)(f"{where}: {error}") from None
    return Training(config, origin, len(loaded.x), model, tables, checkpoint, meta)


def samples(origin: Source | Data, config: Config) -> Data:
    """Load a source, in the dtype that the tables' arithmetic has."""
    if isinstance(origin, Data):
        return origin
    return load(origin, np.float64 if config.dtype == "float64" else np.float32, finite=config.nonfinite == "raise")


def make_model(named: Named, data: Data) -> Model:
    """Return the model of that name; its inputs, outputs and task are those of the samples unless given."""
    task = named.options.get("task", "regression" if data.classes is None else "classification")
    outputs = data.classes if task == "classification" else None
    found = {"inputs": data.x.shape[1:] or (1,), "outputs": outputs or values(data), "task": task}
    return models.make(named.name, **{**found, **named.options})


def values(data: Data) -> int:
    """Return of how many values a target is made."""
    return int(np.prod(data.y.shape[1:], dtype=np.int64))


def check_model(model: Any) -> None:
    """Raise UsageError unless this has all that a model must have."""
    missing = [name for name in dir(Model) if not name.startswith("_") and not hasattr(model, name)]
    if missing:
        raise UsageError(f"model: {type(model).__name__} has no {', '.join(missing)}, see mpips.models.Model")


def check_fit(model: Model, data: Data) -> None:
    """Raise UsageError if the model is for other samples, as far as it says what it is for."""
    shape, found = getattr(model, "input_shape", None), data.x.shape[1:] or (1,)
    if shape is not None and tuple(shape) != tuple(found):
        raise UsageError(f"model: inputs of shape {tuple(shape)}, but the samples have {tuple(found)}")
    outputs = getattr(model, "outputs", None)
    if model.task == "classification":
        if data.classes is None:
            raise UsageError("model: task 'classification', but the targets are not integers")
        if data.y.ndim != 1:
            raise UsageError(f"data: y has labels of shape {data.y.shape[1:]}, expected one number for each sample")
        if outputs is not None and outputs < data.classes:
            raise UsageError(f"model: {outputs} outputs, but the samples are of {data.classes} classes")
    elif outputs is not None and outputs != values(data):
        raise UsageError(f"model: {outputs} outputs, but the targets have shape {data.y.shape[1:]}")


def make_tables(config: Config, model: Model, optimizer: Any = None) -> list[Dense]:
    """Return the model's tables as the configuration wants them, those with a section of their own last of all."""
    rule = make_optimizer(config.optimizer) if optimizer is None else optimizer
    tables = model.tables(rule, staleness=bound(config.staleness), dtype=config.dtype, combine=config.combine,
                          nonfinite=config.nonfinite)
    names = [table.name for table in tables]
    for name in config.tables:
        if name not in names:
            raise UsageError(f"tables.{name}: the model has no such table; {nearest(name, names)}")
    return [_changed(table, config.tables[table.name]) if table.name in config.tables else table for table in tables]


def make_optimizer(named: Named) -> optim.Optimizer:
    """Return the optimizer that is called so."""
    return optim.make(named.name, **named.options)


def _changed(table: Dense, section: Table) -> Dense:
    """Return a table with what its own section says."""
    changes: dict[str, Any] = {
        field: value for field in ("staleness", "combine", "nonfinite", "optimizer")
        if (value := getattr(section, field)) is not msgspec.UNSET}
    if "staleness" in changes:
        changes["staleness"] = bound(changes["staleness"])
    if "optimizer" in changes:
        try:
            changes["optimizer"] = make_optimizer(changes["optimizer"])
        except UsageError as error:
            raise UsageError(f"tables.{table.name}: {error}") from None
    return dataclasses.replace(table, **changes)
