"""Makes the market agree with the strategies' targets: one order behind each quote, cancel first, then new.

Purpose: run the strategies, turn changed targets into signals, and targets into orders and cancels.
Invariants: at most one order that is not done behind a quote; a new order is sent only when the one before is done
and owes no fills; nothing is amended. An order of more than is wanted now is replaced; one of less keeps its place in
the queue until its price changes. A withdrawn quote has target size 0 and its order is cancelled. A target
that was wanted at once is forgotten after its one attempt, whatever came of it; that is no signal.
A strategy that fails (engine/strategies/table.py) has wanted nothing on either side: its quotes are taken back.
Cost: about 20 ns for a pair of quotes that stay, beside the strategy.
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
from engine.reasons import Reason
from engine.records import Kind, TimeInForce
from engine.risk.gate import POWERS_OF_10
from engine.risk.market_view import book_is_fresh
from engine.strategies.quotes import ASK, BID, Working
from engine.strategies.table import position_of, run_strategy
from engine.units import MONEY_EXP

CLOCK_RECORDS = 16  # most order records that strategies write at one CLOCK; the others have their turn at the next
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
    state.strategies.books[strategy, instrument].signals += 1
    add_decision(
        state.hash, Decision.SIGNAL.value, strategy, instrument, 1 if place == BID else -1,
        quote.target_order_type, quote.target_time_in_force, quote.target_price, quote.target_size,
        state.last_ingest_id,
    )


@kernel()
def _ends_by_itself(order: np.record) -> bool:
    """True for an order that never rests: there is nothing to cancel."""
    return order.time_in_force == TimeInForce.IOC or order.time_in_force == TimeInForce.FOK


@kernel()
def act(
    state: np.record, outbox: np.ndarray, routes: np.ndarray, strategy: int, instrument: int, place: int, slot: int,
    reduce_only: int,
) -> None:
    """Send what brings the order behind a quote closer to its target, if anything."""
    quote = state.quotes[strategy, instrument, place]
    if quote.working == Working.RESTING:
        at_price = quote.target_size > 0 and quote.target_price == quote.order_price
        wanted = at_price and state.orders.slots[slot].exposure <= quote.target_size
        if not wanted and not _ends_by_itself(state.orders.slots[slot]):
            send_cancel(state, outbox, routes, slot)
    elif quote.working == Working.IN_TRANSIT:
        if quote.target_size == 0 and not _ends_by_itself(state.orders.slots[slot]):
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
def _fill_own(
    state: np.record, strategy: int, instrument: int, bid_slot: int, ask_slot: int, own: np.record
) -> None:
    """Write what is a strategy's own of an instrument. bid_slot, ask_slot: of the orders behind its quotes."""
    table = state.orders
    strategies = state.strategies
    own.account_position = state.ledger.positions[instrument].size
    own.position = position_of(strategies, strategy, instrument, own.account_position)
    own.open_buy = table.open_size[instrument, BID]
    own.open_sell = table.open_size[instrument, ASK]
    if bid_slot >= 0:
        own.open_buy -= table.slots[bid_slot].exposure
    if ask_slot >= 0:
        own.open_sell -= table.slots[ask_slot].exposure
    own.max_position_value = state.gate.max_position_value
    own.max_order_value = state.gate.max_order_value
    own.fills = strategies.books[strategy, instrument].fills


@kernel()
def look_from_outside(
    state: np.record, strategy: int, instrument: int, bid: np.record, ask: np.record, own: np.record
) -> None:
    """What a strategy in another process is shown of its own: OWN, and what stands behind its quotes.

    state: EXECUTION_STATE, only read, while execution may be writing to it: each word is whole, the picture may not be.
    """
    pair = state.quotes[strategy, instrument]
    bid.order_id = pair[BID].order_id
    bid.order_price = pair[BID].order_price
    bid.attempt_ns = pair[BID].attempt_ns
    ask.order_id = pair[ASK].order_id
    ask.order_price = pair[ASK].order_price
    ask.attempt_ns = pair[ASK].attempt_ns
    bid_slot = look_up_working(state.orders, bid)
    ask_slot = look_up_working(state.orders, ask)
    _fill_own(state, strategy, instrument, bid_slot, ask_slot, own)


