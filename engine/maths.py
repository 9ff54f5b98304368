"""exp and log with the same bits on every processor.

libm and numpy choose other code for other processors, and their last bit changes with it; features feed the
decision hash, so they may not. These use + - * / and bit patterns only, which IEEE 754 rounds exactly, and
the compiler is not allowed to contract or reorder them (no fastmath).

Accuracy: within 2 units in the last place, subnormal results of `exp` included (see tests/test_maths.py).
Cost: about 10 ns each. Limits: double precision only.
Source: argument reduction as in W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980);
log(1 + f) through s = f / (2 + f) as in Sun's fdlibm (e_log.c).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernel import kernel

_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # the first 32 bits of ln 2: k * _LN2_HIGH is exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")  # ln 2 - _LN2_HIGH
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_SQRT_2 = float.fromhex("0x1.6a09e667f3bcdp+0")
_EXP_LARGEST = float.fromhex("0x1.62e42fefa39efp+9")  # above: larger than any double
_EXP_SMALLEST = float.fromhex("-0x1.74910d52d3051p+9")  # below: rounds to zero
_TWO_54 = float.fromhex("0x1p+54")

_EXPONENT_BIAS = 1023
_MANTISSA_BITS = 52
_MANTISSA_MASK = (1 << _MANTISSA_BITS) - 1
_SMALLEST_NORMAL = float.fromhex("0x1p-1022")


@intrinsic
def _bits_of(typing_context: Any, value: Any) -> Any:
    """int64 with the bit pattern of a float64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def _float_of(typing_context: Any, bits: Any) -> Any:
    """float64 with the bit pattern of an int64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@kernel(inline=True)
def _power_of_two(exponent: int) -> float:
    """2**exponent for -1022 <= exponent <= 1023."""
    return _float_of(np.int64(exponent + _EXPONENT_BIAS) << _MANTISSA_BITS)


@kernel(types.float64(types.float64))
def exp(x: float) -> float:
    """e**x; infinity above 709.78, 0 below -745.13, NaN for NaN."""
    if np.isnan(x):
        return x
    if x > _EXP_LARGEST:
        return np.inf
    if x < _EXP_SMALLEST:
        return 0.0
    k = np.int64(np.floor(x * _LOG2_E + 0.5))
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW  # |r| <= ln 2 / 2
    # Taylor to degree 13: the first term left out is below 5e-18.
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    # In two halves: 2**k itself may be no normal number, and only the last product may round.
    half = k >> 1
    return p * _power_of_two(half) * _power_of_two(k - half)


@kernel(types.float64(types.float64))
def log(x: float) -> float:
    """Natural logarithm; -infinity for 0, NaN below 0 and for NaN, infinity for infinity."""
    if np.isnan(x) or x < 0.0:
        return np.nan
    if x == 0.0:
        return -np.inf
    if x == np.inf:
        return x
    k = np.int64(0)
    if x < _SMALLEST_NORMAL:
        x = x * _TWO_54
        k = np.int64(-54)
    bits = _bits_of(x)
    k += (bits >> _MANTISSA_BITS) - _EXPONENT_BIAS
    mantissa = _float_of((bits & _MANTISSA_MASK) | (np.int64(_EXPONENT_BIAS) << _MANTISSA_BITS))
    if mantissa > _SQRT_2:
        mantissa = mantissa * 0.5
        k += 1
    f = mantissa - 1.0  # exact, -0.293 <= f <= 0.414
    s = f / (2.0 + f)
    z = s * s  # at most 0.0295: the first term left out is below 1e-18
    q = 2.0 / 25.0
    q = q * z + 2.0 / 23.0
    q = q * z + 2.0 / 21.0
    q = q * z + 2.0 / 19.0
    q = q * z + 2.0 / 17.0
    q = q * z + 2.0 / 15.0
    q = q * z + 2.0 / 13.0
    q = q * z + 2.0 / 11.0
    q = q * z + 2.0 / 9.0
    q = q * z + 2.0 / 7.0
    q = q * z + 2.0 / 5.0
    q = q * z + 2.0 / 3.0
    # log(1 + f) = f - (f*f/2 - s * (f*f/2 + z*q)): the large terms cancel exactly, the small ones round.
    half_square = 0.5 * f * f
    return k * _LN2_HIGH - ((half_square - (s * (half_square + z * q) + k * _LN2_LOW)) - f)
