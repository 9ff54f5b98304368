"""From a decision to an order record: gate, order table, decision hash, outbox.

Purpose: the only place where the execution stage writes records for a gateway.
Invariants: after a trip only questions are written; an order that passed the gate is in the table before its record
is in the outbox; decisions enter the hash before anything is written. New orders carry a deadline, cancels and
questions none (NEVER): a late cancel is still wanted.
Cost: about 100 ns a new order. Memory: the outbox has room for MAX_OUT records for every input record.
"""

from __future__ import annotations

import numpy as np

from engine.execution.decision_hash import Decision, add_decision
from engine.execution.order_states import FIRST_TERMINAL, OrderEvent
from engine.execution.orders import NEVER, apply_event, find_order, new_order, open_order_count, side_index
from engine.execution.reconcile import note_question
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Flag, OrderAction, TimeInForce
from engine.risk.gate import Check, check_order, newest_check, note, take_message
from engine.safety.mode import Mode


@kernel()
def quotes_allowed(state: np.record) -> bool:
    """True when mode, trip, quiescence, opening, the readiness of the other processes, the last comparison with the
    venue and the room in the rings let quotes stand."""
    return (
        state.opened == 1
        and state.tripped == 0
        and state.quiescing == 0
        and state.not_ready == 0
        and state.mode == Mode.NORMAL
        and state.reconcile.holding == 0
        and state.backlog < 2
    )


@kernel()
def reductions_allowed(state: np.record) -> bool:
    """True when orders that only reduce may be sent: as for quotes, and in REDUCE and PAUSE too."""
    return (
        state.opened == 1
        and state.tripped == 0
        and state.quiescing == 0
        and state.not_ready == 0
        and state.mode < Mode.EMERGENCY
        and state.reconcile.holding == 0
        and state.backlog < 2
    )


@kernel()
def _open_record(state: np.record, outbox: np.ndarray, routes: np.ndarray, kind: int, venue: int) -> int:
    """Claim and clear the next record of the outbox (ORDER). Returns its index."""
    index = state.written
    outbox[index] = state.blank_order
    record = outbox[index]
    record.ingest_id = state.last_ingest_id
    record.recv_ts_ns = state.now_ns
    record.kind = kind
    record.venue = venue
    record.deadline_ns = NEVER
    routes[index] = venue
    state.written = index + 1
    return index


@kernel()
def _describe(outbox: np.ndarray, index: int, order: np.record) -> None:
    """Write what identifies and describes an order into its record."""
    record = outbox[index]
    record.order_id = order.order_id
    record.aux = order.order_id
    record.venue_order_id = order.venue_order_id
    record.instrument = order.instrument
    record.strategy = order.strategy
    record.side = order.side
    record.price = order.price
    record.size = order.size
    record.order_type = order.order_type
    record.time_in_force = order.time_in_force
    if record.kind == OrderAction.CANCEL:
        record.flags = Flag.CLOSE.value
    elif record.kind == OrderAction.NEW and order.reduce_only == 1:
        record.flags = Flag.REDUCE_ONLY.value


@kernel()
def takes_our_own(state: np.record, instrument: int, side: int, price: int) -> bool:
    """True when an order at this price could be matched with an order of ours that rests or is on its way.

    Every open order is behind a quote. A trade with ourselves has one trade id for two fills, and is forbidden besides.
    """
    table = state.orders
    opposite = side_index(-side)
    for strategy in range(state.strategies.count):
        slot = find_order(table, state.quotes[strategy, instrument, opposite].order_id)
        if slot >= 0 and table.slots[slot].status < FIRST_TERMINAL:
            if side * (price - table.slots[slot].price) >= 0:
                return True
    return False


