"""Reports of a gateway: what they do to orders, ledger and reconciliation.

Invariants: a fill moves the ledger exactly once, whatever its order's state, and also when the order is no longer
in the table; a report that contradicts its order, or has impossible numbers, is quarantined and changes nothing.
Order of checks of a fill: instrument known, price and size positive, trade id positive, side and instrument those
of the order, trade not seen before.
"""

from __future__ import annotations

import numpy as np

from engine.execution.books import allot_fill
from engine.execution.ledger import take_fill, take_payment
from engine.execution.order_states import OrderEvent, OrderStatus
from engine.execution.orders import acknowledge, apply_event, apply_fill, apply_not_found, find_order
from engine.execution.quoting import withdraw_all
from engine.execution.reconcile import adopt_opening, compare, end_answer, take_answer
from engine.execution.slippage import note_slippage
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import REASON_COUNT, Reason
from engine.records import ReportKind


@kernel()
def _take_fill_report(state: np.record, record: np.record) -> int:
    """Book a FILL report. Returns Reason.NONE or why it was refused."""
    instrument = record.instrument
    if instrument >= MAX_INSTRUMENTS or state.views[instrument].known == 0:
        return Reason.NO_INSTRUMENT.value
    if record.price <= 0:
        return Reason.PRICE_RANGE.value
    if record.size <= 0 or (record.side != 1 and record.side != -1):
        return Reason.SIZE_RANGE.value
    if record.trade_id <= 0:
        return Reason.BAD_NUMBER.value
    slot = find_order(state.orders, record.order_id)
    if slot >= 0:
        order = state.orders.slots[slot]
        if order.instrument != instrument or order.side != record.side:
            return Reason.VENUE_ERROR.value
    booked = take_fill(
        state.ledger, instrument, record.side, record.price, record.size, record.fee, record.trade_id,
        state.views[instrument].unit_exp,
    )
    if not booked:
        return Reason.NONE.value
    allot_fill(state, slot, record)
    if slot < 0:
        state.orphan_fills += 1
        return Reason.NONE.value
    order = state.orders.slots[slot]
    note_slippage(state, order, record.price)
    # A trade learnt by asking tells no cumulative size, and one that comes late an old one; both are facts.
    cumulative = max(record.cumulative_size, order.filled + record.size)
    acknowledge(state.orders, order, record.venue_order_id, cumulative)
    apply_fill(state.orders, order, record.size, state.now_ns)
    return Reason.NONE.value


@kernel()
def _take_order_report(state: np.record, record: np.record) -> int:
    """Apply a report about one order that is no fill. Returns Reason.NONE or why it was refused."""
    kind = record.kind
    if kind == ReportKind.ACCEPTED:
        event = OrderEvent.ACCEPTED.value
    elif kind == ReportKind.CANCELLED:
        event = OrderEvent.CANCELLED.value
    elif kind == ReportKind.EXPIRED:
        event = OrderEvent.EXPIRED.value
    elif kind == ReportKind.REJECTED:
        event = OrderEvent.REJECTED.value
    elif kind == ReportKind.DENIED:
        event = OrderEvent.DENIED.value
    elif kind == ReportKind.UNKNOWN:
        event = OrderEvent.UNKNOWN.value
    elif kind == ReportKind.CANCEL_REJECTED:
        event = OrderEvent.CANCEL_REJECTED.value
    elif kind == ReportKind.NOT_FOUND:
        event = OrderEvent.NOT_FOUND.value
    else:
        return Reason.UNKNOWN_STREAM.value
    table = state.orders
    slot = find_order(table, record.order_id)
    if slot < 0:
        state.orphan_reports += 1
        return Reason.NONE.value
    order = table.slots[slot]
    if event == OrderEvent.NOT_FOUND:
        before = order.status
        apply_not_found(table, order, state.now_ns, record.aux)
        if order.status != before:
            state.rejected_by[Reason.UNKNOWN_ORDER] += 1
        return Reason.NONE.value
    if (event == OrderEvent.REJECTED or event == OrderEvent.DENIED) and order.acknowledged == 1:
        event = OrderEvent.CANCEL_REFUSED.value
    if event <= OrderEvent.EXPIRED:
        acknowledge(table, order, record.venue_order_id, record.cumulative_size)
    before = order.status
    apply_event(table, order, event, state.now_ns)
    if order.status != before:
        reason = record.reason if record.reason < REASON_COUNT else 0
        if order.status == OrderStatus.DENIED:
            state.denied[reason] += 1
        elif order.status == OrderStatus.REJECTED:
            state.rejected_by[reason] += 1
    return Reason.NONE.value


@kernel()
def _take_reconcile_end(state: np.record, whole: bool) -> None:
    """Adopt or compare the answer that ends here, when it is whole."""
    reconcile = state.reconcile
    end_answer(reconcile, whole)
    if not whole:
        reconcile.next_ns = min(reconcile.next_ns, state.now_ns + reconcile.confirm_ns)
        return
    if state.opened == 0 and reconcile.opening_wanted == 1:
        if adopt_opening(reconcile, state.ledger, state.views):
            state.opened = 1
            reconcile.next_ns = state.now_ns + reconcile.every_ns
        return
    held = reconcile.holding
    compare(reconcile, state.ledger, state.orders, state.now_ns)
    if reconcile.holding == 1 and held == 0:
        withdraw_all(state)


@kernel()
def _take_payment_report(state: np.record, record: np.record) -> int:
    """Book a FUNDING or ADJUSTMENT report. Returns Reason.NONE or why it was refused."""
    if record.trade_id <= 0:
        return Reason.BAD_NUMBER.value
    take_payment(state.ledger, record.trade_id, record.aux, record.kind == ReportKind.FUNDING)
    return Reason.NONE.value


@kernel()
def handle_report(state: np.record, record: np.record) -> int:
    """Apply one REPORT record. Returns Reason.NONE or why it was quarantined."""
    kind = record.kind
    if kind == ReportKind.FILL:
        return int(_take_fill_report(state, record))
    if kind == ReportKind.RECONCILE_END:
        _take_reconcile_end(state, record.aux == 1)
        return Reason.NONE.value
    if kind == ReportKind.CAUGHT_UP:
        state.reconcile.next_ns = min(state.reconcile.next_ns, state.now_ns)
        return Reason.NONE.value
    if kind == ReportKind.FUNDING or kind == ReportKind.ADJUSTMENT:
        return int(_take_payment_report(state, record))
    if kind == ReportKind.POSITION:
        if record.instrument >= MAX_INSTRUMENTS or state.views[record.instrument].known == 0:
            return Reason.NO_INSTRUMENT.value
    if kind >= ReportKind.BALANCE and kind <= ReportKind.FEES:
        take_answer(state.reconcile, record)
        return Reason.NONE.value
    return int(_take_order_report(state, record))
