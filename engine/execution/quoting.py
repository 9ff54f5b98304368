"""Makes the market agree with the strategies' targets: one order behind each quote, cancel first, then new.

Purpose: turn changed targets into signals, and targets into orders and cancels.
Invariants: at most one order that is not done behind a quote; a new order is sent only when the one before is done
and owes no fills; a price is never amended. A withdrawn quote has target size 0 and its order is cancelled.
Cost: about 20 ns for a pair of quotes that stay.
"""

from __future__ import annotations

import math

import numpy as np

from engine.execution.decision_hash import Decision, add_decision
from engine.execution.intents import quotes_allowed, send_cancel, submit
from engine.execution.order_states import FIRST_TERMINAL, OrderStatus
from engine.execution.orders import find_order, want_cancel
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.risk.gate import POWERS_OF_10
from engine.risk.market_view import book_is_fresh
from engine.strategies.quotes import ASK, BID, Working
from engine.strategies.table import STRATEGY_COUNT, run_strategy
from engine.units import MONEY_EXP

_LARGEST_FAIR = 9.0e18  # 1e-8 quote; NaN and beyond count as none


@kernel()
def look_up_working(table: np.record, quote: np.record) -> int:
    """Bring what stands behind a quote up to date. Returns the slot of its order, -1 when there is none."""
    slot = find_order(table, quote.order_id)
    if slot >= 0:
        order = table.slots[slot]
        if order.status < FIRST_TERMINAL or order.exposure > 0:
            open_now = order.status == OrderStatus.LIVE or order.status == OrderStatus.PARTIALLY_FILLED
            if open_now and order.cancel_wanted == 0:
                quote.working = Working.RESTING
            else:
                quote.working = Working.IN_TRANSIT
            return slot
    quote.working = Working.NONE
    quote.order_id = 0
    quote.order_price = 0
    return -1


@kernel()
def _note_fair_price(state: np.record, strategy: int, instrument: int, fair: float) -> None:
    """Keep and hash the fair price (price units with fraction) that a strategy came to, where it is another one."""
    exp = state.views[instrument].price_exp
    if exp <= MONEY_EXP:
        money = fair * float(POWERS_OF_10[MONEY_EXP - exp])
    else:
        money = fair / float(POWERS_OF_10[exp - MONEY_EXP])
    units = math.floor(money + 0.5) if abs(money) < _LARGEST_FAIR else 0
    if units != state.fair_price[strategy, instrument]:
        state.fair_price[strategy, instrument] = units
        add_decision(
            state.hash, Decision.FAIR.value, strategy, instrument, 0, 0, 0, units, 0, state.last_ingest_id
        )


@kernel()
def signal(state: np.record, strategy: int, instrument: int, place: int) -> None:
    """Count and hash a target that changed."""
    quote = state.quotes[strategy, instrument, place]
    state.signals += 1
    add_decision(
        state.hash, Decision.SIGNAL.value, strategy, instrument, 1 if place == BID else -1,
        quote.target_order_type, quote.target_time_in_force, quote.target_price, quote.target_size,
        state.last_ingest_id,
    )


@kernel()
def act(
    state: np.record, outbox: np.ndarray, routes: np.ndarray, strategy: int, instrument: int, place: int, slot: int,
    reduce_only: int,
) -> None:
    """Send what brings the order behind a quote closer to its target, if anything."""
    quote = state.quotes[strategy, instrument, place]
    if quote.working == Working.RESTING:
        if quote.target_size == 0 or quote.target_price != quote.order_price:
            send_cancel(state, outbox, routes, slot)
    elif quote.working == Working.IN_TRANSIT:
        if quote.target_size == 0:
            want_cancel(state.orders, state.orders.slots[slot], state.now_ns)
    elif quote.target_size > 0 and state.now_ns >= quote.not_before_ns:
        quote.attempt_ns = state.now_ns
        quote.order_id = submit(
            state, outbox, routes, strategy, instrument, 1 if place == BID else -1, quote.target_price,
            quote.target_size, quote.target_order_type, quote.target_time_in_force,
            reduce_only,
        )
        quote.order_price = quote.target_price if quote.order_id > 0 else 0


@kernel()
def may_quote(state: np.record, instrument: int) -> bool:
    """True when quotes of this instrument may stand."""
    view = state.views[instrument]
    return (
        quotes_allowed(state)
        and view.known == 1
        and view.trading == 1
        and book_is_fresh(view, state.now_ns, state.gate.max_data_age_ns)
    )


@kernel()
def quote_instrument(state: np.record, outbox: np.ndarray, routes: np.ndarray, instrument: int) -> None:
    """Run every strategy on a new prediction of an instrument and act on its targets: at most 2 records each."""
    table = state.orders
    position = state.ledger.positions[instrument].size
    for strategy in range(STRATEGY_COUNT):
        pair = state.quotes[strategy, instrument]
        bid_slot = look_up_working(table, pair[BID])
        ask_slot = look_up_working(table, pair[ASK])
        open_buy = table.open_size[instrument, BID]
        open_sell = table.open_size[instrument, ASK]
        if bid_slot >= 0:
            open_buy -= table.slots[bid_slot].exposure
        if ask_slot >= 0:
            open_sell -= table.slots[ask_slot].exposure
        bid_price = pair[BID].target_price
        bid_size = pair[BID].target_size
        ask_price = pair[ASK].target_price
        ask_size = pair[ASK].target_size
        fair = run_strategy(
            state.strategies, strategy, state.views[instrument], position, open_buy, open_sell,
            state.gate.max_position_value, state.now_ns, pair,
        )
        _note_fair_price(state, strategy, instrument, fair)
        if pair[BID].target_price != bid_price or pair[BID].target_size != bid_size:
            signal(state, strategy, instrument, BID)
        if pair[ASK].target_price != ask_price or pair[ASK].target_size != ask_size:
            signal(state, strategy, instrument, ASK)
        act(state, outbox, routes, strategy, instrument, BID, bid_slot, 0)
        act(state, outbox, routes, strategy, instrument, ASK, ask_slot, 0)


@kernel()
def withdraw(state: np.record, instrument: int) -> None:
    """Take back all quotes of an instrument; their cancels are sent by the order timers."""
    if state.tripped == 1:
        return
    for strategy in range(STRATEGY_COUNT):
        for place in range(2):
            quote = state.quotes[strategy, instrument, place]
            if quote.target_size != 0:
                quote.target_price = 0
                quote.target_size = 0
                signal(state, strategy, instrument, place)
            slot = look_up_working(state.orders, quote)
            if slot >= 0:
                want_cancel(state.orders, state.orders.slots[slot], state.now_ns)


@kernel()
def withdraw_all(state: np.record) -> None:
    """Take back all quotes of all instruments."""
    for instrument in range(MAX_INSTRUMENTS):
        if state.views[instrument].known == 1:
            withdraw(state, instrument)
