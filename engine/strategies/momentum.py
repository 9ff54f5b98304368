"""A momentum taker: it takes liquidity in the direction of a prediction that promises more than half the spread.

Purpose: a strategy that sends intents rather than quotes, beside the maker.
Rules, at every event of an instrument, with r = output[0], the predicted return of the next second in basis points,
p its own position, and half the spread in basis points h:
  leave   p != 0, and one of: r in the direction of p is below exit_bps; hold_ms have passed since the last entry; the
          mid has moved stop_bps against the mid of the last entry. It sends all of p the other way, cut to the gate's
          largest order.
  enter   else, where |r| - h is at least entry_bps, not against p, and the value of p at mid is below
          max_position_value.
Every order is a limit order that ends at once, `reach_bps` through the touch at most, inside the gate's collar. Two
orders are at least cooldown_ms apart, and none is sent while one is on its way.
At CLOCK records it only leaves, by time or by stop: a prediction is acted on when it comes.
Invariants: one order at a time an instrument; a prediction that is no number means no entry, and the position is left
by time and by stop.
Cost: some 30 ns. Limits: pays the spread and the taker's fee each way; knows neither depth beyond the touch nor fees.
"""

from __future__ import annotations

import numpy as np

from engine.risk.gate import value_or_max
from engine.strategies.api import NONE, PREDICTION, SPREAD_BPS, buy, kernel, math, mid, money, sell, size_for, strategy
from engine.strategies.settings import MomentumSettings

_BPS = 1e-4
_MS = 1_000_000


class State:
    """What it remembers of an instrument."""

    order_ns: int  # when the last order was wanted
    entry_ns: int  # when the last entry was
    entry_mid: float  # price units with fraction


@kernel()
def _size_to_leave(view: np.record, own: np.record, price: int) -> int:
    """All of the position, in whole lots, cut to the gate's largest order."""
    size = abs(own.position)
    if value_or_max(price, size, view.unit_exp) > own.max_order_value:
        size = min(size, size_for_gate(view, own, price))
    return size


@kernel()
def size_for_gate(view: np.record, own: np.record, price: int) -> int:
    """The largest size that the gate lets out at this price, size units."""
    one = float(value_or_max(price, 1_000_000, view.unit_exp)) / 1_000_000.0
    return int(math.floor(float(own.max_order_value) / one)) if one > 0.0 else 0


@kernel()
def wants_out(event: np.record, view: np.record, parameters: np.record, state: np.record, position: int) -> bool:
    """True when the position is to be left."""
    side = 1.0 if position > 0 else -1.0
    if event.now_ns - state.entry_ns >= parameters.hold_ms * _MS:
        return True
    if parameters.stop_bps > 0.0 and state.entry_mid > 0.0:
        if side * (mid(view) - state.entry_mid) <= -parameters.stop_bps * _BPS * state.entry_mid:
            return True
    return event.kind == PREDICTION and side * view.output[0] < parameters.exit_bps


@strategy(MomentumSettings, State, features=("spread_bps",), model="short_return")
def on_event(
    event: np.record, view: np.record, own: np.record, parameters: np.record, state: np.record, quotes: np.record
) -> None:
    """See the module."""
    if quotes.bid.working != NONE or quotes.ask.working != NONE:
        return
    if event.now_ns < state.order_ns + parameters.cooldown_ms * _MS:
        return
    forecast = view.output[0]
    side, size = 0, 0
    reach = parameters.reach_bps * _BPS
    highest = float(view.ask_price) * (1.0 + reach)
    lowest = float(view.bid_price) * (1.0 - reach)
    if own.position != 0 and wants_out(event, view, parameters, state, own.position):
        side = -1 if own.position > 0 else 1
        size = _size_to_leave(view, own, int(math.ceil(highest)))
    elif event.kind == PREDICTION and abs(forecast) - view.vector[SPREAD_BPS] / 2.0 >= parameters.entry_bps:
        side = 1 if forecast > 0.0 else -1
        held = value_or_max(int(mid(view)), abs(own.position), view.unit_exp)
        if side * own.position >= 0 and held < money(parameters.max_position_value):
            size = size_for(view, own, side, view.ask_price if side > 0 else view.bid_price, parameters.order_value)
            if size > 0:
                state.entry_ns = event.now_ns
                state.entry_mid = mid(view)
    if size <= 0:
        return
    state.order_ns = event.now_ns
    if side > 0:
        buy(quotes, view, highest, size)
    else:
        sell(quotes, view, lowest, size)
