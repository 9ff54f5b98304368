"""Atomic loads, stores, read-modify-writes and fences on integer arrays, for compiled code and for Python.

Purpose: the only way in which two processes look at one word. LLVM may keep the result of a plain load in a
register, so a loop that polls with one never sees the store; an atomic load is done again every time.

Layout: `array` is a C-contiguous 1-D array of int64, uint64, int32 or uint32, its items naturally aligned;
`index` counts items from its start and is neither wrapped nor checked, not even in a checked build.

Ordering (C11 names): load_acquire sees everything written before the store_release whose value it reads.
load_relaxed and store_relaxed are whole (never torn) and done every time, but order nothing; a fence does.
fetch_add, fetch_or, set_bits and compare_exchange are sequentially consistent. A store followed by a load of *another*
word is ordered by fence_seq_cst alone.

Cost: loads, stores, fence_acquire and fence_release are plain moves on x86-64; a read-modify-write or
fence_seq_cst takes some 5 to 10 ns.

Source: LLVM Language Reference, "Memory Model for Concurrent Operations".
"""

from __future__ import annotations

import platform
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.caching import CacheImpl
from numba.core.errors import TypingError
from numba.extending import intrinsic

# numba's own disk cache goes stale when an imported kernel changes. These are cached only where a floor above has
# installed a cache locator that covers imports, and says so; a process then compiles nothing at its start.
_CACHE = any(getattr(locator, "covers_imports", False) for locator in CacheImpl._locator_classes[:1])
compiled = numba.njit(nogil=True, error_model="numpy", cache=_CACHE)
# Without _nrt=False a helper with a branch counts a reference to each array at every call: four locked instructions a
# record in a ring, 20 ns of 23.
inlined = numba.njit(nogil=True, error_model="numpy", forceinline=True, cache=_CACHE, _nrt=False)

X86 = platform.machine() in ("x86_64", "AMD64")
ARM = platform.machine() in ("aarch64", "arm64")

_WORDS = (types.int64, types.uint64, types.int32, types.uint32)


def check_words(array: Any, writable: bool) -> None:
    """Refuse, at compile time, an array that atomics cannot work on."""
    fits = (
        isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C" and array.dtype in _WORDS
    )
    if not fits:
        raise TypingError(f"atomics need a C-contiguous 1-D array of 32 or 64-bit integers, not {array}")
    if writable and not array.mutable:
        raise TypingError(f"an atomic write needs a writable array, not {array}")


def word_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The LLVM pointer to array[index], with no bounds check and no wraparound."""
    made = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(
        context, builder, array_type, made, [index], wraparound=False, boundscheck=False
    )


def _size(array_type: Any) -> int:
    return int(array_type.dtype.bitwidth) // 8


def _load_intrinsic(ordering: str) -> Any:
    @intrinsic
    def load(typing_context: Any, array: Any, index: Any) -> Any:
        check_words(array, writable=False)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = word_pointer(context, builder, array, *arguments)
            return builder.load_atomic(pointer, ordering, _size(array))

        return array.dtype(array, types.intp), emit

    return load


def _store_intrinsic(ordering: str) -> Any:
    @intrinsic
    def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        check_words(array, writable=True)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = word_pointer(context, builder, array, arguments[0], arguments[1])
            builder.store_atomic(arguments[2], pointer, ordering, _size(array))
            return context.get_dummy_value()

        return types.void(array, types.intp, array.dtype), emit

    return store


def _modify_intrinsic(operation: str) -> Any:
    @intrinsic
    def modify(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        check_words(array, writable=True)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = word_pointer(context, builder, array, arguments[0], arguments[1])
            return builder.atomic_rmw(operation, pointer, arguments[2], "seq_cst")

        return array.dtype(array, types.intp, array.dtype), emit

    return modify


def _fence_intrinsic(ordering: str) -> Any:
    @intrinsic
    def fence(typing_context: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), emit

    return fence


@intrinsic
def _set_bits(typing_context: Any, array: Any, index: Any, bits: Any) -> Any:
    check_words(array, writable=True)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = word_pointer(context, builder, array, arguments[0], arguments[1])
        builder.atomic_rmw("or", pointer, arguments[2], "seq_cst")
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), emit


@intrinsic
def _compare_exchange(typing_context: Any, array: Any, index: Any, expected: Any, new: Any) -> Any:
    check_words(array, writable=True)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = word_pointer(context, builder, array, arguments[0], arguments[1])
        pair = builder.cmpxchg(pointer, arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return array.dtype(array, types.intp, array.dtype, array.dtype), emit


@intrinsic
def _pause(typing_context: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif ARM:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(ir.IntType(32), 1)])  # 1 is YIELD
        return context.get_dummy_value()

    return types.void(), emit


_load_acquire = _load_intrinsic("acquire")
_load_relaxed = _load_intrinsic("monotonic")
_store_release = _store_intrinsic("release")
_store_relaxed = _store_intrinsic("monotonic")
_fetch_add = _modify_intrinsic("add")
_fetch_or = _modify_intrinsic("or")
_fence_seq_cst = _fence_intrinsic("seq_cst")
_fence_acquire = _fence_intrinsic("acquire")
_fence_release = _fence_intrinsic("release")


@inlined
def load_acquire(array: np.ndarray, index: int) -> int:
    """array[index]; no later access moves before it."""
    return _load_acquire(array, index)


@inlined
def load_relaxed(array: np.ndarray, index: int) -> int:
    """array[index], whole and fresh, ordering nothing else."""
    return _load_relaxed(array, index)


@inlined
def store_release(array: np.ndarray, index: int, value: int) -> None:
    """array[index] = value; no earlier access moves after it."""
    _store_release(array, index, value)


@inlined
def store_relaxed(array: np.ndarray, index: int, value: int) -> None:
    """array[index] = value, whole, ordering nothing else."""
    _store_relaxed(array, index, value)


@inlined
def fetch_add(array: np.ndarray, index: int, value: int) -> int:
    """Add to array[index] in one step, wrapping; returns the value before."""
    return _fetch_add(array, index, value)


@inlined
def fetch_or(array: np.ndarray, index: int, value: int) -> int:
    """Set bits of array[index] in one step; returns the value before (on x86-64 a compare-exchange loop)."""
    return _fetch_or(array, index, value)


@inlined
def set_bits(array: np.ndarray, index: int, bits: int) -> None:
    """Set bits of array[index] in one step, wait-free: no answer, hence one instruction on x86-64."""
    _set_bits(array, index, bits)


@inlined
def compare_exchange(array: np.ndarray, index: int, expected: int, new: int) -> int:
    """Set array[index] to new if it holds expected; returns what it held (equal to expected: done)."""
    return _compare_exchange(array, index, expected, new)


@inlined
def fence_seq_cst() -> None:
    """Orders everything before it, stores too, before everything after it, loads too."""
    _fence_seq_cst()


@inlined
def fence_acquire() -> None:
    """Earlier loads stay before all later accesses."""
    _fence_acquire()


@inlined
def fence_release() -> None:
    """Earlier accesses stay before all later stores."""
    _fence_release()


@inlined
def cpu_pause() -> None:
    """Tell the processor that this is a spin loop."""
    _pause()
