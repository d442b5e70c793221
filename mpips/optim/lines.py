"""Cache lines, of which numba knows nothing: to ask for them before they are needed, and to write past the cache.

Both are LLVM's own (`llvm.prefetch`, a store with `!nontemporal`; LLVM Language Reference), so they compile for any processor.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

LINE = 64  # bytes


@cache
def prefetch(line: int) -> Any:
    """Return a compiled function that asks for the cache lines of a row, of `line` elements; it is too short to be foreseen."""
    import numba
    from llvmlite import ir
    from numba.extending import intrinsic

    @intrinsic
    def ask(context: Any, array: Any, at: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            flag, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
            call = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
            place = builder.bitcast(_element(context, builder, signature, args, 0), pointer)
            builder.call(call, [place, flag(1), flag(3), flag(1)])  # to write, into all caches, data
            return context.get_dummy_value()

        return numba.types.void(array, at), emit

    touch: Any = ask

    def ahead(array: Any, start: Any, dim: Any) -> None:
        for j in range(0, dim, line):
            touch(array, start + j)
        touch(array, start + dim - 1)  # rows need not start where a line does

    return numba.njit(ahead)


@cache
def plain() -> Any:
    """Return a compiled function that writes the first `count` elements of an array to `out` from `at` on."""
    import numba

    def write(out: Any, at: Any, array: Any, count: Any) -> None:
        for j in range(count):
            out[at + j] = array[j]

    return numba.njit(write)


@cache
def nothing() -> Any:
    """Return a compiled function that does nothing."""
    import numba

    return numba.njit(lambda: None)


@cache
def past(line: int) -> Any:
    """Return what `plain` does, but past the cache, if `out` begins a line, of `line` elements; `at` is a multiple of these.

    What a line held need not be read then, and nothing else leaves the cache for it. Such stores are ordered by a full fence only.
    """
    import numba
    from llvmlite import ir
    from numba.extending import intrinsic

    @intrinsic
    def put(context: Any, out: Any, at: Any, array: Any, start: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            target, source = _element(context, builder, signature, args, 0), _element(context, builder, signature, args, 2)
            whole = ir.VectorType(source.type.pointee, line)
            value = builder.load(builder.bitcast(source, whole.as_pointer()), align=LINE // line)
            store = builder.store(value, builder.bitcast(target, whole.as_pointer()), align=LINE)
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return numba.types.void(out, at, array, start), emit

    store: Any = put

    def write(out: Any, at: Any, array: Any, count: Any) -> None:
        lines = count // np.uint64(line) if out.ctypes.data % LINE == 0 else np.uint64(0)
        for k in range(lines):
            store(out, at + k * np.uint64(line), array, k * np.uint64(line))
        for j in range(lines * np.uint64(line), count):
            out[at + j] = array[j]

    return numba.njit(write)


@cache
def fence() -> Any:
    """Return a compiled function after which all that was written past the cache is there."""
    import numba
    from numba.extending import intrinsic

    @intrinsic
    def wait(context: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return numba.types.void(), emit

    return wait


def _element(context: Any, builder: Any, signature: Any, args: Any, array: int) -> Any:
    """Pointer to the element of an argument, an array, at the index that follows it."""
    data = context.make_array(signature.args[array])(context, builder, args[array]).data
    return builder.gep(data, [args[array + 1]])
