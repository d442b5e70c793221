"""Samples: where they come from, what is held out, and which of them a worker takes in a step.

| source   | samples                                                      | options            |
|----------|--------------------------------------------------------------|--------------------|
| `digits` | scikit-learn's 1797 images of 8 x 8, ten classes             |                    |
| `npz`    | arrays `x`, `y` of a file, and `x_test`, `y_test` if present | path               |
| `linear` | drawn here: y = x w + b + noise                              | samples, w, b, noise |

Every worker loads the same arrays and takes its part by `Order`, a pure function: the clock says the position in the data,
together with the sizes that steps have had (`mpips.train.resume`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from mpips.arrays import to_host
from mpips.errors import UsageError
from mpips.train.config import Named, convert, nearest

Array = np.ndarray[Any, np.dtype[Any]]

SPLIT = (1 << 64) - 1  # in the place of an epoch's number: which samples are held out
DIGITS = "datasets/data/digits.csv.gz"  # within scikit-learn
DRAW = (1 << 64) - 2  # and: what a synthetic source draws


class Arrays(NamedTuple):
    """What a source gives: samples along the first axis; without a test set of its own, one is split off."""

    x: Array
    y: Array
    x_test: Array | None = None
    y_test: Array | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sources, and the options that all of them have.

    Args:
        test_fraction: part that is held out, if the source has no test set of its own.
        seed: which samples are held out (and what a synthetic source draws).
        standardize: shift and scale every feature to mean 0 and standard deviation 1 over the training samples.
    """

    test_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    seed: Annotated[int, Meta(ge=0)] = 0
    standardize: bool = True

    def check(self) -> None:
        """Raise UsageError for what can be told without loading."""

    def arrays(self) -> Arrays:
        """Return the samples."""
        raise NotImplementedError


