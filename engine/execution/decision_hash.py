"""The decision hash: one number for everything that the strategies decided, in order.

Purpose: two runs that decided the same have the same hash; any difference in any decision changes it.
What enters, one link of the chain each:
  FAIR    the fair price that a strategy came to on a prediction, in 1e-8 quote, where it differs from its last one
  SIGNAL  a quote target that changed (size 0: the quote is withdrawn)
  DENIED  an order that the gate refused
  INTENT  an order that passed the gate
  CANCEL  a cancel, with side, type, time in force, price and full size of the order that it ends
and of each: strategy, instrument, side, order type, price, size, time in force, causing ingest id, and which of
the five it is. No clock, order id, process or random number. Denied orders are decisions too: they are pure
functions of the records seen, so they enter, under a tag of their own. Fair prices enter because prices rounded
to ticks hide small differences of what a strategy saw; they count as no signal (side, type and size are 0).
Layout: two 64-bit lanes; a link is four 64-bit words, absorbed one by one through a full mix in each lane. Given
the state, each lane is a bijection of the word, so a changed word always changes both lanes.
Cost: about 25 ns a link. Limits: it proves equality, it does not withstand somebody who forges decisions.
Source: mixing function of splitmix64 (Steele, Lea, Flood 2014), with two sets of odd multipliers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from engine.kernel import kernel

DECISION_HASH = np.dtype([("lane0", "<u8"), ("lane1", "<u8"), ("links", "<i8")], align=True)

OPENING_LANE0 = 0x243F6A8885A308D3  # digits of pi
OPENING_LANE1 = 0x13198A2E03707344


class Decision(IntEnum):
    """What a link of the chain stands for."""

    SIGNAL = 1
    DENIED = 2
    INTENT = 3
    CANCEL = 4
    FAIR = 5


_STEP0 = np.uint64(0x9E3779B97F4A7C15)
_STEP1 = np.uint64(0xD1B54A32D192ED03)
_A0 = np.uint64(0xBF58476D1CE4E5B9)
_A1 = np.uint64(0x94D049BB133111EB)
_B0 = np.uint64(0xAFF51AF28C00D7A9)
_B1 = np.uint64(0x9FB21C651E98DF25)
_30 = np.uint64(30)
_27 = np.uint64(27)
_31 = np.uint64(31)
_28 = np.uint64(28)
_32 = np.uint64(32)


@kernel(inline=True)
def _absorb(chain: np.record, word: int) -> None:
    """Take one word into both lanes."""
    bits = np.uint64(word)
    x = np.uint64((chain.lane0 ^ bits) + _STEP0)
    x = np.uint64((x ^ (x >> _30)) * _A0)
    x = np.uint64((x ^ (x >> _27)) * _A1)
    chain.lane0 = x ^ (x >> _31)
    y = np.uint64((chain.lane1 + bits) ^ _STEP1)
    y = np.uint64((y ^ (y >> _32)) * _B0)
    y = np.uint64((y ^ (y >> _28)) * _B1)
    chain.lane1 = y ^ (y >> _32)


@kernel()
def add_decision(
    chain: np.record,
    tag: int,
    strategy: int,
    instrument: int,
    side: int,
    order_type: int,
    time_in_force: int,
    price: int,
    size: int,
    ingest_id: int,
) -> None:
    """Add one link; every argument is an integer, side is +1, 0 or -1; order_type has bit 7 set for reduce-only."""
    _absorb(
        chain,
        tag | (strategy << 8) | (instrument << 16) | ((side + 1) << 32) | (order_type << 40) | (time_in_force << 48),
    )
    _absorb(chain, price)
    _absorb(chain, size)
    _absorb(chain, ingest_id)
    chain.links += 1


def open_chain(chain: np.record) -> None:
    """Set a DECISION_HASH record to the state before the first decision."""
    chain["lane0"] = OPENING_LANE0
    chain["lane1"] = OPENING_LANE1
    chain["links"] = 0


def chain_hex(chain: np.record) -> str:
    """The hash as 32 hex digits."""
    return f"{int(chain['lane0']):016x}{int(chain['lane1']):016x}"
