"""Optimizers and schedules by the names that configuration files use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from mpips.errors import UsageError
from mpips.optim.adagrad import Adadelta, Adagrad, RMSProp, RowAdagrad
from mpips.optim.adam import Adam, AdamW, AMSGrad
from mpips.optim.base import Optimizer, Schedule
from mpips.optim.ftrl import FTRL
from mpips.optim.lion import Lion
from mpips.optim.schedules import Constant, Cosine, Exponential, InverseSqrt, OneCycle, Polynomial, Step, Warmup
from mpips.optim.sgd import SGD, Add, Momentum, Nesterov

OPTIMIZERS: dict[str, type[Optimizer]] = {c.__name__.lower(): c for c in (
    SGD, Momentum, Nesterov, Adagrad, RowAdagrad, RMSProp, Adadelta, Adam, AdamW, AMSGrad, Lion, FTRL, Add)}
SCHEDULES: dict[str, type[Schedule]] = {c.__name__.lower(): c for c in (
    Constant, Step, Exponential, Polynomial, Cosine, OneCycle, InverseSqrt, Warmup)}

T = TypeVar("T")


def make(name: str, **options: Any) -> Optimizer:
    """Return the optimizer called `name`; `lr` may be a dict, `{"name": "cosine", ...}`, and is then a schedule.

    Raises UsageError that names what is unknown, missing, of a wrong type, or out of range, and what there is instead.

    >>> make("adam", lr={"name": "step", "lr": 0.1, "every": 30}, beta1=0.8).rate(30)
    0.010000000000000002
    """
    if isinstance(options.get("lr"), Mapping):
        options["lr"] = _from_dict(options["lr"], f"optimizer {name}: lr")
    return _make(OPTIMIZERS, "optimizer", name, options)


def make_schedule(name: str, **options: Any) -> Schedule:
    """Return the schedule called `name`; `then` of a warmup may be a dict too. Raises UsageError as `make` does.

    >>> make_schedule("warmup", clocks=3, then={"name": "constant", "lr": 0.4}).at(0)
    0.1
    """
    if isinstance(options.get("then"), Mapping):
        options["then"] = _from_dict(options["then"], f"schedule {name}: then")
    return _make(SCHEDULES, "schedule", name, options)


def _from_dict(options: Mapping[str, Any], where: str) -> Schedule:
    """Return the schedule that a dict with a `name` describes."""
    if not isinstance(options.get("name"), str):
        raise UsageError(f"{where}: a schedule needs a name, one of {', '.join(SCHEDULES)}")
    return make_schedule(**{str(k): v for k, v in options.items()})


def _make(known: Mapping[str, type[T]], kind: str, name: str, options: Mapping[str, Any]) -> T:
    """Return an instance of `known[name]`."""
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"{kind} {name!r} is not one of {', '.join(known)}")
    has = {f.name: f for f in fields(known[name])}  # type: ignore[arg-type]
    for key in options:
        if key not in has:
            raise UsageError(f"{kind} {name}: unknown option {key!r}; it has {', '.join(has)}")
    for key, f in has.items():
        if key not in options and f.default is MISSING:
            raise UsageError(f"{kind} {name}: {key} is missing")
    return known[name](**options)