class Digits(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The test set of UCI's "Optical Recognition of Handwritten Digits", as scikit-learn brings it."""

    def check(self) -> None:
        """Raise UsageError without scikit-learn."""
        if find_spec("sklearn") is None:
            raise UsageError("data.source 'digits' needs scikit-learn: pip install 'mpips[examples]'")

    def arrays(self) -> Arrays:
        """Return x (1797, 64) of 0 to 16 and y (1797,) of 0 to 9."""
        self.check()
        spec = find_spec("sklearn")
        file = Path(next(iter(spec.submodule_search_locations or ())), DIGITS) if spec else Path(DIGITS)
        if file.is_file():  # importing scikit-learn costs every rank seconds, this some milliseconds
            table = np.loadtxt(file, delimiter=",")
            return Arrays(table[:, :-1], table[:, -1].astype(np.int64))
        from sklearn.datasets import load_digits

        return Arrays(*load_digits(return_X_y=True))


class Npz(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file written by `numpy.savez`: `x` (n, ...) and `y` (n,) of integers (classes) or (n, ...) of floats."""

    path: str

    def check(self) -> None:
        """Raise UsageError unless the file is there and has the arrays."""
        where = f"data.path {self.path}"
        if not Path(self.path).is_file():
            raise UsageError(f"{where}: no such file")
        if not zipfile.is_zipfile(self.path):
            raise UsageError(f"{where}: not a .npz file")
        with zipfile.ZipFile(self.path) as members:
            names = {Path(name).stem for name in members.namelist()}
        for one, other in (("x", "y"), ("y", "x")):
            if one not in names:
                raise UsageError(f"{where}: has no array '{one}'")
            if f"{one}_test" in names and f"{other}_test" not in names:
                raise UsageError(f"{where}: has '{one}_test' but no '{other}_test'")

    def arrays(self) -> Arrays:
        """Return the arrays of the file."""
        self.check()
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return Arrays(**{name: file[name] for name in Arrays._fields if name in file})
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"data.path {self.path}: {error}") from None


class Linear(Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """y = x w + b + noise: x uniform on [-1, 1), `noise` the standard deviation of a normal law."""

    samples: Annotated[int, Meta(ge=1)] = 1024
    w: tuple[float, ...] = (2.0,)
    b: float = -1.0
    noise: Annotated[float, Meta(ge=0)] = 0.1
    standardize: bool = False

    def arrays(self) -> Arrays:
        """Return x (samples, len(w)) and y (samples, 1)."""
        draw = np.random.Generator(_philox(self.seed, DRAW))
        x = draw.uniform(-1, 1, (self.samples, len(self.w)))
        y = x @ np.asarray(self.w, float).reshape(-1, 1) + self.b + self.noise * draw.standard_normal((self.samples, 1))
        return Arrays(x, y)


SOURCES: dict[str, type[Source]] = {"digits": Digits, "npz": Npz, "linear": Linear}


def source(named: Named | str, where: str = "fit") -> Source:
    """Return the source of a [data] section (or of a name alone), or raise UsageError that names the key."""
    named = Named(named) if isinstance(named, str) else named
    if named.name not in SOURCES:
        raise UsageError(f"{where}: data.source: unknown source '{named.name}'; {nearest(named.name, SOURCES)}")
    return convert(named.options, SOURCES[named.name], where, "data.")


@dataclass(frozen=True)
class Scale:
    """x becomes (x - mean) / std, feature by feature; a feature that never changes keeps its scale."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, x: Array) -> Scale:
        """Measure `x` along its first axis."""
        std = x.std(axis=0)
        return cls(x.mean(axis=0), np.where(std > 0, std, 1).astype(x.dtype))

    def __call__(self, x: Array) -> Array:
        """Return the scaled samples in the dtype of `x`."""
        return ((x - self.mean) / self.std).astype(x.dtype, copy=False)

    def describe(self) -> dict[str, Any]:
        """Return the scale as JSON values."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "dtype": self.mean.dtype.name}

    @classmethod
    def restore(cls, described: Mapping[str, Any]) -> Scale:
        """Undo `describe`, to the bit."""
        return cls(np.asarray(described["mean"], described["dtype"]), np.asarray(described["std"], described["dtype"]))


@dataclass(frozen=True)
class Data:
    """Samples ready for a model; `x_test` and `y_test` are empty without a held-out part.

    Targets of integers, of any size, are labels of classes, those of floats are values.

    >>> data = Data(np.zeros((5, 2), np.float32), np.array([0, 1, 2, 1, 0], np.uint8))
    >>> data.classes, data.x_test.shape
    (3, (0, 2))
    """

    x: Array
    y: Array
    x_test: Any = None
    y_test: Any = None
    scale: Scale | None = None

    def __post_init__(self) -> None:
        if (self.x_test is None) != (self.y_test is None):
            raise UsageError("data: x_test and y_test go together")
        for name, like in (("x", None), ("y", None), ("x_test", self.x), ("y_test", self.y)):
            array: Any = getattr(self, name)
            if array is None and like is not None:
                array = like[:0]
            if not hasattr(array, "dtype") or not hasattr(array, "shape") or not array.shape:
                raise UsageError(f"data: {name} is {type(array).__name__}, expected an array with an axis of samples")
            if name[0] == "y" and array.dtype.kind in "ub":
                array = array.astype(np.int64)
            object.__setattr__(self, name, array)
        for x, y in (("x", "y"), ("x_test", "y_test")):
            if (samples := len(getattr(self, x))) != (targets := len(getattr(self, y))):
                raise UsageError(f"data: {x} has {samples} samples, {y} has {targets}")

    def to(self, xp: Any) -> Data:
        """Return the same with the samples as arrays of `xp`."""
        if xp is np:
            return self
        x, y, x_test, y_test = map(xp.asarray, (self.x, self.y, self.x_test, self.y_test))
        return Data(x, y, x_test, y_test, self.scale)

    def facts(self) -> dict[str, Any]:
        """Return as JSON values by what a checkpoint tells these samples, and which of them are held out, from others.

        Targets of floats are compared as float32, for a machine may round what it computes in float64 otherwise than another.
        Those that are no numbers, which only a model of one's own takes, are not compared.
        """
        out = {"samples": len(self.y), "held_out": len(self.y_test), "standardized": self.scale is not None}
        both = self.y, self.y_test
        if any(part.dtype.kind not in "if" for part in both):
            return out
        with np.errstate(over="ignore"):
            parts = [to_host(part).astype("<i8" if part.dtype.kind == "i" else "<f4") for part in both]
        return {**out, "targets": f"{zlib.crc32(parts[0].tobytes() + parts[1].tobytes()):08x}"}

    @property
    def classes(self) -> int | None:
        """Number of classes, or None if `y` is not of integers."""
        if self.y.dtype.kind != "i":
            return None
        return 1 + int(max(part.max(initial=0) for part in (self.y, self.y_test)))


def load(source: Source, dtype: Any = np.float32, *, finite: bool = False) -> Data:
    """Load, check, split and standardise; `x` and a `y` of floats come in `dtype`, a `y` of integers as int64.

    Raises:
        UsageError: the arrays do not fit each other, or there is no sample to train on, or one has NaN or Inf, where that
            must not be: with `finite` anywhere, else in what is standardised, for it would make the whole feature NaN.
    """
    raw = source.arrays()
    for name, array in raw._asdict().items():
        if array is not None and (finite or (source.standardize and name == "x")):
            _check_finite(array, name, dtype)
    x, y = _pair(raw.x, raw.y, "x", "y", dtype)
    if raw.x_test is not None and raw.y_test is not None:
        x_test, y_test = _pair(raw.x_test, raw.y_test, "x_test", "y_test", dtype)
        if x_test.shape[1:] != x.shape[1:] or y_test.shape[1:] != y.shape[1:] or y_test.dtype != y.dtype:
            raise UsageError("data: the test arrays are of another shape or kind than x and y")
    else:
        held = round(len(x) * source.test_fraction)
        order = permutation(len(x), source.seed, SPLIT)
        test, train = np.sort(order[:held]), np.sort(order[held:])
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
    if not len(x):
        raise UsageError("data: no sample to train on")
    scale = Scale.of(x) if source.standardize else None
    if scale is not None:
        x, x_test = scale(x), scale(x_test)
    return Data(x, y, x_test, y_test, scale)


def _check_finite(array: Any, name: str, dtype: Any) -> None:
    """Raise UsageError that names the first sample with a number that is none, or is none in `dtype`."""
    array = np.asarray(array)
    if array.dtype.kind != "f" or not array.ndim:
        return
    with np.errstate(over="ignore"):
        fine = np.isfinite(array.astype(dtype, copy=False)).all(axis=tuple(range(1, array.ndim)))
    if not fine.all():
        raise UsageError(f"data: sample {fine.argmin()} of {name} has NaN or Inf, or what is too large for {np.dtype(dtype)}")


def _pair(x: Any, y: Any, x_name: str, y_name: str, dtype: Any) -> tuple[Array, Array]:
    """Return samples and targets in the dtypes that models take."""
    x, y = np.asarray(x), np.asarray(y)
    for name, array in ((x_name, x), (y_name, y)):
        if array.dtype.kind not in "biuf" or not array.ndim:
            raise UsageError(f"data: {name} is {array.dtype} of shape {array.shape}, expected an array of numbers")
    if len(x) != len(y):
        raise UsageError(f"data: {x_name} has {len(x)} samples, {y_name} has {len(y)}")
    if y.dtype.kind in "biu" and y.size and y.min() < 0:
        raise UsageError(f"data: {y_name} has the class {y.min()}, classes count from 0 (values are floats)")
    if x.ndim == 1:
        x = x[:, None]
    return x.astype(dtype, copy=False), y.astype(dtype if y.dtype.kind == "f" else np.int64, copy=False)


def permutation(n: int, seed: int, epoch: int) -> Array:
    """Return 0..n-1 (int64) in an order that depends on (n, seed, epoch) alone.

    The order that sorts n words of Philox4x64-10 (Salmon et al., SC 2011) keyed by (seed, epoch). Not
    `Generator.permutation`: NumPy promises a generator's bits for good, but not what its methods make of them (NEP 19).
    """
    return np.argsort(_philox(seed, epoch).random_raw(n), kind="stable")


def _philox(seed: int, epoch: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed & (1 << 64) - 1, epoch], np.uint64))


class Order:
    """Which samples each worker takes at each clock.

    An epoch is one permutation. Every step takes the next `batch * workers` samples of it and deals them out in equal
    parts; in the last, shorter step they may differ by one sample, and a worker may even get none. So all workers count
    the same clocks an epoch and each sample is taken once.

    Args:
        before: of a resumed run, how many samples a step took and until which clock, [(clock, samples), ...]: it goes on behind
            the last of them.

    >>> order = Order(11, batch=2, workers=2, seed=0)
    >>> order.steps, [[len(order.rows(clock, worker)) for clock in range(3)] for worker in range(2)]
    (3, [[2, 2, 1], [2, 2, 2]])
    """

    def __init__(self, samples: int, *, batch: int, workers: int, seed: int, before: Sequence[tuple[int, int]] = ()) -> None:
        self.samples, self.batch, self.workers, self.seed, self.before = samples, batch, workers, seed, before
        self._kept: tuple[int, Array] | None = None

    @property
    def steps(self) -> int:
        """Clocks of an epoch."""
        return -(-self.samples // (self.batch * self.workers))

    def end(self, epochs: int) -> int:
        """Return the clock at which so many epochs are over; if they were before the resume, one that is not behind it."""
        begin = self.before[-1][0] if self.before else 0
        epoch, offset = divmod(self.seen(begin), self.samples)
        return begin - (offset - self.samples) // (self.batch * self.workers) + (epochs - epoch - 1) * self.steps

    def epoch(self, clock: int) -> int:
        """Return the epoch that this clock lies in."""
        return self.seen(clock) // self.samples

    def rows(self, clock: int, worker: int) -> Array:
        """Return the indices (int64, 1-d, maybe empty) of the samples of `worker` at `clock`."""
        seen, size = self._place(clock)
        epoch, start = divmod(seen, self.samples)
        if self._kept is None or self._kept[0] != epoch:
            self._kept = epoch, permutation(self.samples, self.seed, epoch)
        together = self._kept[1][start:start + size]
        n = len(together)
        return together[worker * n // self.workers:(worker + 1) * n // self.workers]

    def seen(self, clock: int) -> int:
        """Return how many samples all workers together have taken before `clock`."""
        return self._place(clock)[0]

    def _place(self, clock: int) -> tuple[int, int]:
        """Return how many samples were taken before `clock`, and how many its step takes if the epoch has as many left."""
        seen = begin = 0
        for until, size in self.before:
            if clock < until:
                return self._after(seen, clock - begin, size), size
            seen, begin = self._after(seen, until - begin, size), until
        size = self.batch * self.workers
        return self._after(seen, clock - begin, size), size

    def _after(self, seen: int, steps: int, size: int) -> int:
        """Return how many samples were taken some steps after `seen`; a step ends where an epoch does."""
        epoch, offset = divmod(seen, self.samples)
        rest = -((offset - self.samples) // size)  # steps to the end of this epoch
        if steps < rest:
            return seen + steps * size
        more, step = divmod(steps - rest, -(-self.samples // size))
        return (epoch + 1 + more) * self.samples + step * size
