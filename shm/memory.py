"""Copying bytes in compiled code: one memcpy between arrays, one memmove within one; no slice objects, no checks.

Cost: a 64-byte copy takes about 1 ns inlined with a constant size, a few ns with a size known at run time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from shm.atomics import inlined, word_pointer


def _check_bytes(array: Any, writable: bool) -> None:
    fits = (
        isinstance(array, types.Array)
        and array.ndim == 1
        and array.layout == "C"
        and array.dtype == types.uint8
    )
    if not fits or (writable and not array.mutable):
        raise TypingError(f"copy_bytes needs C-contiguous 1-D uint8 arrays, the target writable, not {array}")


@intrinsic
def _copy(typing_context: Any, target: Any, target_at: Any, source: Any, source_at: Any, count: Any) -> Any:
    _check_bytes(target, writable=True)
    _check_bytes(source, writable=False)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into = word_pointer(context, builder, target, arguments[0], arguments[1])
        out_of = word_pointer(context, builder, source, arguments[2], arguments[3])
        cgutils.raw_memcpy(builder, into, out_of, arguments[4], ir.Constant(ir.IntType(64), 1), align=1)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), emit


@intrinsic
def _move(typing_context: Any, array: Any, target_at: Any, source_at: Any, count: Any) -> Any:
    _check_bytes(array, writable=True)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into = word_pointer(context, builder, array, arguments[0], arguments[1])
        out_of = word_pointer(context, builder, array, arguments[0], arguments[2])
        cgutils.raw_memmove(builder, into, out_of, arguments[3], ir.Constant(ir.IntType(64), 1), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp), emit


@inlined
def copy_bytes(target: np.ndarray, target_at: int, source: np.ndarray, source_at: int, count: int) -> None:
    """target[target_at : target_at + count] = source[source_at : source_at + count].

    Both uint8[::1]. Neither ranges nor overlap are checked: the caller owns that proof.
    """
    _copy(target, target_at, source, source_at, count)


@inlined
def move_bytes(array: np.ndarray, target_at: int, source_at: int, count: int) -> None:
    """array[target_at : target_at + count] = array[source_at : source_at + count], which may overlap; uint8[::1]."""
    _move(array, target_at, source_at, count)
