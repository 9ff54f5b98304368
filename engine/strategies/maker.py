"""A market maker: a bid and an ask around a predicted fair price.

Purpose: quote both sides near the touch, post only, and lean against the inventory.
Model: fair = microprice * (1 + prediction_weight * output[0] bps) - inventory_skew_ticks * tick * position share,
where output[0] is the predicted return of the next second in basis points and the position share is position
value over its limit, within -1 and 1. Bid = fair - half spread rounded down to the tick, ask = fair + half spread
rounded up; then each is held between `max_depth_ticks` behind and `improve_ticks` in front of the touch and never
reaches the other side. A quote that makes the touch itself is not improved on.
Invariants: prices are positive multiples of the tick, bid < best ask, ask > best bid; a fair price that is no
finite number means no quotes; the view is only read.
Cost: some 50 ns. Limits: one level a side; does not see its place in the queue.
Source: microprice as in Stoikov, "The micro-price" (2018), first-order form; linear inventory skew as in
Avellaneda and Stoikov (2008) with the risk term given directly in ticks.
"""

from __future__ import annotations

import math

import numpy as np

from engine.kernel import kernel
from engine.records import OrderType, TimeInForce
from engine.risk.gate import value_or_max
from engine.strategies.api import size_for, strategy
from engine.strategies.quotes import Working
from engine.strategies.settings import MakerSettings

_BPS = 1e-4
_MAX_PRICE = 4.0e18  # prices beyond this would not survive the conversion to int64
_MS = 1_000_000


@kernel()
def fair_price(maker: np.record, view: np.record, position: int, max_position_value: int) -> float:
    """The price (price units, with fraction) around which to quote; NaN where an input is NaN."""
    sizes = float(view.bid_size) + float(view.ask_size)
    micro = (
        float(view.bid_price) * float(view.ask_size) + float(view.ask_price) * float(view.bid_size)
    ) / sizes
    value = float(value_or_max(view.bid_price, abs(position), view.unit_exp))
    share = min(value / float(max_position_value), 1.0) if max_position_value > 0 else 1.0
    if position < 0:
        share = -share
    skew = maker.inventory_skew_ticks * float(view.tick_size) * share
    return micro + micro * maker.prediction_weight * view.output[0] * _BPS - skew


@kernel()
def bid_price(maker: np.record, view: np.record, fair: float, own_price: int) -> int:
    """Where to bid, price units; 0 for nowhere. own_price: price of our resting bid, 0 none."""
    tick = view.tick_size
    wanted = math.floor(fair * (1.0 - maker.half_spread_bps * _BPS) / float(tick)) * tick
    front = view.bid_price
    if own_price != view.bid_price:
        front = min(view.bid_price + maker.improve_ticks * tick, view.ask_price - tick)
    price = max(min(wanted, front), view.bid_price - maker.max_depth_ticks * tick)
    return max(price - price % tick, 0)


@kernel()
def ask_price(maker: np.record, view: np.record, fair: float, own_price: int) -> int:
    """Where to ask, price units. own_price: price of our resting ask, 0 none."""
    tick = view.tick_size
    wanted = math.ceil(fair * (1.0 + maker.half_spread_bps * _BPS) / float(tick)) * tick
    front = view.ask_price
    if own_price != view.ask_price:
        front = max(view.ask_price - maker.improve_ticks * tick, view.bid_price + tick)
    price = min(max(wanted, front), view.ask_price + maker.max_depth_ticks * tick)
    return price + (-price) % tick


@kernel()
def _set_target(maker: np.record, quote: np.record, price: int, size: int, tick: int, now_ns: int) -> None:
    """Change the target of a quote where the rules of its life allow it."""
    if price <= 0 or size <= 0:
        quote.target_price = 0
        quote.target_size = 0
        return
    not_before_ns = quote.attempt_ns + maker.min_quote_life_ms * _MS
    quote.not_before_ns = not_before_ns
    if now_ns < not_before_ns or quote.working == Working.IN_TRANSIT:
        return
    if quote.working == Working.RESTING:
        move = abs(price - quote.order_price)
        old = now_ns >= quote.attempt_ns + maker.max_quote_life_ms * _MS
        if move == 0 or (move < maker.requote_ticks * tick and not old):
            return
    quote.target_price = price
    quote.target_size = size
    quote.target_order_type = OrderType.LIMIT
    quote.target_time_in_force = TimeInForce.GTX


@strategy(MakerSettings, model="short_return", clock=False)
def on_event(
    event: np.record, view: np.record, own: np.record, parameters: np.record, state: np.record, quotes: np.record
) -> None:
    """Write the targets of both quotes of one instrument, and the fair price, price units with fraction."""
    bid = quotes.bid
    ask = quotes.ask
    fair = fair_price(parameters, view, own.position, own.max_position_value)
    own.fair_price = fair
    if not (fair > 0.0 and fair < _MAX_PRICE):
        _set_target(parameters, bid, 0, 0, view.tick_size, event.now_ns)
        _set_target(parameters, ask, 0, 0, view.tick_size, event.now_ns)
        return
    own_bid = bid.order_price if bid.working == Working.RESTING else 0
    own_ask = ask.order_price if ask.working == Working.RESTING else 0
    price = bid_price(parameters, view, fair, own_bid)
    _set_target(
        parameters, bid, price, size_for(view, own, 1, price, parameters.order_value), view.tick_size, event.now_ns
    )
    price = ask_price(parameters, view, fair, own_ask)
    _set_target(
        parameters, ask, price, size_for(view, own, -1, price, parameters.order_value), view.tick_size, event.now_ns
    )
