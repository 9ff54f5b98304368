"""Exact integer units: prices and sizes are int64 in units of 10^-exp, money is int64 in units of 10^-8.

60,000.00 x 20,000 BTC overflows int64 on the way, so every product that is divided again goes through
`mul_div`, whose product has 128 bits. Decimals exist at the edge only (`parse_units`, `format_units`).
Source of the 128-by-64 division: Warren, Hacker's Delight, 2nd ed., section 9-4 (divlu).
"""

from __future__ import annotations

import re

import numpy as np
from numba import types

from engine.kernel import kernel

MONEY_EXP = 8
INT64_MAX = 2**63 - 1
_INT64_DIGITS = 19
_DECIMAL = re.compile(r"([+-]?)(?=\d|\.\d)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_POWERS_OF_TEN = np.array([10**k for k in range(_INT64_DIGITS)], np.int64)

_LOW32 = np.uint64(0xFFFFFFFF)
_BASE32 = np.uint64(1 << 32)
_SHIFT32 = np.uint64(32)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_TOP = np.uint64(1 << 63)
_MAX = np.uint64(INT64_MAX)


@kernel()
def _divide_128(high: np.uint64, low: np.uint64, divisor: np.uint64) -> np.uint64:
    """(high:low) // divisor for high < divisor, by two 32-bit digits of quotient."""
    shift = _ZERO
    while divisor & _TOP == _ZERO:
        divisor = np.uint64(divisor << _ONE)
        shift += _ONE
    if shift > _ZERO:
        high = np.uint64((high << shift) | (low >> np.uint64(np.uint64(64) - shift)))
        low = np.uint64(low << shift)
    d1 = np.uint64(divisor >> _SHIFT32)
    d0 = np.uint64(divisor & _LOW32)
    quotient = _ZERO
    for digit in range(2):
        next32 = np.uint64(low >> _SHIFT32) if digit == 0 else np.uint64(low & _LOW32)
        q = np.uint64(high // d1)
        r = np.uint64(high - q * d1)
        while q >= _BASE32 or q * d0 > np.uint64((r << _SHIFT32) | next32):
            q -= _ONE
            r += d1
            if r >= _BASE32:
                break
        high = np.uint64(np.uint64((high << _SHIFT32) | next32) - q * divisor)
        quotient = np.uint64((quotient << _SHIFT32) | q)
    return quotient


@kernel(types.int64(types.int64, types.int64, types.int64))
def mul_div(a: int, b: int, divisor: int) -> int:
    """a * b / divisor with a 128-bit product, truncated towards zero.

    Raises ZeroDivisionError for divisor 0 and OverflowError where the quotient does not fit int64.
    """
    if divisor == 0:
        raise ZeroDivisionError("mul_div: divisor is zero")
    negative = (a < 0) ^ (b < 0) ^ (divisor < 0)
    ua = np.uint64(-a) if a < 0 else np.uint64(a)
    ub = np.uint64(-b) if b < 0 else np.uint64(b)
    ud = np.uint64(-divisor) if divisor < 0 else np.uint64(divisor)
    a1 = np.uint64(ua >> _SHIFT32)
    a0 = np.uint64(ua & _LOW32)
    b1 = np.uint64(ub >> _SHIFT32)
    b0 = np.uint64(ub & _LOW32)
    middle = np.uint64(a1 * b0 + np.uint64(np.uint64(a0 * b0) >> _SHIFT32))
    middle2 = np.uint64(a0 * b1 + np.uint64(middle & _LOW32))
    high = np.uint64(a1 * b1 + np.uint64(middle >> _SHIFT32) + np.uint64(middle2 >> _SHIFT32))
    low = np.uint64(ua * ub)
    if high == _ZERO:
        quotient = np.uint64(low // ud)
    else:
        if high >= ud:
            raise OverflowError("mul_div: the quotient does not fit 64 bits")
        quotient = _divide_128(high, low, ud)
    if quotient > _MAX:
        raise OverflowError("mul_div: the quotient does not fit 64 bits")
    return -np.int64(quotient) if negative else np.int64(quotient)  # type: ignore[return-value]


@kernel(types.int64(types.int64, types.int64, types.int64))
def notional(price: int, size: int, unit_exp: int) -> int:
    """price * size in money units of 1e-8, truncated; unit_exp = price_exp + size_exp of the instrument.

    Raises OverflowError beyond int64 (92 billion quote units).
    """
    if unit_exp >= MONEY_EXP:
        return mul_div(price, size, _POWERS_OF_TEN[unit_exp - MONEY_EXP])
    return mul_div(mul_div(price, size, 1), _POWERS_OF_TEN[MONEY_EXP - unit_exp], 1)


def parse_units(text: str, exp: int) -> int:
    """Decimal text to int64 units of 10^-exp, exactly.

    Raises ValueError for text that is no finite number, has more digits than the unit, or does not fit int64.
    """
    match = _DECIMAL.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a number")
    sign, whole, fraction, power = match[1], match[2] or "", match[3] or "", int(match[4] or 0)
    # value = digits * 10^shift units; trailing zeros are taken off so that "1.50" fits one decimal.
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    shift = exp + power - len(fraction) + len(digits) - len(stripped)
    if not stripped:
        return 0
    if shift < 0:
        raise ValueError(f"{text!r} is not a whole number of 10^-{exp}")
    if len(stripped) + shift > _INT64_DIGITS or int(stripped) * 10**shift > INT64_MAX:
        raise ValueError(f"{text!r} does not fit 64 bits at 10^-{exp}")
    value = int(stripped) * 10**shift
    return -value if sign == "-" else value


def format_units(value: int, exp: int) -> str:
    """int64 units of 10^-exp as plain decimal text with exactly `exp` decimals."""
    sign = "-" if value < 0 else ""
    digits = str(abs(int(value))).rjust(exp + 1, "0")
    return f"{sign}{digits[:-exp]}.{digits[-exp:]}" if exp else f"{sign}{digits}"
