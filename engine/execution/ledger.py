"""The ledger: positions, cost, realised profit, fees and cash, from fills alone.

Purpose: the only owner of positions. Every fill is applied once, and the result is the same in whatever order and
however often the fills arrive.
Rounding, in money units of 1e-8, all truncated towards zero:
  value of a fill         trunc(price * size)
  cost                    sum of the values of what is held; positive for long and short
  closing q of Q at C     removes trunc(C * q / Q) from the cost; all of C when q = Q
  realised profit         long: value of the closing fill - removed cost; short: the other way round
  a fill through zero     is a close of |position| and an opening of the rest, each valued by itself
  balance                 opening + realised - fees + funding + adjustments
What is realised depends on the order of fills, so the order is the venue's: rising trade ids of the instrument. The
last fills of each instrument are kept in that order, with the position before the first of them (the base). A fill
that arrives late is put in its place and the position is booked again from the base.
TRADES_KEPT fills are kept; when they are full the older half goes into the base and its largest id becomes the
floor. An id at or below the floor cannot be told from a repeat: it is refused and counted apart, and a
reconciliation shows what that hides.
Invariants: position 0 has cost 0; the totals are the sums over the instruments; sums are checked: what does not fit
int64 raises OverflowError.
Cost: about 20 ns a fill in order, 10 us for one that is late.
"""

from __future__ import annotations

import numpy as np

from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.units import mul_div, notional

TRADES_KEPT = 512
PAYMENTS_KEPT = 256

