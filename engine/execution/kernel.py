"""The execution stage: one merged sequence of predictions, reports and commands in, order records out.

Purpose: dispatch each record to views, strategies, order table, ledger and reconciliation, and keep the clock.
Clock: now_ns is the largest receive time of any input. Timers due at the time of a record fire before it is
handled, in (deadline, id) order; those that its handling makes due fire right after it. A record pays for at most
TIMER_BUDGET timers; what is left over fires with the records that follow.
Rules: TRIP carries the emergency word. While it is not 0 the stage is shut: nothing but questions is emitted, until a
TRIP says that the word was reset. The mode, told by MODE, is another matter and stays: where it changes all quotes are
taken back, and in REDUCE positions go down by schedule (engine/execution/reducing.py). QUIESCE ends entries and
cancels everything; `quiescent` says when nothing is open, unknown or owed. STALE takes back all quotes until each book
is valid again. BACKLOG says how full the rings beside this stage are: half full, new orders are denied; nearly full,
quotes are taken back. READINESS names the processes that are missing: quotes are taken back, nothing is entered until
none is.
BOOK_INVALID, GAP and a halt take back the quotes of their instrument, and so does, at the next CLOCK, a book that
grew older than the gate's limit. Strategies run on the PREDICTIONs of instruments whose quotes may stand, and at CLOCK
on all of those; PARAMETER changes one of their parameters.
TARGET says what a strategy in a process of its own wants (engine/strategies/relay.py); it does not move the clock.
ABSENT says that such a process has ended: its quotes are taken back.
Reconciliation has a timer of its own, which fires after those of the orders (engine/execution/reconcile.py).
Output bound: MAX_OUT records an input record: TIMER_BUDGET timers, one reconciliation, and 2 a strategy on a
prediction, CLOCK_RECORDS on a CLOCK, or 1 on a RECONCILE.
Invariants: records_in = processed + sum(quarantined); output and state depend on the order of records alone.
Cost, measured on one core of a shared 2-core virtual machine: a prediction that leaves the quotes alone 0.25 to
0.45 us, 0.4 us for each order record written, a fill 0.12 us, a CLOCK 0.13 us; one call from Python 1.5 us more.
"""

from __future__ import annotations

import numpy as np

from engine.execution.intents import send_cancel, send_query, send_reconcile
from engine.execution.order_states import FIRST_TERMINAL, OrderStatus
from engine.execution.orders import ORDER_SLOTS, Due, fire, next_due, open_order_count, want_cancel
from engine.execution.quoting import (
    CLOCK_RECORDS,
    may_quote,
    quote_instrument,
    run_at_clock,
    run_one,
    withdraw,
    withdraw_all,
    withdraw_one,
)
from engine.execution.reconcile import RECONCILE_DEEPLY, is_due
from engine.execution.reducing import begin_reducing, may_reduce, reduce_instrument
from engine.execution.reports import handle_report
from engine.execution.state import EXECUTION_STATE
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import (
    MARKET,
    ORDER,
    PREDICTION,
    REPORT,
    SOURCE_COMMANDS,
    SOURCE_FILLS,
    SOURCE_MAIN,
    SOURCE_TARGETS,
    TARGET,
    TARGET_SOURCES,
    Kind,
)
from engine.risk.market_view import apply_control, apply_prediction, book_is_fresh
from engine.safety.mode import Mode
from engine.stage import STEP_SIGNATURE, Stage
from engine.strategies.relay import forget_target, take_target
from engine.strategies.settings import MAX_STRATEGIES

TIMER_BUDGET = 12
_ORDER_BYTES = ORDER.itemsize
_PREDICTION_BYTES = PREDICTION.itemsize
_REPORT_BYTES = REPORT.itemsize
_MARKET_BYTES = MARKET.itemsize
_TARGET_BYTES = TARGET.itemsize
MAX_OUT = TIMER_BUDGET + max(2 * MAX_STRATEGIES, CLOCK_RECORDS) + 2


@kernel()
def _fire_timers(state: np.record, outbox: np.ndarray, routes: np.ndarray, budget: int) -> int:
    """Fire what is due, at most `budget` timers. Returns what is left of the budget."""
    table = state.orders
    while budget > 0:
        slot = next_due(table, state.now_ns)
        if slot < 0:
            break
        budget -= 1
        due = fire(table, table.slots[slot], state.now_ns)
        if due == Due.CANCEL:
            send_cancel(state, outbox, routes, slot)
        elif due == Due.QUERY:
            send_query(state, outbox, routes, slot)
    return budget


@kernel()
def _advance(state: np.record, outbox: np.ndarray, routes: np.ndarray, recv_ts_ns: int) -> int:
    """Count a record, move the clock to it, fire what became due. Returns what is left of the timer budget."""
    state.records_in += 1
    state.now_ns = max(state.now_ns, recv_ts_ns)
    budget = int(_fire_timers(state, outbox, routes, TIMER_BUDGET))
    if state.opened == 1 and state.open_loop == 0 and state.quiescing == 0 and is_due(state.reconcile, state.now_ns):
        send_reconcile(state, outbox, routes, RECONCILE_DEEPLY if state.reconcile.suspicions > 0 else 0, 0)
    return budget


