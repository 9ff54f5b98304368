"""Accounts of the embedded exchange: one-way positions, fees and margin in exact integers.

This is the venue's own ledger and shares no code with the engine's. Money is int64 in 1e-8 of the quote asset, sizes
are in size units of the contract. Rounding, stated once: closing q of a position of Q with entry cost C removes
trunc(C * q / Q) of the cost; the fee of a fill is trunc(notional * rate); a notional is exact as long as price and
size together have at most eight decimals.
Invariant: wallet = starting balance + realised - fees + funding + insurance. Cost is the sum of the entry notionals
and never negative.
Cost: some tens of ns a fill.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.stage import BYTES
from engine.units import mul_div, notional

RATE_ONE = 100_000_000  # a fee rate of 1 in 1e-8
TAKER, MAKER, FREE = 0, 1, 2  # which fee a fill costs

ACCOUNT = np.dtype(
    [
        ("wallet", "<i8"),  # 1e-8 quote
        ("realised", "<i8"),  # 1e-8, sum over all closes, without fees
        ("fees", "<i8"),  # 1e-8 paid
        ("funding", "<i8"),  # 1e-8 received less paid
        ("insurance", "<i8"),  # 1e-8 received from the insurance fund less paid to it
        ("maker_rate", "<i8"),  # 1e-8
        ("taker_rate", "<i8"),
        ("last_realised", "<i8"),  # of the last fill
        ("last_fee", "<i8"),
        ("fills", "<i8"),
        ("position", "<i8", (MAX_INSTRUMENTS,)),  # signed size units
        ("cost", "<i8", (MAX_INSTRUMENTS,)),  # 1e-8, entry notional of the position
        ("open_buy", "<i8", (MAX_INSTRUMENTS,)),  # 1e-8, notional of resting buy orders that are not reduce-only
        ("open_sell", "<i8", (MAX_INSTRUMENTS,)),
        ("leverage", "<i8", (MAX_INSTRUMENTS,)),
        ("mark", "<i8", (MAX_INSTRUMENTS,)),  # price units
        ("unit_exp", "<i8", (MAX_INSTRUMENTS,)),  # price_exp + size_exp
    ],
    align=True,
)


def new_account(balance: int, maker_rate: int, taker_rate: int, leverage: int) -> np.ndarray:
    """A flat account, ACCOUNT of shape (1,). balance in 1e-8, rates in 1e-8."""
    account = np.zeros(1, ACCOUNT)
    account["wallet"] = balance
    account["maker_rate"] = maker_rate
    account["taker_rate"] = taker_rate
    account["leverage"] = leverage
    return account


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, types.int64, types.int64))
def apply_fill(account_bytes: np.ndarray, symbol: int, side: int, price: int, size: int, fee_kind: int) -> int:
    """Book one fill; returns the realised profit in 1e-8 (also in last_realised; the fee is in last_fee).

    fee_kind: TAKER, MAKER or FREE.
    A fill against the position closes first and opens the other way with what is left.
    Raises OverflowError beyond int64.
    """
    account = account_bytes.view(ACCOUNT)[0]
    position = account.position[symbol]
    unit_exp = account.unit_exp[symbol]
    closing = 0
    realised = 0
    if position * side < 0:
        closing = min(size, abs(position))
        removed = mul_div(account.cost[symbol], closing, abs(position))
        proceeds = notional(price, closing, unit_exp)
        realised = proceeds - removed if position > 0 else removed - proceeds
        account.cost[symbol] -= removed
    if size > closing:
        account.cost[symbol] += notional(price, size - closing, unit_exp)
    account.position[symbol] = position + side * size
    rate = 0
    if fee_kind != FREE:
        rate = account.maker_rate if fee_kind == MAKER else account.taker_rate
    fee = mul_div(notional(price, size, unit_exp), rate, RATE_ONE)
    account.wallet += realised - fee
    account.realised += realised
    account.fees += fee
    account.last_realised = realised
    account.last_fee = fee
    account.fills += 1
    return realised


@kernel()
def unrealised_of(account: np.ndarray, symbol: int) -> int:
    """Unrealised profit of one position at its mark price, 1e-8."""
    position = account[0].position[symbol]
    if position == 0:
        return 0
    value = notional(account[0].mark[symbol], abs(position), account[0].unit_exp[symbol])
    return value - account[0].cost[symbol] if position > 0 else account[0].cost[symbol] - value


@kernel()
def margin_of(account: np.ndarray, symbol: int, more_buy: int, more_sell: int) -> int:
    """Initial margin of one contract, 1e-8: position at mark plus the worse side of the open orders."""
    position = account[0].position[symbol]
    value = notional(account[0].mark[symbol], abs(position), account[0].unit_exp[symbol])
    signed = value if position > 0 else -value
    longest = abs(signed + account[0].open_buy[symbol] + more_buy)
    shortest = abs(signed - account[0].open_sell[symbol] - more_sell)
    return max(longest, shortest) // account[0].leverage[symbol]


@kernel(types.int64(BYTES, types.int64))
def unrealised(account_bytes: np.ndarray, symbol: int) -> int:
    """Unrealised profit of one position at its mark price, 1e-8."""
    return unrealised_of(account_bytes.view(ACCOUNT), symbol)


@kernel(types.int64(BYTES, types.int64))
def initial_margin(account_bytes: np.ndarray, symbol: int) -> int:
    """Initial margin of one contract with its open orders, 1e-8."""
    return margin_of(account_bytes.view(ACCOUNT), symbol, 0, 0)


@kernel(types.int64(BYTES))
def available(account_bytes: np.ndarray) -> int:
    """What may still be used as margin, 1e-8: wallet plus unrealised minus all initial margins."""
    account = account_bytes.view(ACCOUNT)
    total = account[0].wallet
    for symbol in range(MAX_INSTRUMENTS):
        total += unrealised_of(account, symbol) - margin_of(account, symbol, 0, 0)
    return total


@kernel(types.boolean(BYTES, types.int64, types.int64, types.int64, types.int64))
def can_afford(account_bytes: np.ndarray, symbol: int, side: int, price: int, size: int) -> bool:
    """Whether an order leaves enough margin. One that does not raise the margin always does."""
    account = account_bytes.view(ACCOUNT)
    value = notional(price, size, account[0].unit_exp[symbol])
    before = margin_of(account, symbol, 0, 0)
    after = margin_of(account, symbol, value if side > 0 else 0, value if side < 0 else 0)
    if after <= before:
        return True
    free = account[0].wallet
    for other in range(MAX_INSTRUMENTS):
        free += unrealised_of(account, other) - margin_of(account, other, 0, 0)
    return free >= after - before