@kernel()
def run_one(
    state: np.record, outbox: np.ndarray, routes: np.ndarray, strategy: int, instrument: int, kind: int
) -> None:
    """Run one strategy on an event of an instrument and act on its targets: at most 2 records."""
    table = state.orders
    strategies = state.strategies
    event = strategies.event
    event.kind = kind
    event.now_ns = state.now_ns
    event.ingest_id = state.last_ingest_id
    event.instrument = instrument
    pair = state.quotes[strategy, instrument]
    bid_slot = look_up_working(table, pair[BID])
    ask_slot = look_up_working(table, pair[ASK])
    own = strategies.own[strategy, instrument]
    _fill_own(state, strategy, instrument, bid_slot, ask_slot, own)
    bid_price = pair[BID].target_price
    bid_size = pair[BID].target_size
    ask_price = pair[ASK].target_price
    ask_size = pair[ASK].target_size
    if run_strategy(strategies, strategy, instrument, state.views[instrument], pair):
        _note_fair_price(state, strategy, instrument, own.fair_price)
    else:
        state.denied[Reason.STRATEGY_FAULT] += 1
    if pair[BID].target_price != bid_price or pair[BID].target_size != bid_size:
        signal(state, strategy, instrument, BID)
    if pair[ASK].target_price != ask_price or pair[ASK].target_size != ask_size:
        signal(state, strategy, instrument, ASK)
    for place in range(2):
        act(state, outbox, routes, strategy, instrument, place, bid_slot if place == BID else ask_slot, 0)
        quote = pair[place]
        if quote.at_once == 1:
            quote.at_once = 0
            quote.target_price = 0
            quote.target_size = 0


@kernel()
def quote_instrument(state: np.record, outbox: np.ndarray, routes: np.ndarray, instrument: int) -> None:
    """Run every strategy of an instrument on a new prediction of it: at most 2 records each."""
    for strategy in range(state.strategies.count):
        if state.strategies.trades[strategy, instrument] == 1:
            run_one(state, outbox, routes, strategy, instrument, Kind.PREDICTION.value)


@kernel()
def run_at_clock(state: np.record, outbox: np.ndarray, routes: np.ndarray) -> None:
    """Run the strategies that want CLOCK records, on each of their instruments that may be quoted.

    At most CLOCK_RECORDS records; where the last CLOCK had to stop, this one goes on.
    """
    strategies = state.strategies
    places = strategies.count * MAX_INSTRUMENTS
    first = strategies.clock_at if strategies.clock_at < places else 0
    before = state.written
    strategies.clock_at = 0
    for step in range(places):
        place = (first + step) % places
        strategy = place // MAX_INSTRUMENTS
        instrument = place % MAX_INSTRUMENTS
        if strategies.clocked[strategy] == 0 or strategies.trades[strategy, instrument] == 0:
            continue
        if not may_quote(state, instrument):
            continue
        if state.written - before + 2 > CLOCK_RECORDS:
            strategies.clock_at = place
            return
        run_one(state, outbox, routes, strategy, instrument, Kind.CLOCK.value)


@kernel()
def withdraw_one(state: np.record, strategy: int, instrument: int) -> None:
    """Take back both quotes of a strategy; their cancels are sent by the order timers."""
    if state.tripped == 1:
        return
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
def withdraw(state: np.record, instrument: int) -> None:
    """Take back all quotes of an instrument."""
    for strategy in range(state.strategies.count):
        withdraw_one(state, strategy, instrument)


@kernel()
def withdraw_all(state: np.record) -> None:
    """Take back all quotes of all instruments."""
    for instrument in range(MAX_INSTRUMENTS):
        if state.views[instrument].known == 1:
            withdraw(state, instrument)