@kernel()
def submit(
    state: np.record,
    outbox: np.ndarray,
    routes: np.ndarray,
    strategy: int,
    instrument: int,
    side: int,
    price: int,
    size: int,
    order_type: int,
    time_in_force: int,
    reduce_only: int,
) -> int:
    """Pass a new order through the gate and send it. Returns its order id, or 0 when it was denied.

    reduce_only: 1 for an order that the venue is to take for closing alone.
    """
    view = state.views[instrument]
    table = state.orders
    position = state.ledger.positions[instrument].size
    open_same_side = table.open_size[instrument, side_index(side)]
    state.gate.checked += 1
    kept = state.gate.kept[newest_check(state.gate)]
    kept.made = 0
    kept.strategy = strategy
    kept.instrument = instrument
    kept.side = side
    kept.price = price
    kept.size = size
    kept.order_type = order_type
    kept.time_in_force = time_in_force
    kept.reduce_only = reduce_only
    kept.position = position
    kept.open_same_side = open_same_side
    open_orders = open_order_count(table)
    note(state.gate, Check.OPEN_ORDERS.value, open_orders, table.max_open_orders)
    if open_orders >= table.max_open_orders:
        reason = Reason.TOO_MANY_ORDERS.value
    else:
        note(state.gate, Check.BACKLOG.value, state.backlog, 1)
        is_taking_ours = time_in_force != TimeInForce.GTX and takes_our_own(state, instrument, side, price)
        if state.backlog > 0:
            reason = Reason.BACKLOG.value
        else:
            note(state.gate, Check.OWN_ORDERS.value, np.int64(is_taking_ours), 1)
            if is_taking_ours:
                reason = Reason.SELF_TRADE.value
            else:
                allowed = reductions_allowed(state) if reduce_only == 1 else quotes_allowed(state)
                reason = check_order(
                    state.gate, view, allowed, state.now_ns, side, price, size, position, open_same_side,
                    reduce_only == 1,
                )
    passed = reason == Reason.NONE
    add_decision(
        state.hash, Decision.INTENT.value if passed else Decision.DENIED.value, strategy, instrument, side,
        order_type | reduce_only << 7, time_in_force, price, size, state.last_ingest_id,
    )
    kept.reason = reason
    kept.decision = state.hash.links
    kept.order_id = 0
    if not passed:
        state.denied[reason] += 1
        state.strategies.books[strategy, instrument].denied += 1
        return 0
    slot = new_order(
        table, state.now_ns, strategy, instrument, side, price, size, order_type, time_in_force
    )
    order = table.slots[slot]
    kept.order_id = order.order_id
    order.reduce_only = reduce_only
    order.reference = view.bid_price + view.ask_price
    index = _open_record(state, outbox, routes, OrderAction.NEW.value, view.venue)
    _describe(outbox, index, order)
    outbox[index].deadline_ns = (
        state.now_ns + state.max_decision_age_ns
    )
    state.intents += 1
    state.strategies.books[strategy, instrument].intents += 1
    state.sent += 1
    if state.open_loop == 1:
        apply_event(table, order, OrderEvent.ACCEPTED.value, state.now_ns)
        if time_in_force == TimeInForce.IOC or time_in_force == TimeInForce.FOK:  # it found nobody
            apply_event(table, order, OrderEvent.EXPIRED.value, state.now_ns)
    return int(order.order_id)


@kernel()
def send_cancel(state: np.record, outbox: np.ndarray, routes: np.ndarray, slot: int) -> None:
    """Cancel an open order (LIVE or PARTIALLY_FILLED). Always passes the gate, takes a message."""
    if state.tripped == 1:
        return
    order = state.orders.slots[slot]
    order.cancel_wanted = 1
    take_message(state.gate, state.now_ns)
    add_decision(
        state.hash, Decision.CANCEL.value, order.strategy, order.instrument, order.side, order.order_type,
        order.time_in_force, order.price, order.size, state.last_ingest_id,
    )
    index = _open_record(state, outbox, routes, OrderAction.CANCEL.value, state.views[order.instrument].venue)
    _describe(outbox, index, order)
    state.intents += 1
    state.strategies.books[order.strategy, order.instrument].intents += 1
    state.cancels_sent += 1
    apply_event(state.orders, order, OrderEvent.CANCEL_SENT.value, state.now_ns)
    if state.open_loop == 1:
        apply_event(state.orders, order, OrderEvent.CANCELLED.value, state.now_ns)


@kernel()
def send_query(state: np.record, outbox: np.ndarray, routes: np.ndarray, slot: int) -> None:
    """Ask the venue where an order stands, after a trip too. No decision: it does not enter the hash."""
    order = state.orders.slots[slot]
    take_message(state.gate, state.now_ns)
    index = _open_record(state, outbox, routes, OrderAction.QUERY.value, state.views[order.instrument].venue)
    _describe(outbox, index, order)
    state.queries_sent += 1


@kernel()
def send_reconcile(state: np.record, outbox: np.ndarray, routes: np.ndarray, aux: int, venue: int) -> None:
    """Ask a venue's gateway for balances, positions and open orders, after a trip too; aux goes along."""
    note_question(state.reconcile, state.ledger, state.orders, state.now_ns)
    index = _open_record(state, outbox, routes, OrderAction.RECONCILE.value, venue)
    outbox[index].aux = aux
