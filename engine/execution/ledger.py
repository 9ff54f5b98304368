"""The ledger: positions, cost, realised profit, fees and cash, from fills alone.

Purpose: the only owner of positions. Every fill is applied once, whatever order or how often it arrives.
Rounding, in money units of 1e-8, all truncated towards zero:
  value of a fill         trunc(price * size)
  cost                    sum of the values of what is held; positive for long and short
  closing q of Q at C     removes trunc(C * q / Q) from the cost; all of C when q = Q
  realised profit         long: value of the closing fill - removed cost; short: the other way round
  a fill through zero     is a close of |position| and an opening of the rest, each valued by itself
  balance                 opening + realised - fees + funding
Trades are told apart by the venue's trade id of the instrument. The last TRADE_IDS_KEPT ids are kept sorted; when
they are full the older half is forgotten and its largest becomes the floor. An id at or below the floor cannot be
told from a repeat and is refused and counted apart; reconciliation would show what that hides.
Invariants: position 0 has cost 0; sums are checked: what does not fit int64 raises OverflowError.
Cost: about 20 ns a fill in order.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.units import mul_div, notional

TRADE_IDS_KEPT = 512

TRADE_IDS = np.dtype(
    [
        ("floor", "<i8"),  # ids up to here are forgotten
        ("count", "<i8"),
        ("ids", "<i8", (TRADE_IDS_KEPT,)),  # rising
    ],
    align=True,
)

POSITION = np.dtype(
    [
        ("size", "<i8"),  # size units, signed
        ("cost", "<i8"),  # 1e-8 quote, what the position was opened for
        ("realised", "<i8"),  # 1e-8 quote
        ("fees", "<i8"),  # 1e-8 quote, positive = paid
    ],
    align=True,
)

LEDGER = np.dtype(
    [
        ("opening_balance", "<i8"),  # 1e-8 quote, as all money here
        ("balance", "<i8"),
        ("realised", "<i8"),
        ("fees", "<i8"),
        ("funding", "<i8"),
        ("fills", "<i8"),  # executions applied
        ("duplicate_fills", "<i8"),
        ("fills_below_floor", "<i8"),
        ("positions", POSITION, (MAX_INSTRUMENTS,)),
        ("trade_ids", TRADE_IDS, (MAX_INSTRUMENTS,)),
    ],
    align=True,
)


class Seen(IntEnum):
    """What the ledger knows of a trade id."""

    NEW = 0
    BEFORE = 1
    FORGOTTEN = 2  # at or below the floor


@kernel()
def checked_add(a: int, b: int) -> int:
    """a + b. Raises OverflowError where it does not fit int64."""
    total = a + b
    if (a >= 0) == (b >= 0) and (total >= 0) != (a >= 0):
        raise OverflowError("ledger: a sum does not fit 64 bits")
    return total


@kernel()
def remember_trade(trades: np.record, trade_id: int) -> int:
    """Enter a trade id. Returns Seen: whether it is new, was there, or may have been."""
    if trade_id <= trades.floor:
        return Seen.FORGOTTEN.value
    place = trades.count
    while place > 0 and trades.ids[place - 1] > trade_id:
        place -= 1
    if place > 0 and trades.ids[place - 1] == trade_id:
        return Seen.BEFORE.value
    for i in range(trades.count, place, -1):
        trades.ids[i] = trades.ids[i - 1]
    trades.ids[place] = trade_id
    trades.count += 1
    if trades.count == TRADE_IDS_KEPT:
        half = TRADE_IDS_KEPT // 2
        trades.floor = trades.ids[half - 1]
        for i in range(half):
            trades.ids[i] = trades.ids[half + i]
            trades.ids[half + i] = 0
        trades.count = half
    return Seen.NEW.value


@kernel()
def apply_execution(
    ledger: np.record, instrument: int, side: int, price: int, size: int, fee: int, unit_exp: int
) -> None:
    """Book one execution (side +1 or -1, price and size > 0, fee in 1e-8 quote).

    Raises OverflowError where an amount does not fit int64.
    """
    position = ledger.positions[instrument]
    held = abs(position.size)
    closing = min(size, held) if side * position.size < 0 else 0
    opening = size - closing
    realised = 0
    if closing > 0:
        removed = mul_div(position.cost, closing, held)
        realised = side * (removed - notional(price, closing, unit_exp))
        position.cost -= removed
    if opening > 0:
        position.cost = checked_add(position.cost, notional(price, opening, unit_exp))
    position.size = checked_add(position.size, side * size)
    position.realised = checked_add(position.realised, realised)
    position.fees = checked_add(position.fees, fee)
    ledger.realised = checked_add(ledger.realised, realised)
    ledger.fees = checked_add(ledger.fees, fee)
    ledger.balance = checked_add(ledger.balance, checked_add(realised, -fee))
    ledger.fills += 1


@kernel()
def take_fill(
    ledger: np.record, instrument: int, side: int, price: int, size: int, fee: int, trade_id: int, unit_exp: int
) -> bool:
    """Book a fill unless its trade was booked before. Returns True when it was booked."""
    seen = remember_trade(ledger.trade_ids[instrument], trade_id)
    if seen == Seen.BEFORE:
        ledger.duplicate_fills += 1
        return False
    if seen == Seen.FORGOTTEN:
        ledger.fills_below_floor += 1
        return False
    apply_execution(ledger, instrument, side, price, size, fee, unit_exp)
    return True


@kernel()
def unrealised(size: int, cost: int, value: int) -> int:
    """Profit of an open position (1e-8 quote) of signed size, cost, and present value (>= 0, 1e-8 quote)."""
    return value - cost if size > 0 else cost - value
