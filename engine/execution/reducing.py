"""REDUCE: positions go down by schedule, in orders that the venue takes for closing alone.

Purpose: the mode REDUCE of the control plane. The allowed position of an instrument falls in a straight line from
what it was when REDUCE began to zero after `over_ns`, on the record clock. What is held beyond it is offered post
only at our own side of the touch; when the time is over, at the other side of it, so that it is taken.
Steps: nothing is sent for less than a STEPS-th of the position at the beginning, or a lot, until the time is over.
Invariants: an order is on the reducing side, at most as large as the position less all open orders of that side
(UNKNOWN ones in full; the gate holds it), and carries REDUCE_ONLY; so it never makes a position larger, nor takes it
through zero.
It acts through the quotes of the first strategy: one order an instrument, cancel first, a price never amended.
"""

from __future__ import annotations

import numpy as np

from engine.execution.intents import reductions_allowed
from engine.execution.orders import side_index
from engine.execution.quoting import act, look_up_working, signal
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.records import OrderType, TimeInForce
from engine.risk.market_view import book_is_fresh
from engine.risk.sizing import size_for_value
from engine.safety.mode import Mode
from engine.strategies.quotes import ASK, BID, Working
from engine.units import mul_div

STEPS = 20
_STRATEGY = 0

REDUCING = np.dtype(
    [
        ("over_ns", "<i8"),  # how long it takes to come to zero
        ("quote_life_ns", "<i8"),  # an order is neither replaced nor followed by the next of its side before this age
        ("since_ns", "<i8"),  # when REDUCE began
        ("begun_with", "<i8", (MAX_INSTRUMENTS,)),  # size of each position then, without its sign
    ],
    align=True,
)


@kernel()
def begin_reducing(state: np.record) -> None:
    """REDUCE begins: the schedule starts at what is held now."""
    reducing = state.reducing
    reducing.since_ns = state.now_ns
    for i in range(MAX_INSTRUMENTS):
        reducing.begun_with[i] = abs(state.ledger.positions[i].size)


@kernel()
def allowed_position(begun_with: int, elapsed_ns: int, over_ns: int) -> int:
    """What may still be held, size units, so long after the beginning; rounded down."""
    if over_ns <= 0 or elapsed_ns >= over_ns:
        return 0
    return int(mul_div(begun_with, over_ns - max(elapsed_ns, 0), over_ns))


@kernel()
def may_reduce(state: np.record, instrument: int) -> bool:
    """True when the schedule of REDUCE may place orders of this instrument."""
    view = state.views[instrument]
    return (
        state.mode == Mode.REDUCE
        and reductions_allowed(state)
        and view.known == 1
        and view.trading == 1
        and book_is_fresh(view, state.now_ns, state.gate.max_data_age_ns)
    )


@kernel()
def _size_to_offer(state: np.record, instrument: int, price: int, open_beside: int) -> int:
    """How much to offer now, in whole lots. open_beside: orders of the reducing side that are not behind the quote."""
    view = state.views[instrument]
    reducing = state.reducing
    held = abs(state.ledger.positions[instrument].size)
    allowed = allowed_position(reducing.begun_with[instrument], state.now_ns - reducing.since_ns, reducing.over_ns)
    excess = held - allowed - open_beside
    if view.lot_size <= 0 or excess < view.lot_size:
        return 0
    if allowed > 0 and excess < reducing.begun_with[instrument] // STEPS:
        return 0
    size = min(excess, size_for_value(state.gate.max_order_value, price, view.unit_exp))
    return int(size - size % view.lot_size)


@kernel()
def _set_target(state: np.record, instrument: int, place: int, price: int, size: int, takes: bool) -> None:
    """Change the target of a quote, and say so where it is another one."""
    quote = state.quotes[_STRATEGY, instrument, place]
    if quote.target_price == price and quote.target_size == size:
        return
    quote.target_price = price
    quote.target_size = size
    quote.target_order_type = OrderType.LIMIT
    quote.target_time_in_force = TimeInForce.IOC if takes else TimeInForce.GTX
    signal(state, _STRATEGY, instrument, place)


@kernel()
def _reduce_side(
    state: np.record, outbox: np.ndarray, routes: np.ndarray, instrument: int, place: int, closes: bool
) -> None:
    """Bring the order behind one quote in line; closes: its side makes the position smaller."""
    view = state.views[instrument]
    table = state.orders
    reducing = state.reducing
    quote = state.quotes[_STRATEGY, instrument, place]
    slot = look_up_working(table, quote)
    if not closes:
        _set_target(state, instrument, place, 0, 0, False)
        act(state, outbox, routes, _STRATEGY, instrument, place, slot, 1)
        return
    takes = state.now_ns - reducing.since_ns >= reducing.over_ns
    own_side = view.ask_price if place == ASK else view.bid_price
    other_side = view.bid_price if place == ASK else view.ask_price
    price = other_side if takes else own_side
    quote.not_before_ns = quote.attempt_ns + reducing.quote_life_ns
    if quote.working == Working.RESTING and (state.now_ns < quote.not_before_ns or price == quote.order_price):
        return  # it stays where it is
    open_beside = table.open_size[instrument, side_index(1 if place == BID else -1)]
    if slot >= 0:
        open_beside -= table.slots[slot].exposure
    size = _size_to_offer(state, instrument, price, open_beside)
    _set_target(state, instrument, place, price if size > 0 else 0, size, takes)
    act(state, outbox, routes, _STRATEGY, instrument, place, slot, 1)


@kernel()
def reduce_instrument(state: np.record, outbox: np.ndarray, routes: np.ndarray, instrument: int) -> None:
    """Bring the orders of an instrument in line with the schedule: at most 2 records."""
    position = state.ledger.positions[instrument].size
    _reduce_side(state, outbox, routes, instrument, BID, position < 0)
    _reduce_side(state, outbox, routes, instrument, ASK, position > 0)
