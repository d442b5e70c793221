"""The trainer: a loop over pull, loss and gradients, push, clock; and around it what a training needs.

`work` is the loop of every data-parallel training with a parameter server; copy it when yours needs to be different.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mpips.checkpoint import Checkpoints
from mpips.errors import UsageError
from mpips.models import Layered
from mpips.nn.layer import Grads, Params
from mpips.optim import clip_by_norm
from mpips.train.config import Config, load, parse
from mpips.train.early import Early
from mpips.train.evaluate import score
from mpips.train.late import Late
from mpips.train.leave import Leave, told_to_leave
from mpips.train.metrics import Metrics, known, rank_log
from mpips.train.resume import going_on
from mpips.train.setup import Training, prepare
from mpips.train.start import starting
from mpips.train.watch import LOG, evaluations, rank_name, watch

if TYPE_CHECKING:
    from mpips.worker import Reader, Worker

REST = 0.1  # seconds, at least, between a reader's evaluations


@dataclass(frozen=True)
class Report:
    """What a training came to.

    Attributes:
        loss: mean of worker 0's losses in the last interval, None if it took no step.
        accuracy, cross_entropy: on the held-out samples with the final parameters, for a classifier; else None.
        mse: the same for a regression.
        steps: clocks of this run; `clock` counts those before a resume too.
        seconds: from the first step to the last.
        skipped: gradients of worker 0 with NaN or Inf that were skipped.
        checkpoint: this run's newest, if any.
    """

    loss: float | None
    steps: int
    clock: int
    seconds: float
    skipped: int
    accuracy: float | None = None
    cross_entropy: float | None = None
    mse: float | None = None
    checkpoint: str | None = None


def fit(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None, /, *, settings: Iterable[str] = (),
        resume: str | os.PathLike[str] | None = None, **keywords: Any) -> Report | None:
    """Train a model; the report is worker 0's, every other rank gets None.

    Args:
        config: a TOML file's path, its content as a dict, or a `Config`; nothing for the defaults.
        settings: changes to a TOML file, each "key=value" as for `mpips train --set`.
        resume: "latest", "auto" or a path, in place of `checkpoint.resume`.
        keywords: the keys of `Config`, over those of `config`. `model`, `data`, `optimizer` and `checkpoint` may also be objects:
            a `mpips.models.Model`, a `mpips.train.Data` or `Source`, one of `mpips.optim`, a `mpips.Checkpoints`.

    Raises:
        UsageError: a key, value, table, file or directory is wrong; nothing has been started or written.

    >>> import mpips
    >>> mpips.fit(data="digits", model={"name": "mlp", "hidden": [32]}, epochs=1).steps    # doctest: +SKIP
    45
    """
    from mpips.cluster.run import run

    where = str(config) if isinstance(config, (str, os.PathLike)) else "fit"
    objects = {key: keywords.pop(key) for key in ("model", "data", "optimizer")
               if key in keywords and not isinstance(keywords[key], (str, Mapping))}
    with starting():
        checked = _config(config, settings, keywords, where)
        training = going_on(prepare(checked if resume is None else _resumed(checked, str(resume), where), where, **objects))
    given = training.config
    results = run(
        lambda ps: work(training, ps), training.tables, servers=given.server_ranks, readers=given.readers,
        read=(lambda ps: read(training, ps)) if given.readers else None,
        checkpoint=training.checkpoint, seed=given.seed, device=given.device, timeout=given.timeout, meta=training.meta,
        trace=given.trace, mailboxes=given.mailboxes, combine=given.combine_on,
        around=lambda role, index, rank: around(given.log_directory, rank_name(role, index, rank)))
    if results is None:
        return None
    return Report(**results[0], checkpoint=_newest(training.checkpoint))


@contextmanager
def around(directory: Path | None, name: str) -> Iterator[None]:
    """What every rank runs in: its log file, and a SIGUSR2 that does not kill it."""
    with rank_log(directory, name), told_to_leave():
        yield


def work(training: Training, ps: Worker) -> dict[str, Any]:
    """Train on one worker."""
    config, model, names = training.config, training.model, training.names
    data, order = training.data(ps.xp), training.order(ps.workers)
    total = order.end(config.epochs)
    early = Early(ps)
    late = Late(ps, training.tables) if isinstance(model, Layered) else None
    layered = model if config.clip_norm is None and isinstance(model, Layered) else None  # a norm takes all gradients together
    with watch(training, ps, data, total) as seen, told_to_leave() as told:
        leave = Leave(ps, training.checkpoint is not None, told)
        for clock in range(ps.now, total):
            rows, loss = ps.xp.asarray(order.rows(clock, ps.index)), None
            if len(rows):  # an epoch's last step may leave this worker without samples
                params: Params = late.begin() if late is not None else dict(zip(names, ps.pull(names), strict=True))
                grads: Grads = {}
                with ps.span("compute"):
                    if layered is not None:
                        loss = layered.loss_and_grads_by_layer(params, data.x[rows], data.y[rows], early.take)
                    else:
                        loss, grads = model.loss_and_grads(params, data.x[rows], data.y[rows])
                    if config.clip_norm is not None:
                        grads, _ = clip_by_norm(grads, config.clip_norm)
                early.end(grads)
            leave.look()
            ps.clock()
            seen.step(clock + 1, loss)
        ps.pull(names)  # after it this worker's last push is applied,
        ps.barrier()  # and here everybody's
        return seen.end()


def read(training: Training, ps: Reader) -> None:
    """Evaluate on one reader, again and again, the last time with the final parameters."""
    data, directory = training.data(ps.xp), training.config.log_directory
    resumed = training.checkpoint is not None and training.checkpoint.resume is not None
    file = Metrics(directory / evaluations(ps.index), int(resumed)) if directory else None
    begin, done = time.perf_counter(), False
    while not done:
        done = ps.done  # asked before the pull: nothing changes after it
        start = time.perf_counter()
        params = dict(zip(training.names, ps.pull(training.names), strict=True))
        with ps.span("evaluate"):
            result = score(training.model, params, data.x_test, data.y_test)
        end = time.perf_counter()
        line = {"time": round(end - begin, 6), **known(result)}
        LOG.info("evaluation %s", line)
        if file:
            file.write(line)
        rest = max(REST, end - start, (end - begin) / 100)  # the file stays short in a run of days, too
        while time.perf_counter() < end + rest and not ps.done:
            pass  # asking gives the core to the others for a moment
    if file:
        file.close()


def _newest(checkpoint: Checkpoints | None) -> str | None:
    """Return the path of the checkpoint that was completed last."""
    from mpips.checkpoint.order import complete

    there = complete(checkpoint.path) if checkpoint else []
    return str(there[-1]) if there else None


def _config(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None, settings: Iterable[str],
            keywords: dict[str, Any], where: str) -> Config:
    """Return the configuration with the keywords over it."""
    if isinstance(given := keywords.get("checkpoint"), Checkpoints):
        keywords["checkpoint"] = {key: os.fspath(value) if isinstance(value, os.PathLike) else value
                                  for key, value in vars(given).items()}
    if isinstance(config, (str, os.PathLike)):
        config = load(Path(config), settings)
    elif settings:
        raise UsageError(f"{where}: settings are changes to a file; give keywords instead")
    if not isinstance(config, Config):
        return parse({**(config or {}), **keywords}, where)
    changed = parse(keywords, where)
    return msgspec.structs.replace(config, **{key: getattr(changed, key) for key in keywords})


def _resumed(config: Config, resume: str, where: str) -> Config:
    """Return the configuration with another checkpoint to start from."""
    if config.checkpoint is None:
        raise UsageError(f"{where}: resume {resume!r}, but there is no [checkpoint] section that names a directory")
    return msgspec.structs.replace(config, checkpoint=msgspec.structs.replace(config.checkpoint, resume=resume))
