"""A rule as numba runs it: one loop over w, the gradients and all slots, compiled from the rule's own source.

Without `fastmath` LLVM neither contracts into fused multiply-adds nor reorders, and `error_model="numpy"` divides by
zero as NumPy does, so the bits are NumPy's. numba is imported when the first loop is asked for, in about a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from mpips.optim.lines import LINE, fence, nothing, past, plain, prefetch

Loop = Callable[..., None]
# Whether the sum of the gradients is scaled, clipped, and has weight decay added, and the new w is bounded.
Change = tuple[bool, bool, bool, bool]
PLAIN: Change = (False, False, False, False)
MORE = 6  # scalars of `change`: scale, clip, decay, and the `Limits` of `optim.gradient`
NEAR = 64  # elements that are computed, then written; measured, past the cache: 32 to 128 are alike, with 16 or 512 it gains less
AHEAD = 8  # rows; measured: 4 to 16 are alike, without it 10 000 rows of 64 take two thirds longer


def compiled(rule: Callable[..., tuple[Any, ...]], slots: int, scalars: int, dtype: np.dtype[Any],
             change: Change = PLAIN, counts: Sequence[int] = (1,), *, large: bool = False) -> Loop:
    """Return a loop over arrays of `dtype`: w, gradients, slots, scalars, new w, and the scalars of `change`.

    The arrays are 1-D, contiguous, of one length. The loop runs without the GIL.

    Args:
        counts: numbers of gradients to compile for now; for others it is done when they first come, in about a second.
        large: whether the new w is more than a cache holds. It is then written past the cache, if it begins a line, which saves
            reading each line before it is written (measured, 10 M elements: SGD 3.4 ms instead of 4.8, Adam 6.1 instead of 7.2).

    Raises ImportError without numba.
    """
    empty, scalar = np.empty(0, dtype), dtype.type(0)
    examples = [(empty, (empty,) * count, *[empty] * slots, empty, (scalar,) * scalars, (scalar,) * MORE) for count in counts]
    parts = {"_write": past(LINE // dtype.itemsize), "_fence": fence()} if large else {"_write": plain(), "_fence": nothing()}
    loop = _compile(_TEMPLATES[slots], rule, change, parts, examples, "p" * large)

    def run(w: Any, grads: Sequence[Any], slots: Sequence[Any], scalars: Sequence[Any], out: Any,
            more: Sequence[Any] = (scalar,) * MORE) -> None:
        loop(w, tuple(grads), *slots, out, tuple(scalars), tuple(more))

    return run


def compiled_rows(rule: Callable[..., tuple[Any, ...]], slots: int, scalars: int, dtype: np.dtype[Any], change: Change,
                  each: bool) -> Loop:
    """Return a loop over rows of `dtype`: w, index, gradients, slots, scalars, `which`, and the scalars of `change`.

    w and the slots are (capacity, dim), changed in place at the rows of index, (n,) int64, not checked; the gradients are
    (n, dim). All are contiguous. The loop runs without the GIL.

    Args:
        each: scalars are an array (k, scalars), and row i takes those at `which[i]`; else a sequence, and `which` is not read.

    Raises ImportError without numba.
    """
    empty, scalar, nowhere = np.empty(0, dtype), dtype.type(0), np.empty(0, np.int64)
    first = np.empty((0, scalars), dtype) if each else (scalar,) * scalars
    parts = {"_pick": _picker(scalars if each else -1), "_ahead": prefetch(64 // dtype.itemsize)}
    loop = _compile(_ROWS[slots], rule, change, parts, [
        (empty, nowhere, empty, *[empty] * slots, first, nowhere, (scalar,) * MORE, 0)], "r" * each)

    def run(w: Any, index: Any, grads: Any, slots: Sequence[Any], scalars: Any, which: Any, more: Sequence[Any]) -> None:
        loop(w.reshape(-1), index, grads.reshape(-1), *[s.reshape(-1) for s in slots],
             scalars if each else tuple(scalars), which, tuple(more), w.shape[1])

    return run


def compiled_counts() -> Loop:
    """Return a loop over counts, index, what is added to the counts there, and an array for what they were; all int64.

    Raises ImportError without numba.
    """
    some = np.zeros(1, np.int64)
    loop: Loop = jitted(_counts, {"_ahead": prefetch(8)}, [(some, some, 0, some)])
    return loop


def _compile(template: Any, rule: Any, change: Change, parts: dict[str, Any], examples: Sequence[Any], kind: str = "") -> Any:
    """Return `template` compiled around `rule` for arguments like `examples`."""
    import numba

    code = rule.__code__
    # A copy of the template for each rule, named after the rule's code: numba's cache on disk tells functions apart by
    # name and file, and would not notice that a rule in another file has changed.
    digest = zlib.crc32(repr((code.co_code, code.co_consts, code.co_names)).encode())
    kind += "".join(letter for letter, wanted in zip("scdb", change, strict=True) if wanted)
    name = f"{template.__name__}{kind}_{rule.__qualname__.replace('.', '_')}_{digest:08x}"
    inner = numba.njit(error_model="numpy")
    parts = {**parts, "_rule": inner(rule), "_grad": inner(_effective(*change[:3])), "_cut": inner(_bound(change[3]))}
    return jitted(template, parts, examples, name)


def jitted(template: Any, parts: dict[str, Any], examples: Sequence[Any], name: str = "") -> Any:
    """Return a copy of `template` with these parts, compiled for arguments like `examples`."""
    import numba

    copy = FunctionType(template.__code__, {**template.__globals__, **parts}, name or template.__name__)
    copy.__qualname__ = copy.__name__

    def compile_now(cache: bool) -> Any:
        loop = numba.njit(error_model="numpy", nogil=True, cache=cache)(copy)
        for example in examples:  # now, not in the first fold
            loop(*example)
        return loop

    try:
        return compile_now(cache=True)
    except (OSError, RuntimeError):  # no place for the cache: read-only, or over quota
        return compile_now(cache=False)


def _effective(scaled: bool, clipped: bool, decayed: bool) -> Callable[..., Any]:
    """Return what `gradient.effective` does, for one element; numba leaves out what is not wanted."""
    def effective(grads: Any, i: int, w: Any, more: Any) -> Any:
        g = grads[0][i]
        for k in range(1, len(grads)):
            g += grads[k][i]
        if scaled:
            g = g * more[0]
        if clipped:
            g = np.minimum(np.maximum(g, -more[1]), more[1])
        if decayed:
            g = g + w * more[2]
        return g

    return effective


def _bound(bounded: bool) -> Callable[..., Any]:
    """Return what `gradient.bound` does, for one element."""
    def bound(w: Any, more: Any) -> Any:
        return np.minimum(np.maximum(w, more[3]), more[4]) + more[5] if bounded else w

    return bound


def _picker(count: int) -> Callable[..., Any]:
    """Return a compiled function that gives the scalars of row i as a tuple; count -1 for those that all rows have."""
    import numba

    inner = numba.njit(error_model="numpy")
    if count < 0:
        return inner(lambda scalars, which, i: scalars)
    if not count:
        return inner(lambda scalars, which, i: ())
    before, last = _picker(count - 1), count - 1
    return inner(lambda scalars, which, i: before(scalars, which, i) + (scalars[which[i], last],))  # noqa: RUF005 - numba


def replaced(*args: Any) -> Any:
    """Stands for what each copy of a template has of its own."""
    raise NotImplementedError


_rule = _grad = _cut = _pick = _ahead = _write = _fence = replaced

# One template for each number of slots: with the slots as one tuple, a fold of rows takes up to twice as long (measured; slices in
# a tuple are counted references), and the first compilation too.


def _loop0(w: Any, g: Any, out: Any, scalars: Any, more: Any) -> None:
    near, size = np.empty(NEAR, w.dtype), np.uint64(w.size)
    for lo in range(np.uint64(0), size, np.uint64(NEAR)):
        count = min(np.uint64(NEAR), size - lo)
        for j in range(count):
            i = lo + j
            (x,) = _rule(w[i], _grad(g, i, w[i], more), *scalars)
            near[j] = _cut(x, more)
        _write(out, lo, near, count)
    _fence()


def _loop1(w: Any, g: Any, a: Any, out: Any, scalars: Any, more: Any) -> None:
    near, size = np.empty(NEAR, w.dtype), np.uint64(w.size)
    for lo in range(np.uint64(0), size, np.uint64(NEAR)):
        count = min(np.uint64(NEAR), size - lo)
        for j in range(count):
            i = lo + j
            x, a[i] = _rule(w[i], _grad(g, i, w[i], more), a[i], *scalars)
            near[j] = _cut(x, more)
        _write(out, lo, near, count)
    _fence()


def _loop2(w: Any, g: Any, a: Any, b: Any, out: Any, scalars: Any, more: Any) -> None:
    near, size = np.empty(NEAR, w.dtype), np.uint64(w.size)
    for lo in range(np.uint64(0), size, np.uint64(NEAR)):
        count = min(np.uint64(NEAR), size - lo)
        for j in range(count):
            i = lo + j
            x, a[i], b[i] = _rule(w[i], _grad(g, i, w[i], more), a[i], b[i], *scalars)
            near[j] = _cut(x, more)
        _write(out, lo, near, count)
    _fence()


def _loop3(w: Any, g: Any, a: Any, b: Any, c: Any, out: Any, scalars: Any, more: Any) -> None:
    near, size = np.empty(NEAR, w.dtype), np.uint64(w.size)
    for lo in range(np.uint64(0), size, np.uint64(NEAR)):
        count = min(np.uint64(NEAR), size - lo)
        for j in range(count):
            i = lo + j
            x, a[i], b[i], c[i] = _rule(w[i], _grad(g, i, w[i], more), a[i], b[i], c[i], *scalars)
            near[j] = _cut(x, more)
        _write(out, lo, near, count)
    _fence()


_TEMPLATES = (_loop0, _loop1, _loop2, _loop3)

# Slices, not sums of indices: numba takes a negative sum for a place from the end, and such a loop LLVM does not vectorise.


def _rows0(w: Any, index: Any, g: Any, scalars: Any, which: Any, more: Any, dim: int) -> None:
    for i in range(index.size):
        if i + AHEAD < index.size:
            near = index[i + AHEAD] * dim
            _ahead(w, near, dim)
        now, lo = _pick(scalars, which, i), index[i] * dim
        gr, wr = (g[i * dim:i * dim + dim],), w[lo:lo + dim]
        for j in range(wr.size):
            (x,) = _rule(wr[j], _grad(gr, j, wr[j], more), *now)
            wr[j] = _cut(x, more)


def _rows1(w: Any, index: Any, g: Any, a: Any, scalars: Any, which: Any, more: Any, dim: int) -> None:
    for i in range(index.size):
        if i + AHEAD < index.size:
            near = index[i + AHEAD] * dim
            _ahead(w, near, dim)
            _ahead(a, near, dim)
        now, lo = _pick(scalars, which, i), index[i] * dim
        gr, wr, ar = (g[i * dim:i * dim + dim],), w[lo:lo + dim], a[lo:lo + dim]
        for j in range(wr.size):
            x, ar[j] = _rule(wr[j], _grad(gr, j, wr[j], more), ar[j], *now)
            wr[j] = _cut(x, more)


def _rows2(w: Any, index: Any, g: Any, a: Any, b: Any, scalars: Any, which: Any, more: Any, dim: int) -> None:
    for i in range(index.size):
        if i + AHEAD < index.size:
            near = index[i + AHEAD] * dim
            _ahead(w, near, dim)
            _ahead(a, near, dim)
            _ahead(b, near, dim)
        now, lo = _pick(scalars, which, i), index[i] * dim
        gr, wr, ar, br = (g[i * dim:i * dim + dim],), w[lo:lo + dim], a[lo:lo + dim], b[lo:lo + dim]
        for j in range(wr.size):
            x, ar[j], br[j] = _rule(wr[j], _grad(gr, j, wr[j], more), ar[j], br[j], *now)
            wr[j] = _cut(x, more)


def _rows3(w: Any, index: Any, g: Any, a: Any, b: Any, c: Any, scalars: Any, which: Any, more: Any, dim: int) -> None:
    for i in range(index.size):
        if i + AHEAD < index.size:
            near = index[i + AHEAD] * dim
            _ahead(w, near, dim)
            _ahead(a, near, dim)
            _ahead(b, near, dim)
            _ahead(c, near, dim)
        now, lo = _pick(scalars, which, i), index[i] * dim
        gr, wr, ar, br, cr = (g[i * dim:i * dim + dim],), w[lo:lo + dim], a[lo:lo + dim], b[lo:lo + dim], c[lo:lo + dim]
        for j in range(wr.size):
            x, ar[j], br[j], cr[j] = _rule(wr[j], _grad(gr, j, wr[j], more), ar[j], br[j], cr[j], *now)
            wr[j] = _cut(x, more)


_ROWS = (_rows0, _rows1, _rows2, _rows3)


def _counts(counts: Any, index: Any, by: int, before: Any) -> None:
    for i in range(index.size):
        if i + 2 * AHEAD < index.size:
            _ahead(counts, index[i + 2 * AHEAD], 1)
        before[i] = counts[index[i]]
        counts[index[i]] += by