@kernel()
def _close(state: np.record, outbox: np.ndarray, routes: np.ndarray, reason: int, budget: int) -> None:
    """Account for a handled record and fire what it made due."""
    if reason == Reason.NONE:
        state.processed += 1
    else:
        state.quarantined[reason] += 1
    _fire_timers(state, outbox, routes, budget)
    if state.quiescing == 1:
        owed = 0
        for instrument in range(MAX_INSTRUMENTS):
            owed += state.orders.open_size[instrument, 0] + state.orders.open_size[instrument, 1]
        state.quiescent = 1 if owed == 0 and open_order_count(state.orders) == 0 else 0


@kernel()
def _handle_market(state: np.record, outbox: np.ndarray, routes: np.ndarray, record: np.record) -> int:
    """Apply one record of the market chain. Returns Reason.NONE or why it was quarantined."""
    if record.ingest_id > 0:
        state.last_ingest_id = record.ingest_id
    kind = record.kind
    if kind == Kind.CLOCK:
        for i in range(MAX_INSTRUMENTS):
            view = state.views[i]
            if view.book_valid == 1 and not book_is_fresh(view, state.now_ns, state.gate.max_data_age_ns):
                withdraw(state, i)
        run_at_clock(state, outbox, routes)
        return Reason.NONE.value
    instrument = record.instrument
    if instrument >= MAX_INSTRUMENTS or state.views[instrument].known == 0:
        return Reason.NO_INSTRUMENT.value
    view = state.views[instrument]
    if kind != Kind.PREDICTION:
        reason = int(apply_control(view, record))
        if view.book_valid == 0 or view.trading == 0:
            withdraw(state, instrument)
        return reason
    apply_prediction(view, record)
    if state.tripped == 1:
        return Reason.NONE.value
    if may_quote(state, instrument):
        quote_instrument(state, outbox, routes, instrument)
    elif may_reduce(state, instrument):
        reduce_instrument(state, outbox, routes, instrument)
    else:
        withdraw(state, instrument)
    return Reason.NONE.value


@kernel()
def _quiesce(state: np.record) -> None:
    """End entries and have every open order cancelled."""
    state.quiescing = 1
    withdraw_all(state)
    for slot in range(ORDER_SLOTS):
        order = state.orders.slots[slot]
        if order.status != OrderStatus.EMPTY and order.status < FIRST_TERMINAL:
            want_cancel(state.orders, order, state.now_ns)


@kernel()
def _take_up_again(state: np.record) -> None:
    """The emergency word was reset: begin with no quote, and cancel whatever is left; no cancel was sent meanwhile."""
    withdraw_all(state)
    for slot in range(ORDER_SLOTS):
        order = state.orders.slots[slot]
        if order.status != OrderStatus.EMPTY and order.status < FIRST_TERMINAL:
            order.cancel_wanted = 0
            want_cancel(state.orders, order, state.now_ns)


@kernel()
def _change_parameter(state: np.record, record: np.record) -> int:
    """Give a strategy another value of a parameter; whoever sent it has checked its bounds. Returns a Reason."""
    strategies = state.strategies
    strategy = record.instrument
    number = record.size
    if strategy >= strategies.count or number < 0 or number >= strategies.parameter_counts[strategy]:
        return Reason.BAD_NUMBER.value
    strategies.parameters[strategy, number] = record.aux
    return Reason.NONE.value


@kernel()
def _forget_process(state: np.record, record: np.record) -> int:
    """The process of a strategy has ended: what it wanted is taken back. Returns a Reason."""
    strategies = state.strategies
    strategy = record.instrument
    if strategy >= strategies.count or strategies.apart[strategy] == 0:
        return Reason.BAD_NUMBER.value
    for instrument in range(MAX_INSTRUMENTS):
        forget_target(strategies.memory[strategy, instrument], record.aux)
        if state.views[instrument].known == 1:
            withdraw_one(state, strategy, instrument)
    return Reason.NONE.value


@kernel()
def _handle_target(state: np.record, outbox: np.ndarray, routes: np.ndarray, record: np.record, apart: int) -> int:
    """Take what a strategy in a process of its own wants. apart: which of them the record came from.

    Returns Reason.NONE or why it was quarantined.
    """
    strategies = state.strategies
    strategy = record.strategy
    instrument = record.instrument
    if record.kind != Kind.TARGET:
        return Reason.UNKNOWN_STREAM.value
    if strategy >= strategies.count or strategies.apart[strategy] != apart:
        return Reason.BAD_NUMBER.value
    if instrument >= MAX_INSTRUMENTS or strategies.trades[strategy, instrument] == 0:
        return Reason.NO_INSTRUMENT.value
    reason = int(take_target(strategies.memory[strategy, instrument], record, state.now_ns))
    if reason == Reason.ENDED_PROCESS:
        return reason
    if reason == Reason.STRATEGY_FAULT:
        strategies.books[strategy, instrument].faults += 1
        state.denied[Reason.STRATEGY_FAULT] += 1
    if may_quote(state, instrument):
        run_one(state, outbox, routes, strategy, instrument, Kind.TARGET.value)
    return Reason.NONE.value


