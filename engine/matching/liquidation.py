"""Liquidation: what happens to an account whose margin balance falls to its maintenance margin.

At four fifths a margin call is told once. At the whole: all open orders are cancelled; then, largest maintenance
margin first and until the account is sound again, each position is closed by an IOC limit order at the bankruptcy
price, at which nothing would be left; what the book does not take at that price the insurance fund takes over, without
a fee. The clearance fee is paid to the insurance fund as far as there is money; a wallet below zero without any
position is filled up by it.
Limits: a position is closed whole (the real venue first tries to reduce it by brackets), and the insurance fund never
runs dry, so nobody is deleveraged.
Source: Binance USD-M futures, "Liquidation Protocols", "Insurance Fund".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.matching.account import FREE, RATE_ONE
from engine.matching.clearing import CLIENT, INSURANCE
from engine.matching.orders import Income, WalletChange
from engine.records import OrderType, Side, TimeInForce
from engine.units import MONEY_EXP, parse_units

if TYPE_CHECKING:
    from engine.matching.exchange import Exchange

MARGIN_CALL = "MARGIN_CALL"
_CALL_PERCENT = 80  # of the margin balance in use as maintenance margin


def protect(exchange: Exchange) -> None:
    """Warn or liquidate the client where its margin asks for it."""
    clearing = exchange.clearing
    symbols = range(len(exchange.instruments))
    if not any(clearing.position(symbol) for symbol in symbols):
        return
    needed = sum(clearing.maintenance(symbol) for symbol in symbols)
    balance = clearing.margin_balance()
    in_danger = needed * 100 >= balance * _CALL_PERCENT
    if in_danger and not exchange.warned:
        for symbol in symbols:
            if clearing.position(symbol):
                exchange.on_wallet(WalletChange(MARGIN_CALL, symbol, 0, exchange.wallet(), exchange.now_ns))
    exchange.warned = in_danger
    if balance <= needed:
        _liquidate(exchange)


def _liquidate(exchange: Exchange) -> None:
    """Cancel everything, then close positions until the rest is covered."""
    clearing = exchange.clearing
    symbols = range(len(exchange.instruments))
    for symbol in symbols:
        exchange.clear_orders(symbol)
    while any(clearing.position(symbol) for symbol in symbols):
        if clearing.margin_balance() > sum(clearing.maintenance(symbol) for symbol in symbols):
            return
        _close(exchange, max(symbols, key=clearing.value))
    wallet = exchange.wallet()
    if wallet < 0:
        _pay_insurance(exchange, 0, wallet)


def bankruptcy_price(exchange: Exchange, symbol: int) -> int:
    """The price, at least one tick, at which closing the position leaves the account with nothing."""
    clearing, item = exchange.clearing, exchange.instruments[symbol]
    position = clearing.position(symbol)
    balance, value = clearing.margin_balance(), clearing.value(symbol)
    units = 10 ** (item.price_exp + item.size_exp)
    if position > 0:
        price = -((balance - value) * units // (position * 10**MONEY_EXP))  # rounded up
    else:
        price = (balance + value) * units // (-position * 10**MONEY_EXP)
    return max(price, item.tick_size)


def _close(exchange: Exchange, symbol: int) -> None:
    """Close one position, in the book as far as it goes and with the insurance fund for the rest."""
    clearing = exchange.clearing
    position = clearing.position(symbol)
    side = Side.SELL if position > 0 else Side.BUY
    price = bankruptcy_price(exchange, symbol)
    value = clearing.value(symbol)
    clearing.liquidations += 1
    order = exchange.enter(
        symbol, f"autoclose-{exchange.now_ns // 1_000_000}{clearing.liquidations}", side, OrderType.LIMIT,
        TimeInForce.IOC, price, abs(position), abs(position), True, forced=True,
    )
    left = order.remaining
    if left:
        trade_id = exchange.market.draw_trade_id(symbol)
        clearing.fill(INSURANCE, symbol, -int(side), price, left, FREE)
        exchange.book_fill(order, price, left, trade_id, FREE, exchange.now_ns)
    rate = parse_units(exchange.settings.liquidation_fee, MONEY_EXP)
    fee = min(value * rate // RATE_ONE, max(0, exchange.wallet()))
    if fee:
        _pay_insurance(exchange, symbol, fee)


def _pay_insurance(exchange: Exchange, symbol: int, amount: int) -> None:
    """The client pays the insurance fund (a negative amount: is paid by it)."""
    exchange.clearing.move("insurance", CLIENT, INSURANCE, amount)
    exchange.clearing.note_income(Income.INSURANCE_CLEAR, symbol, -amount, exchange.now_ns)
    exchange.on_wallet(
        WalletChange(Income.INSURANCE_CLEAR, symbol, -amount, exchange.wallet(), exchange.now_ns)
    )
