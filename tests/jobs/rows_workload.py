"""Tables of rows and what workers push to them: the job's ranks and the test's dictionary make the same."""

from __future__ import annotations

from typing import Any

import numpy as np

import mpips

ROWS = 300
RULES: dict[str, Any] = {
    "user": mpips.optim.Adam(lr=0.05), "item": mpips.optim.RowAdagrad(lr=0.1), "word": mpips.optim.FTRL(lr=0.1, l1=0.01),
}


def tables(staleness: int | None = 0) -> list[mpips.Rows]:
    """Three of them; of the last the ids are not known beforehand."""
    common: dict[str, Any] = {"staleness": staleness, "dtype": "float64"}
    return [mpips.Rows("user", rows=ROWS, dim=5, optimizer=RULES["user"], init=mpips.init.normal(1.0), **common),
            mpips.Rows("item", rows=ROWS, dim=1, optimizer=RULES["item"], init=mpips.init.uniform(), combine="mean", **common),
            mpips.Rows("word", rows=None, capacity=4 * ROWS, dim=3, optimizer=RULES["word"], admit=2, **common)]


def ids_of(name: str) -> Any:
    """All ids that a job uses of a table."""
    if name == "word":
        return np.random.default_rng(1).integers(-1 << 63, 1 << 63, ROWS, np.int64, endpoint=False)
    return np.arange(ROWS)


def batch(name: str, worker: int, clock: int) -> Any:
    """Ids of a step, a few of them often; none in some steps."""
    random = np.random.default_rng((len(name), ord(name[0]), worker, clock))
    return ids_of(name)[(ROWS * random.random(random.integers(0, 200)) ** 3).astype(int)]


def gradient(name: str, values: Any, clock: int) -> Any:
    """Gradient of a step, given the values of its ids."""
    return values * 0.5 + np.cos(np.arange(values.size).reshape(values.shape) + clock + len(name))
