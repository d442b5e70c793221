"""What is to be reached, as data, and what a report says of it.

A target compares the median of a case with others of the same report: `value` = top / bottom. They were set for two cores of one
machine and the wheel of Open MPI, as ratios within one run, so they say something on other machines too, though not the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mpips.bench.crew import Case
from mpips.bench.report import Row

MILLION = 1_000_000
At = tuple[int, int]  # workers, servers
Lookup = Callable[[str], float | None]


@dataclass(frozen=True)
class Target:
    """One line: `top` over `bottom` is at most or at least `bound`.

    Attributes:
        top, bottom: names of cases; "a | b" is the longer of both; "" is 1; "2 a" is twice a.
        size: elements, 0 where there is no size, -1 for every size of the report.
        at: workers and servers; None for whatever the report has.
    """

    text: str
    top: str
    bottom: str
    at_most: float | None = None
    at_least: float | None = None
    size: int = 0
    at: At | None = (1, 1)

    @property
    def bound(self) -> str:
        """The bound as text."""
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"

    def met(self, value: float) -> bool:
        """Whether the value is within the bound."""
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)


SGD = " sgd 0"
BIG = 10 * MILLION
ROWS, BORN = 640_000, 160_000  # elements of 10 000 rows
TARGETS = (
    Target("speed of a pull with out=, of a copy's", "copy", f"pull{SGD}", at_least=0.9, size=BIG),
    Target("seconds of a view", f"view{SGD}", "", at_most=20e-6, size=-1),
    Target("push until applied, over the longer of copy and update", f"push{SGD}", "copy | update sgd", at_most=1.2, size=BIG),
    Target("push in place, over the update", f"push in place{SGD}", "update sgd", at_most=1.15, size=BIG),
    Target("two-sided over round", "two-sided", f"round{SGD}", at_least=1.6, size=BIG),
    Target("two-sided over round in place", "two-sided", f"round in place{SGD}", at_least=2.7, size=BIG),
    Target("two-sided over round, 2 workers", "two-sided", f"round{SGD}", at_least=1.2, size=BIG, at=(2, 1)),
    Target("gloo over round, 2 workers", "gloo", f"round{SGD}", at_least=1.2, size=BIG, at=(2, 1)),
    Target("two-sided over round in place, 2 workers", "two-sided", f"round in place{SGD}", at_least=2.2, size=BIG, at=(2, 1)),
    Target("gloo over round in place, 2 workers", "gloo", f"round in place{SGD}", at_least=2.2, size=BIG, at=(2, 1)),
    Target("two-sided over round, 100 M", "two-sided", f"round{SGD}", at_least=2.4, size=100 * MILLION),
    Target("round over two-sided, 1000 elements", f"round{SGD}", "two-sided", at_most=2.0, size=1000),
    Target("prepared round over two-sided, 1000 elements", f"round prepared{SGD}", "two-sided", at_most=1.0, size=1000),
    Target("1000 small tables over one of the same bytes", f"round of tables{SGD}", f"round{SGD}", at_most=1.5, size=BIG),
    Target("two-sided over round of rows", "two-sided rows", f"round of rows{SGD}", at_least=2.2, size=ROWS, at=None),
    Target("speed of a pull of rows, of a take's", "take", f"pull of rows{SGD}", at_least=0.7, size=ROWS, at=None),
    Target("round of named rows over round of rows", f"round of named rows{SGD}", f"round of rows{SGD}", at_most=1.3, size=ROWS,
           at=None),
    Target("rows of 16 born in a second on a server", "born by push sgd none", "", at_least=MILLION, size=BORN, at=None),
    Target("update with SGD, over moving its bytes", "update sgd", "bytes", at_most=1.2, size=BIG, at=None),
    Target("update with Adam, over moving its bytes", "update adam", "2 bytes", at_most=1.7, size=BIG, at=None),
    Target("idle server, of a core", "idle server", "", at_most=0.05, at=None),
    Target("first answer of an idle server, seconds", "first answer", "", at_most=1e-3, size=1000, at=None),
    Target("computing speed lost to polling, 2 workers", "polling", "", at_most=0.10, at=(2, 1)),
    Target("speed of three workers beside a straggler", "beside straggler sgd none", "", at_least=0.95, size=1000, at=(4, 1)),
    Target("random steps, staleness 3 over 0", "random steps sgd 3", f"random steps{SGD}", at_least=1.4, size=1000, at=(4, 1)),
    Target("random steps, staleness none over 0", "random steps sgd none", f"random steps{SGD}", at_least=1.8, size=1000,
           at=(4, 1)),
    Target("server memory over (2 + slots + halves) x shard", f"server memory{SGD}", "", at_most=1.1, size=100 * MILLION,
           at=None),
    Target("start with 100 M elements of zeros, seconds", f"start{SGD}", "", at_most=3.0, size=100 * MILLION, at=None),
    Target("workers that have imported numba", "numba on workers", "", at_most=0.0, at=None),
)


@dataclass(frozen=True)
class Verdict:
    """A target on one report: the value is None if its cases were not measured."""

    target: Target
    value: float | None
    workers: int = 0
    servers: int = 0
    size: int = 0

    @property
    def short(self) -> bool:
        """Whether the target was measured and is not met."""
        return self.value is not None and not self.target.met(self.value)

    def __str__(self) -> str:
        if self.value is None:
            return f"not measured  {self.target.text}: {self.target.bound}"
        where = f", {self.size} elements" if self.target.size < 0 else ""
        word = "FALLS SHORT" if self.short else "reached"
        return (f"{word:<12}  {self.target.text}: {self.value:.3g}, wanted {self.target.bound}  "
                f"({self.workers} workers, {self.servers} servers{where})")


def check(results: Sequence[Row], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Return the verdict on each target for each (workers, servers) that was measured."""
    table = {(row["workers"], row["servers"], Case(row["what"], row["size"], row["optimizer"], row["staleness"])): row["median"]
             for row in results}
    places = list(dict.fromkeys((workers, servers) for workers, servers, _ in table))
    out: list[Verdict] = []
    for target in targets:
        found = []
        for place in [p for p in places if target.at in (None, p)]:
            sizes = sorted({case.size for *at, case in table if tuple(at) == place}) if target.size < 0 else [target.size]
            for size in sizes:
                value = _ratio(target, lambda name, place=place, size=size: table.get((*place, _case(name, size))))  # type: ignore[misc]
                if value is not None:
                    found.append(Verdict(target, value, *place, size))
        out += found or [Verdict(target, None)]
    return out


def _case(name: str, size: int) -> Case:
    """Read "round in place sgd 0": a name, then optimizer and staleness where the case has them."""
    words = name.split()
    if words[-1] in ("0", "3", "none"):
        return Case(" ".join(words[:-2]), size, words[-2], words[-1])
    if words[0] == "update":
        return Case("update", size, words[1])
    return Case(name, size)


def _ratio(target: Target, lookup: Lookup) -> float | None:
    top, bottom = _value(target.top, lookup), _value(target.bottom, lookup)
    return None if top is None or not bottom else top / bottom


def _value(text: str, lookup: Lookup) -> float | None:
    if not text:
        return 1.0
    values = list(_values(text, lookup))
    return None if None in values else max(value for value in values if value is not None)


def _values(text: str, lookup: Lookup) -> Iterator[float | None]:
    for name in text.split(" | "):
        factor, _, rest = name.partition(" ")
        found = lookup(rest if factor.isdecimal() else name)
        yield found * int(factor) if factor.isdecimal() and found is not None else found
