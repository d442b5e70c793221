"""One workload over every optimizer and dtype, for jobs and for the oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import mpips
from mpips import layout, optim

RULES: dict[str, Any] = {
    "sgd": optim.SGD(lr=0.1), "momentum": optim.Momentum(lr=0.05, weight_decay=0.01), "nesterov": optim.Nesterov(lr=0.05),
    "adagrad": optim.Adagrad(lr=0.1), "rmsprop": optim.RMSProp(lr=0.01, clip=0.5), "adadelta": optim.Adadelta(lr=1.0),
    "adam": optim.Adam(lr=optim.Cosine(0.05, clocks=20)), "adamw": optim.AdamW(lr=0.01, weight_decay=0.1),
    "amsgrad": optim.AMSGrad(lr=0.01), "lion": optim.Lion(lr=0.001, weight_decay=0.1), "ftrl": optim.FTRL(lr=0.1),
    "add": optim.Add(lr=0.0),
}
DTYPES = ("float32", "float64", "float16", "bfloat16")


def small_blocks() -> None:
    """Cut tables into many blocks, so that a small job has what a large one has."""
    layout.BLOCK = layout.WHOLE = 4096


def refused(call: Callable[[], object], kind: type[Exception], says: str) -> None:
    """Check that a verb refuses what it is asked for, in a job, where there is no pytest."""
    try:
        call()
    except kind as error:
        assert says in str(error), error  # noqa: PT017
    else:
        raise AssertionError(f"not refused: {says}")


def tables(staleness: int | None = 0) -> list[mpips.Dense]:
    """One table for each rule, of changing dtype, and the odd shapes."""
    out = []
    for k, (name, rule) in enumerate(RULES.items()):
        shape = (61, 37 + k) if k % 2 else (3001 + k,)
        out.append(mpips.Dense(name, shape, rule, mpips.init.normal(0.5), staleness, DTYPES[k % 4], combine=("sum", "mean")[k % 2]))
    out.append(mpips.Dense("scalar", (), optim.SGD(lr=0.1), mpips.init.constant(1.0), staleness))
    out.append(mpips.Dense("empty", (0, 3), optim.Adam(lr=0.1), staleness=staleness))
    return out


def skipping() -> list[mpips.Dense]:
    """Tables whose gradients have NaN or Inf now and then: one of many workers', and all of a clock's."""
    return [mpips.Dense(name, (40, 40), optim.SGD(lr=0.1), mpips.init.normal(0.5), combine="mean", nonfinite="skip")
            for name in ("nan-one", "nan-all")]


def gradient(worker: int, clock: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """A gradient that depends on worker, clock and the values read; not every table is pushed by everybody in every clock."""
    out = {}
    for k, (name, value) in enumerate(values.items()):
        if (worker + clock + k) % 5 == 0:
            continue
        noise = np.random.default_rng([worker, clock, k]).standard_normal(value.shape).astype(np.float32)
        wide = value.astype(np.float32) * np.float32(0.1) + noise
        out[name] = wide.astype(value.dtype)
        if (name == "nan-one" and (worker + clock) % 3 == 0) or (name == "nan-all" and clock % 2):
            out[name][3, 4] = (np.nan, np.inf)[clock % 2]
    return out


def finite(worker: int, clock: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """`gradient` without those that are left out."""
    return {name: g for name, g in gradient(worker, clock, values).items() if np.isfinite(np.asarray(g, np.float64)).all()}


def fingerprint(values: Mapping[str, Any]) -> dict[str, str]:
    """Hash of each table's bytes."""
    return {name: hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()[:16] for name, v in values.items()}
