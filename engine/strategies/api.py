"""What a strategy file is written with: everything it needs comes from here.

    @strategy(Parameters, State, features=("imbalance_1",), model="short_return")
    def on_event(event, view, own, parameters, state, quotes): ...

`on_event` is compiled. It is called for every PREDICTION of an instrument while its quotes may stand, and at every
CLOCK record for each of its instruments. It reads and says what it wants with `bid`, `ask`, `buy`, `sell`, `withdraw`;
orders follow by themselves, through the gate. It must be a function of its arguments: no clock, no random numbers, no
files.

  event       EVENT        kind, now_ns (record time), ingest_id, instrument
  view        MARKET_VIEW  bid_price, bid_size, ask_price, ask_size, mark_price, vector[...] (the features), output[...]
                           (of the model), tick_size, lot_size, ...: integers in the instrument's own units
  own         OWN          position, account_position, open_buy, open_sell, the gate's limits; fair_price is yours to
                           write
  parameters               one field for each of the class, as in bot4.toml or as `bot4 set` changed it
  state                    one record an instrument, zeros at first, yours; it survives the death of the process
  quotes      QUOTES       bid and ask: what you want, and what stands
@python_strategy in the place of @strategy: `on_event` is not compiled but runs in a process of its own, may import and
do anything, and takes the time it takes (docs/strategies.md). What it gets and says is the same.

Prices and sizes may be given with a fraction: prices are rounded to the tick, a buyer's down and a seller's up, sizes
down to the lot. What is no number, or no price, takes back both quotes and is counted as a fault.
"""

from __future__ import annotations

import math

import numpy as np

from engine.features.vector import (
    IMBALANCE_1,
    IMBALANCE_5,
    MICROPRICE_BPS,
    MID,
    SHORT_RETURN_BPS,
    SPREAD_BPS,
    TRADE_FLOW,
    VOLATILITY_BPS,
)
from engine.kernel import kernel
from engine.maths import exp, log
from engine.records import Kind, OrderType, TimeInForce
from engine.risk.sizing import order_size
from engine.settings import setting
from engine.strategies.apart import python_strategy
from engine.strategies.plugin import Strategy, floats, ints, strategy
from engine.strategies.quotes import Working

__all__ = [
    "CLOCK", "IMBALANCE_1", "IMBALANCE_5", "IN_TRANSIT", "MICROPRICE_BPS", "MID", "NONE", "PREDICTION", "RESTING",
    "SHORT_RETURN_BPS", "SPREAD_BPS", "TRADE_FLOW", "VOLATILITY_BPS", "Strategy", "ask", "bid", "buy", "exp", "floats",
    "ints", "kernel", "log", "math", "may_change", "mid", "money", "np", "python_strategy", "sell", "setting",
    "size_for", "strategy", "withdraw",
]

CLOCK, PREDICTION = Kind.CLOCK.value, Kind.PREDICTION.value
NONE, RESTING, IN_TRANSIT = Working.NONE.value, Working.RESTING.value, Working.IN_TRANSIT.value

_MONEY = 100_000_000.0  # 1e-8 quote
_LARGEST = 4.0e18  # beyond this nothing survives the conversion to int64


@kernel()
def money(value: float) -> int:
    """A value in quote currency as 1e-8 of it, rounded; 0 for what is no such value."""
    scaled = value * _MONEY + 0.5
    return math.floor(scaled) if scaled > 0.0 and scaled < _LARGEST else 0


@kernel()
def mid(view: np.record) -> float:
    """Middle of the touch, price units with fraction."""
    return (float(view.bid_price) + float(view.ask_price)) / 2.0


@kernel()
def size_for(view: np.record, own: np.record, side: int, price: int, value: float) -> int:
    """Size of an order of about `value` (quote currency) at `price` (price units), in whole lots.

    Cut to the room that the gate's position limit leaves beside what is held and open; 0 where nothing fits. side: +1
    buys, -1 sells.
    """
    beside = own.open_buy if side > 0 else own.open_sell
    return int(order_size(view, side, price, money(value), own.max_position_value, own.account_position, beside))


@kernel()
def may_change(event: np.record, quote: np.record, life_ms: int) -> bool:
    """True when nothing is on its way for this quote and its last order was sent at least so long ago.

    No new order is sent for it earlier than that, whatever became of the last one.
    """
    quote.not_before_ns = quote.attempt_ns + life_ms * 1_000_000
    return quote.working != IN_TRANSIT and event.now_ns >= quote.attempt_ns + life_ms * 1_000_000


@kernel()
def _is_sound(quote: np.record, view: np.record, price: float, size: float) -> bool:
    """False, and a fault, for what is no price or no size; for nothing (size 0) any price will do."""
    if size == 0:
        return True
    if price > 0 and price < _LARGEST and size >= 0 and size < _LARGEST and view.tick_size > 0:
        return True
    quote.fault = 1
    return False


@kernel()
def _aim(quote: np.record, view: np.record, price: float, size: float, time_in_force: int, up: bool) -> bool:
    """Write a target. False, and a fault, for what is no price or no size."""
    if not _is_sound(quote, view, price, size):
        return False
    if size == 0:
        quote.target_price = 0
        quote.target_size = 0
        quote.at_once = 0
        return True
    units = np.int64(math.ceil(price)) if up else np.int64(math.floor(price))
    units += (-units) % view.tick_size if up else -(units % view.tick_size)
    amount = np.int64(math.floor(size))
    amount -= amount % view.lot_size if view.lot_size > 0 else amount
    quote.target_price = units if amount > 0 else 0
    quote.target_size = amount
    quote.target_order_type = OrderType.LIMIT
    quote.target_time_in_force = time_in_force
    quote.at_once = 0
    return units > 0


@kernel()
def bid(quotes: np.record, view: np.record, price: float, size: float) -> bool:
    """Have a bid rest at this price, post only; size 0 for none. It stands until you say something else.

    One that rests there with more is replaced; one with less stays, for its place in the queue.
    """
    return bool(_aim(quotes.bid, view, price, size, TimeInForce.GTX.value, False))


@kernel()
def ask(quotes: np.record, view: np.record, price: float, size: float) -> bool:
    """Have an ask rest at this price, post only; size 0 for none. It stands as a bid does."""
    return bool(_aim(quotes.ask, view, price, size, TimeInForce.GTX.value, True))


@kernel()
def buy(quotes: np.record, view: np.record, price: float, size: float) -> bool:
    """Buy at once at this price or better, and forget what is not there (IOC).

    Returns False, with nothing wanted, while an order stands or is on its way on this side.
    """
    if not _is_sound(quotes.bid, view, price, size) or quotes.bid.working != NONE:
        return False
    found = _aim(quotes.bid, view, price, size, TimeInForce.IOC.value, False)
    quotes.bid.not_before_ns = 0
    quotes.bid.at_once = 1
    return bool(found)


@kernel()
def sell(quotes: np.record, view: np.record, price: float, size: float) -> bool:
    """Sell at once at this price or better, and forget what is not there (IOC). Returns as `buy`."""
    if not _is_sound(quotes.ask, view, price, size) or quotes.ask.working != NONE:
        return False
    found = _aim(quotes.ask, view, price, size, TimeInForce.IOC.value, True)
    quotes.ask.not_before_ns = 0
    quotes.ask.at_once = 1
    return bool(found)


@kernel()
def withdraw(quotes: np.record) -> None:
    """Want no quote on either side."""
    quotes.bid.target_price = quotes.bid.target_size = 0
    quotes.ask.target_price = quotes.ask.target_size = 0
