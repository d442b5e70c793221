"""A rule as NumPy runs it: a list of in-place operations on slices that stay in cache.

Called on arrays, a rule makes a new array for every operation. Called once on symbols instead, it tells its operations,
and each gets a place to write: where the result belongs, if what lies there is not read any more, else a scratch
register. The operations, their order and so their bits are those of the rule; 10M floats of Adam take a quarter less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

FUNCTIONS: tuple[np.ufunc, ...] = (
    np.add, np.subtract, np.multiply, np.divide, np.negative, np.sqrt, np.sign, np.maximum, np.minimum, np.absolute,
)
"""All that a rule may do; each rounds correctly or not at all, so NumPy and numba agree on every bit."""

EXTREMES: dict[np.ufunc, Callable[..., Any]] = {  # these want their output by name, which takes the others longer
    np.maximum: lambda a, b, out: np.maximum(a, b, out=out), np.minimum: lambda a, b, out: np.minimum(a, b, out=out),
}


class _Symbol(NDArrayOperatorsMixin):
    """Stands for an array or a scalar while a rule is traced; `number` counts inputs first, then results."""

    def __init__(self, tape: list[tuple[np.ufunc, tuple[int, ...]]], inputs: int, number: int) -> None:
        self.tape, self.inputs, self.number = tape, inputs, number

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **options: Any) -> _Symbol:
        if ufunc not in FUNCTIONS or method != "__call__" or options:
            raise TypeError(f"a rule may not use np.{ufunc.__name__} in this way")
        if not all(isinstance(a, _Symbol) for a in args):
            raise TypeError("a rule may not use a constant: make it one of its scalars")
        self.tape.append((ufunc, tuple(a.number for a in args)))
        return _Symbol(self.tape, self.inputs, self.inputs + len(self.tape) - 1)

    def __bool__(self) -> bool:
        raise TypeError("a rule may not branch")


@dataclass(frozen=True)
class Program:
    """A traced rule.

    Places are numbered: w, g, the slots, the scalars, then the new w, then `scratch` registers.
    """

    steps: tuple[tuple[Callable[..., Any], itemgetter[Any]], ...]  # operation; the places of its inputs and of its output
    copies: tuple[tuple[int, int], ...]  # (from, to), afterwards
    scratch: int

    def __call__(self, w: Any, g: Any, slots: Sequence[Any], scalars: Sequence[Any], out: Any,
                 scratch: Sequence[Any]) -> None:
        """Write the new w to `out`, which is not w, and the new slots over the old; all (n,), of one dtype."""
        place = [w, g, *slots, *scalars, out, *scratch]
        for operation, places in self.steps:
            operation(*places(place))
        for source, target in self.copies:
            np.copyto(place[target], place[source])


def trace(rule: Callable[..., tuple[Any, ...]], slots: int, scalars: int) -> Program:
    """Return the program of a rule with that many slots and scalars; TypeError if it is not plain arithmetic."""
    inputs = 2 + slots + scalars
    tape: list[tuple[np.ufunc, tuple[int, ...]]] = []
    results = [r.number for r in rule(*(_Symbol(tape, inputs, k) for k in range(inputs)))]
    targets = [inputs, *range(2, 2 + slots)]  # where each result belongs: new w, then the slots
    last = {k: len(tape) for k in results}
    for k, (_, args) in reversed(list(enumerate(tape))):
        for a in args:
            last.setdefault(a, k)

    where = {k: k for k in range(inputs)}  # value -> place
    free: list[int] = []
    top = inputs + 1
    steps = []
    for k, (ufunc, args) in enumerate(tape):
        free += [where[a] for a in set(args) if where[a] > inputs and last[a] == k]
        value = inputs + k
        fit = [t for r, t in zip(results, targets, strict=True) if r == value and last.get(t, -1) <= k]
        if fit:
            where[value] = fit[0]
        elif free:
            where[value] = free.pop()
        else:
            where[value], top = top, top + 1
        steps.append((EXTREMES.get(ufunc, ufunc), itemgetter(*(where[a] for a in args), where[value])))
    copies = tuple((where[r], t) for r, t in zip(results, targets, strict=True) if where[r] != t)
    if {source for source, _ in copies} & {target for _, target in copies}:
        raise TypeError("a rule may not exchange its slots")
    return Program(tuple(steps), copies, top - inputs - 1)
