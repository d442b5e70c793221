"""A prepared round: the same arrays in every step, looked at once. A step is push, `clock()` and pull."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpips.errors import UsageError
from mpips.worker.arrays import deliver, flat, target

if TYPE_CHECKING:
    from mpips.worker.worker import Worker


class Prepared:
    """A round of fixed arrays: `step()` pushes the gradients as they are now, ends the clock, and fills and returns `values`.

    Attributes:
        values: the new values after each step, by table: the arrays given as `out`, or its own.
    """

    def __init__(self, worker: Worker, gradients: Mapping[str, Any], out: Mapping[str, Any] | None) -> None:
        for given in (gradients, out):
            if given is not None and not isinstance(given, Mapping):
                raise UsageError(f"prepare: {given!r:.40} is not a dict of arrays by table")
        if out is not None and set(out) != set(gradients):
            raise UsageError(f"prepare: gradients of {sorted(map(str, gradients))}, but out for {sorted(map(str, out))}")
        self._worker = worker
        self._gradients, self._names = dict(gradients), list(gradients)
        device, self.values = worker._device, dict[str, Any]()
        for name in self._names:
            table = worker._dense(name, "prepare()").table
            flat(device, table, gradients[name])
            values, array = target(device, table, out[name] if out is not None else None)
            self.values[name] = array if array is not None or device is None else deliver(device, table, values, None)

    def __call__(self) -> dict[str, Any]:
        """Do one step and return `values`; raises what `push`, `clock` and `pull` do."""
        worker, names = self._worker, self._names
        if len(names) == 1:  # which have a short way
            worker.push(names[0], self._gradients[names[0]])
            worker.clock()
            worker.pull(names[0], out=self.values[names[0]])
        else:
            worker.push(self._gradients)
            worker.clock()
            worker.pull(names, out=list(self.values.values()))
        return self.values