@kernel()
def _handle_command(state: np.record, outbox: np.ndarray, routes: np.ndarray, record: np.record) -> int:
    """Obey one command record. Returns Reason.NONE or why it was quarantined."""
    kind = record.kind
    if kind == Kind.TRIP:
        state.trips += 1
        was_tripped = state.tripped
        state.tripped = 1 if record.aux != 0 else 0
        if was_tripped == 1 and state.tripped == 0:
            _take_up_again(state)
    elif kind == Kind.MODE:
        before = state.mode
        known = record.aux >= Mode.NORMAL and record.aux <= Mode.EMERGENCY
        state.mode = record.aux if known else Mode.EMERGENCY.value
        if state.mode != before:
            if state.mode == Mode.REDUCE:
                begin_reducing(state)
            withdraw_all(state)
    elif kind == Kind.QUIESCE:
        _quiesce(state)
    elif kind == Kind.STALE:
        for i in range(MAX_INSTRUMENTS):
            state.views[i].book_valid = 0
        withdraw_all(state)
    elif kind == Kind.BACKLOG:
        state.backlog = record.aux
        state.backlogs += 1
        if record.aux > 1:
            withdraw_all(state)
    elif kind == Kind.READINESS:
        state.not_ready = record.aux
        if state.not_ready != 0:
            withdraw_all(state)
    elif kind == Kind.PARAMETER:
        return int(_change_parameter(state, record))
    elif kind == Kind.ABSENT:
        return int(_forget_process(state, record))
    elif kind == Kind.RECONCILE:
        state.reconcile.opening_wanted = 1 if record.aux == 1 else 0
        deeply = record.aux == 0 and state.reconcile.suspicions > 0
        send_reconcile(state, outbox, routes, RECONCILE_DEEPLY if deeply else record.aux, record.venue)
    else:
        return Reason.UNKNOWN_STREAM.value
    return Reason.NONE.value


@kernel(STEP_SIGNATURE)
def execution_step(
    state_bytes: np.ndarray, source: int, inbox: np.ndarray, count: int, outbox: np.ndarray, routes: np.ndarray
) -> int:
    """Take a batch of one source. Returns the number of ORDER records written.

    SOURCE_MAIN: PREDICTION records; SOURCE_FILLS: REPORT; SOURCE_COMMANDS: MARKET; from SOURCE_TARGETS on: TARGET.
    Raises ValueError for another source and OverflowError where an amount of the ledger does not fit int64.
    """
    state = state_bytes.view(EXECUTION_STATE)[0]
    orders = outbox[: outbox.size - outbox.size % _ORDER_BYTES].view(ORDER)
    state.written = 0
    if source == SOURCE_MAIN:
        predictions = inbox[: count * _PREDICTION_BYTES].view(PREDICTION)
        for i in range(count):
            budget = _advance(state, orders, routes, predictions[i].recv_ts_ns)
            reason = _handle_market(state, orders, routes, predictions[i])
            _close(state, orders, routes, reason, budget)
    elif source == SOURCE_FILLS:
        reports = inbox[: count * _REPORT_BYTES].view(REPORT)
        for i in range(count):
            budget = _advance(state, orders, routes, reports[i].recv_ts_ns)
            reason = handle_report(state, reports[i])
            _close(state, orders, routes, reason, budget)
    elif source == SOURCE_COMMANDS:
        commands = inbox[: count * _MARKET_BYTES].view(MARKET)
        for i in range(count):
            budget = _advance(state, orders, routes, commands[i].recv_ts_ns)
            reason = _handle_command(state, orders, routes, commands[i])
            _close(state, orders, routes, reason, budget)
    elif source >= SOURCE_TARGETS and source < SOURCE_TARGETS + TARGET_SOURCES:
        targets = inbox[: count * _TARGET_BYTES].view(TARGET)
        for i in range(count):
            budget = _advance(state, orders, routes, 0)
            reason = _handle_target(state, orders, routes, targets[i], source - SOURCE_TARGETS + 1)
            _close(state, orders, routes, reason, budget)
    else:
        raise ValueError("execution_step: no such source")
    written = state.written
    state.out += written
    state.written = 0
    return int(written)


EXECUTION = Stage(
    name="execution",
    step=execution_step,
    state_dtype=EXECUTION_STATE,
    in_dtypes=(PREDICTION, REPORT, MARKET, *(TARGET,) * TARGET_SOURCES),
    out_dtype=ORDER,
    max_out=MAX_OUT,
)
