"""A counter-based generator and what the flow needs of it, the same bits on every machine.

splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): the state is a counter, each
draw is a hash of it. The logarithm is that of engine/maths.py: libm's differs between processors.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel
from engine.maths import log

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_WORD = 2**64 - 1
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
def draw(state: np.ndarray) -> float:
    """The next uniform number of a state with a field `counter`, shape (1,)."""
    state[0].counter = next_counter(state[0].counter)
    return uniform_at(state[0].counter)


@kernel()
def draw_exponential(state: np.ndarray) -> float:
    """An exponential number of mean 1."""
    return -log(draw(state))


@kernel()
def draw_normal(state: np.ndarray) -> float:
    """A standard normal number, near enough: twelve uniform ones, centred (Irwin-Hall)."""
    total = -6.0
    for _ in range(12):
        total += draw(state)
    return total


def scattered(value: int) -> int:
    """A 64-bit hash of a whole number, one to one modulo 2^64: the output function of splitmix64 after one step.

    For seeds: a counter that starts at the seed itself would give neighbours one stream, shifted by a draw.
    """
    z = (value + int(_GOLDEN)) & _WORD
    z = ((z ^ (z >> 30)) * int(_MIX1)) & _WORD
    z = ((z ^ (z >> 27)) * int(_MIX2)) & _WORD
    return z ^ (z >> 31)
