"""A counter-based generator and what the flow needs of it, the same bits on every machine.

splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): the state is a counter, each
draw is a hash of it. Only + - * / and sqrt are used on floats, no libm: its logarithm differs between processors.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_WORD = 2**64 - 1
_LN2 = 0.6931471805599453
_INVERSE_2_53 = 1.0 / 9007199254740992.0


@kernel(inline=True)
def next_counter(counter: np.uint64) -> np.uint64:
    """The state after one draw."""
    return np.uint64(counter + _GOLDEN)


@kernel(inline=True)
def uniform_at(counter: np.uint64) -> float:
    """The draw of a state: uniform in the open interval (0, 1)."""
    z = np.uint64((counter ^ (counter >> _S30)) * _MIX1)
    z = np.uint64((z ^ (z >> _S27)) * _MIX2)
    z = np.uint64(z ^ (z >> _S31))
    return (np.float64(np.int64(z >> _S11)) + 0.5) * _INVERSE_2_53


@kernel()
def natural_log(x: float) -> float:
    """ln x for x > 0, relative error below 1e-14: halving into [0.5, 1), then the atanh series."""
    exponent = 0
    while x >= 1.0:
        x *= 0.5
        exponent += 1
    while x < 0.5:
        x *= 2.0
        exponent -= 1
    if x < 0.7071067811865476:
        x *= 2.0
        exponent -= 1
    z = (x - 1.0) / (x + 1.0)
    square = z * z
    term = 0.0
    for k in range(21, 0, -2):
        term = term * square + 1.0 / k
    return 2.0 * z * term + exponent * _LN2


def scattered(value: int) -> int:
    """A 64-bit hash of a whole number, one to one modulo 2^64: the output function of splitmix64 after one step.

    For seeds: a counter that starts at the seed itself would give neighbours one stream, shifted by a draw.
    """
    z = (value + int(_GOLDEN)) & _WORD
    z = ((z ^ (z >> 30)) * int(_MIX1)) & _WORD
    z = ((z ^ (z >> 27)) * int(_MIX2)) & _WORD
    return z ^ (z >> 31)