TRADE = np.dtype(
    [
        ("trade_id", "<i8"),
        ("price", "<i8"),  # price units
        ("size", "<i8"),  # size units, signed
        ("fee", "<i8"),  # 1e-8 quote, positive = paid
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

TRADE_LOG = np.dtype(
    [
        ("floor", "<i8"),  # trade ids up to here are forgotten
        ("count", "<i8"),
        ("base", POSITION),  # the position before the first trade kept
        ("trades", TRADE, (TRADES_KEPT,)),  # by rising trade id
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
        ("adjustments", "<i8"),  # any other change of the wallet that no fill explains
        ("payments", "<i8"),  # fundings and adjustments booked
        ("duplicate_payments", "<i8"),
        ("payment_ids", "<i8", (PAYMENTS_KEPT,)),  # the last ones booked, at their number modulo PAYMENTS_KEPT
        ("fills", "<i8"),  # executions applied
        ("duplicate_fills", "<i8"),
        ("reordered_fills", "<i8"),  # arrived after a fill with a larger trade id
        ("fills_below_floor", "<i8"),
        ("positions", POSITION, (MAX_INSTRUMENTS,)),
        ("logs", TRADE_LOG, (MAX_INSTRUMENTS,)),
    ],
    align=True,
)


@kernel()
def checked_add(a: int, b: int) -> int:
    """a + b. Raises OverflowError where it does not fit int64."""
    total = a + b
    if (a >= 0) == (b >= 0) and (total >= 0) != (a >= 0):
        raise OverflowError("ledger: a sum does not fit 64 bits")
    return total


@kernel()
def apply_execution(position: np.record, side: int, price: int, size: int, fee: int, unit_exp: int) -> None:
    """Book one execution on a POSITION record (side +1 or -1, price and size > 0, fee in 1e-8 quote).

    Raises OverflowError where an amount does not fit int64.
    """
    held = abs(position["size"])
    closing = min(size, held) if side * position["size"] < 0 else 0
    opening = size - closing
    if closing > 0:
        removed = mul_div(position.cost, closing, held)
        realised = side * (removed - notional(price, closing, unit_exp))
        position.realised = checked_add(position.realised, realised)
        position.cost -= removed
    if opening > 0:
        position.cost = checked_add(position.cost, notional(price, opening, unit_exp))
    position["size"] = checked_add(position["size"], side * size)
    position.fees = checked_add(position.fees, fee)


@kernel()
def _replay(position: np.record, log: np.record, first: int, last: int, unit_exp: int) -> None:
    """Book the kept trades from `first` up to, not including, `last` on a position."""
    for i in range(first, last):
        trade = log.trades[i]
        side = 1 if trade.size > 0 else -1
        apply_execution(position, side, trade.price, abs(trade.size), trade.fee, unit_exp)


@kernel()
def _copy_position(target: np.record, source: np.record) -> None:
    target["size"] = source["size"]
    target.cost = source.cost
    target.realised = source.realised
    target.fees = source.fees


@kernel()
def _forget_older_half(log: np.record, unit_exp: int) -> None:
    """Move the older half of a full log into its base."""
    half = TRADES_KEPT // 2
    _replay(log.base, log, 0, half, unit_exp)
    log.floor = log.trades[half - 1].trade_id
    for i in range(half):
        log.trades[i] = log.trades[half + i]
    log.count = half


@kernel()
def take_fill(
    ledger: np.record, instrument: int, side: int, price: int, size: int, fee: int, trade_id: int, unit_exp: int
) -> bool:
    """Book a fill unless its trade was booked before. Returns True when it was booked."""
    log = ledger.logs[instrument]
    if trade_id <= log.floor:
        ledger.fills_below_floor += 1
        return False
    place = log.count
    while place > 0 and log.trades[place - 1].trade_id > trade_id:
        place -= 1
    if place > 0 and log.trades[place - 1].trade_id == trade_id:
        ledger.duplicate_fills += 1
        return False
    for i in range(log.count, place, -1):
        log.trades[i] = log.trades[i - 1]
    trade = log.trades[place]
    trade.trade_id = trade_id
    trade.price = price
    trade.size = side * size
    trade.fee = fee
    log.count += 1
    position = ledger.positions[instrument]
    realised = position.realised
    if place == log.count - 1:
        apply_execution(position, side, price, size, fee, unit_exp)
    else:
        ledger.reordered_fills += 1
        _copy_position(position, log.base)
        _replay(position, log, 0, log.count, unit_exp)
    realised = position.realised - realised
    ledger.realised = checked_add(ledger.realised, realised)
    ledger.fees = checked_add(ledger.fees, fee)
    ledger.balance = checked_add(ledger.balance, checked_add(realised, -fee))
    ledger.fills += 1
    if log.count == TRADES_KEPT:
        _forget_older_half(log, unit_exp)
    return True


@kernel()
def take_payment(ledger: np.record, payment_id: int, amount: int, is_funding: bool) -> bool:
    """Book a payment into the wallet (1e-8 quote, negative: out of it) unless it is one of the last PAYMENTS_KEPT.

    Returns True when it was booked. Raises OverflowError.
    """
    for place in range(min(ledger.payments, PAYMENTS_KEPT)):
        if ledger.payment_ids[place] == payment_id:
            ledger.duplicate_payments += 1
            return False
    ledger.payment_ids[ledger.payments % PAYMENTS_KEPT] = payment_id
    ledger.payments += 1
    if is_funding:
        ledger.funding = checked_add(ledger.funding, amount)
    else:
        ledger.adjustments = checked_add(ledger.adjustments, amount)
    ledger.balance = checked_add(ledger.balance, amount)
    return True


@kernel()
def open_position(ledger: np.record, instrument: int, size: int, cost: int) -> None:
    """Start an instrument from a position that was there before; fills seen until now are part of it.

    Its realised profit and fees start from 0; the totals of the ledger are the caller's.
    """
    position = ledger.positions[instrument]
    log = ledger.logs[instrument]
    if log.count > 0:
        log.floor = log.trades[log.count - 1].trade_id
        log.count = 0
    position.size = size
    position.cost = cost
    position.realised = 0
    position.fees = 0
    _copy_position(log.base, position)


@kernel()
def unrealised(size: int, cost: int, value: int) -> int:
    """Profit of an open position (1e-8 quote) of signed size, cost, and present value (>= 0, 1e-8 quote)."""
    return value - cost if size > 0 else cost - value
