"""Compiled strategies by their codes, and the call of one from inside another kernel.

Purpose: the execution stage is compiled once, whatever strategies a session runs; it calls theirs through addresses.
A table in this process maps a strategy's code, which is made of the digest of its file, to the address of its compiled
`on_event`. States, which lie in shared memory, in checkpoints and in other processes, hold codes alone: no address ever
leaves its process, and a code means the same in all of them.
Invariants: an entry is added once and never changed; a code that is not there runs nothing and is a fault; an error
that a strategy raises ends its call, and nothing else.
Cost: some 8 ns a call beside what the strategy does. Limits: CODES strategies a process, of any number of sessions.
Source: numba's calling convention by `context.call_conv`, as numba/experimental/function_type.py calls first-class
functions; the table is a symbol of the process, so that callers are cached on disk like any other kernel.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernel import kernel
from engine.risk.market_view import MARKET_VIEW
from engine.strategies.context import EVENT, OWN
from engine.strategies.quotes import QUOTES

CODES = 256
_SYMBOL = "bot4_strategies"
_TABLE = np.zeros((CODES, 2), np.int64)  # code, address; it lives as long as the process
llvm.add_symbol(_SYMBOL, _TABLE.ctypes.data)

_EMPTY = numba.from_dtype(np.dtype([("spare", "<i8")], align=True))
_FIXED = tuple(numba.from_dtype(dtype) for dtype in (EVENT, MARKET_VIEW, OWN))
_QUOTES = numba.from_dtype(QUOTES)


def event_signature(parameters: np.dtype, state: np.dtype) -> Any:
    """The numba signature of an `on_event` with these records of its own."""
    return types.void(*_FIXED, numba.from_dtype(parameters), numba.from_dtype(state), _QUOTES)


def register(code: int, compiled: Any, signature: Any) -> None:
    """Make a compiled `on_event` callable under its code. Raises ValueError when the table is full."""
    for entry in _TABLE:
        if entry[0] == code:
            return
        if entry[0] == 0:
            result = compiled.overloads[signature.args]
            entry[1] = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
            entry[0] = code
            return
    raise ValueError(f"a process can hold {CODES} strategies")


def registered(code: int) -> bool:
    """Whether this process can run the strategy of a code."""
    return bool(code) and bool((_TABLE[:, 0] == code).any())


@intrinsic
def _word(typing_context: Any, place: Any) -> Any:
    """Word of the table, int64."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        module, int64 = builder.module, ir.IntType(64)
        table = module.globals.get(_SYMBOL)
        if table is None:
            table = ir.GlobalVariable(module, ir.ArrayType(int64, 2 * CODES), _SYMBOL)
        return builder.load(builder.gep(table, [int64(0), arguments[0]]))

    return types.int64(types.int64), lower


@kernel()
def address_of(code: int) -> int:
    """Where the strategy of a code begins; 0 where this process does not have it."""
    if code == 0:
        return 0
    for place in range(CODES):
        found = _word(2 * place)
        if found == code:
            return int(_word(2 * place + 1))
        if found == 0:
            return 0
    return 0


@intrinsic
def call_strategy(
    typing_context: Any, address: Any, event: Any, view: Any, own: Any, parameters: Any, state: Any, quotes: Any
) -> Any:
    """Call the `on_event` at an address. True when it came back, False when it raised an error.

    parameters and state: int64 arrays that hold its records; quotes: QUOTE, shape (2,).
    """
    passed = (*_FIXED, _EMPTY, _EMPTY, _QUOTES)  # a record is passed by its address, whatever its layout

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = []
        for kind, given, wanted in zip(signature.args[1:], arguments[1:], passed, strict=True):
            is_array = isinstance(kind, types.Array)
            begin = context.make_array(kind)(context, builder, given).data if is_array else given
            values.append(builder.bitcast(begin, context.get_value_type(wanted)))
        function_type = context.call_conv.get_function_type(types.none, passed)
        function = builder.inttoptr(arguments[0], function_type.as_pointer())
        status, _ = context.call_conv.call_function(builder, function, types.none, passed, values)
        return status.is_ok

    return types.boolean(types.int64, event, view, own, parameters, state, quotes), lower
