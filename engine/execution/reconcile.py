"""Reconciliation: the venue's answer becomes the opening state, or is compared with the ledger.

Purpose: start from what the venue says, and find out when ledger and venue drift apart.
An answer is BALANCE, POSITION for each instrument that has one, OPEN_ORDERS and FEES in any order, then
RECONCILE_END; what is not mentioned is zero. It counts when RECONCILE_END says that it is whole.
Opening (the request carried aux = 1, nothing was opened before): balance and positions are adopted, the venue's
sum of fees is taken as zero point. It is refused while orders rest at the venue (nobody here knows them), when the
balance is missing, or when a position has no entry price; trading then stays shut.
Comparison (every other answer): balance, each position, number of resting orders, fees since opening. Each must be
equal; resting orders must lie between those surely and those possibly resting. What differed is kept: ours and the
venue's.
Asking: every `every_ns` of record time, at once when the private stream is back, `confirm_ns` after an answer that was
not whole or differed, and twice as late after each further one that differs.
Believing: an answer taken while fills are under way may differ for a moment, so a difference counts when it is
confirmed: the second answer in a row that differs, if it was taken while nothing was under way, or if it differs by the
same amounts and nothing moved between the two; or the MOST_SUSPICIONS-th in a row. It then holds all entries back
(`holding`) until an answer agrees; exposure is never made up from it, the ledger books fills alone.
Invariants: `done` counts whole answers, `failed` the others; `mismatch` tells of the last whole one.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from engine.execution.ledger import open_position
from engine.execution.order_states import OrderStatus
from engine.execution.orders import open_order_count
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.records import ReportKind
from engine.risk.gate import value_or_max

# aux of a request: what it is for.
RECONCILE_OPENING = 1  # adopt the answer
RECONCILE_DEEPLY = 2  # the last answer differed: look also where a look is dear
MOST_SUSPICIONS = 4
LOST_AFTER = 3  # an answer that has not come after so many intervals is waited for no longer


class Mismatch(IntFlag):
    """What an answer did not agree on, or why an opening was refused."""

    NONE = 0
    BALANCE = 1
    POSITION = 2
    OPEN_ORDERS = 4
    FEES = 8


RECONCILE = np.dtype(
    [
        ("done", "<i8"),  # whole answers taken: rises by one when a reconciliation is finished
        ("failed", "<i8"),  # answers that were not whole
        ("compared", "<i8"),  # whole answers that were compared
        ("mismatches", "<i8"),  # compared answers that differed in anything
        ("mismatch", "<i8"),  # Mismatch of the last whole answer
        ("opening_wanted", "<i8"),  # aux of the last request
        ("fees_at_opening", "<i8"),  # the venue's sum, 1e-8 quote
        ("our_balance", "<i8"),  # of the last comparison
        ("our_fees", "<i8"),
        ("our_open_orders", "<i8"),
        ("our_position", "<i8", (MAX_INSTRUMENTS,)),
        ("balance", "<i8"),  # of the answer being taken, or taken last
        ("fees", "<i8"),
        ("open_orders", "<i8"),
        ("every_ns", "<i8"),
        ("confirm_ns", "<i8"),
        ("next_ns", "<i8"),  # when to ask again
        ("asked_ns", "<i8"),  # when the answer was asked for that has not come; 0: none is owed
        ("changes_asked", "<i8"),  # changes of orders and ledger when it was asked for
        ("changes_ended", "<i8"),  # ... and when the last answer ended
        ("suspicions", "<i8"),  # answers in a row that differed
        ("confirmed", "<i8"),  # differences that were confirmed
        ("holding", "<i8"),  # 1: one is, and no answer has agreed since
        ("differences", "<i8", (3 + MAX_INSTRUMENTS,)),  # venue's less ours: balance, fees, orders, positions
        ("newest_trade", "<i8", (MAX_INSTRUMENTS,)),  # of the answer
        ("opened_after", "<i8", (MAX_INSTRUMENTS,)),  # newest trade at the opening: later ones are of this session
        ("paid_up_to_ns", "<i8"),  # of the answer: venue time of the newest payment that its balance has
        ("paid_after_ns", "<i8"),  # of the opening: later payments are of this session
        ("position", "<i8", (MAX_INSTRUMENTS,)),
        ("entry_price", "<i8", (MAX_INSTRUMENTS,)),
        ("cost", "<i8", (MAX_INSTRUMENTS,)),  # 1e-8 quote, 0: the venue did not say
        ("balance_seen", "u1"),
        ("collecting", "u1"),  # 1: inside an answer
    ],
    align=True,
)


@kernel()
def start_answer(reconcile: np.record) -> None:
    """Forget the answer before: the next one starts from nothing."""
    reconcile.collecting = 1
    reconcile.balance = 0
    reconcile.balance_seen = 0
    reconcile.fees = 0
    reconcile.open_orders = 0
    for i in range(MAX_INSTRUMENTS):
        reconcile.position[i] = 0
        reconcile.entry_price[i] = 0
        reconcile.cost[i] = 0
        reconcile.newest_trade[i] = 0


@kernel()
def take_answer(reconcile: np.record, record: np.record) -> None:
    """Take one BALANCE, POSITION, OPEN_ORDERS or FEES report; its instrument was checked."""
    if reconcile.collecting == 0:
        start_answer(reconcile)
    kind = record.kind
    if kind == ReportKind.BALANCE:
        reconcile.balance = record.aux
        reconcile.paid_up_to_ns = record.exch_ts_ns
        reconcile.balance_seen = 1
    elif kind == ReportKind.POSITION:
        reconcile.position[record.instrument] = record.size
        reconcile.entry_price[record.instrument] = record.price
        reconcile.cost[record.instrument] = record.aux
        reconcile.newest_trade[record.instrument] = record.trade_id
    elif kind == ReportKind.OPEN_ORDERS:
        reconcile.open_orders = record.aux
    elif kind == ReportKind.FEES:
        reconcile.fees = record.aux


@kernel()
def end_answer(reconcile: np.record, whole: bool) -> None:
    """Close the answer and count it."""
    if reconcile.collecting == 0:
        start_answer(reconcile)
    reconcile.collecting = 0
    reconcile.asked_ns = 0
    if whole:
        reconcile.done += 1
    else:
        reconcile.failed += 1


@kernel()
def adopt_opening(reconcile: np.record, ledger: np.record, views: np.ndarray) -> bool:
    """Make the answer the opening state. Returns False, with `mismatch` set, when it cannot be."""
    mismatch = 0
    if reconcile.balance_seen == 0:
        mismatch |= Mismatch.BALANCE.value
    if reconcile.open_orders != 0:
        mismatch |= Mismatch.OPEN_ORDERS.value
    for i in range(MAX_INSTRUMENTS):
        if reconcile.position[i] != 0 and reconcile.entry_price[i] <= 0 and reconcile.cost[i] <= 0:
            mismatch |= Mismatch.POSITION.value
    reconcile.mismatch = mismatch
    if mismatch != 0:
        return False
    ledger.opening_balance = reconcile.balance
    ledger.balance = reconcile.balance
    ledger.realised = 0
    ledger.fees = 0
    reconcile.fees_at_opening = reconcile.fees
    reconcile.paid_after_ns = reconcile.paid_up_to_ns
    for i in range(MAX_INSTRUMENTS):
        reconcile.opened_after[i] = reconcile.newest_trade[i]
        size = reconcile.position[i]
        # A printed entry price is rounded; what the position cost is exact where the venue's answer tells it.
        cost = reconcile.cost[i]
        if cost <= 0:
            cost = value_or_max(reconcile.entry_price[i], abs(size), views[i].unit_exp)
        open_position(ledger, i, size, cost)
    return True


@kernel()
def changes(ledger: np.record, table: np.record) -> int:
    """Rises with everything that an answer is compared with."""
    return int(table.changes + ledger.fills + ledger.payments)


@kernel()
def is_due(reconcile: np.record, now_ns: int) -> bool:
    """True when it is time to ask. An answer that is owed is waited for, within reason."""
    if reconcile.every_ns <= 0 or now_ns < reconcile.next_ns:
        return False
    return bool(reconcile.asked_ns == 0 or now_ns - reconcile.asked_ns >= LOST_AFTER * reconcile.every_ns)


@kernel()
def note_question(reconcile: np.record, ledger: np.record, table: np.record, now_ns: int) -> None:
    """The venue is being asked."""
    reconcile.asked_ns = now_ns
    reconcile.next_ns = now_ns + reconcile.every_ns
    reconcile.changes_asked = changes(ledger, table)


@kernel()
def _note_difference(reconcile: np.record, place: int, difference: int) -> bool:
    """Keep a difference. Returns True when it is that of the answer before."""
    same = reconcile.differences[place] == difference
    reconcile.differences[place] = difference
    return bool(same)


@kernel()
def _judge(reconcile: np.record, table: np.record, same: bool, changes_now: int, now_ns: int) -> None:
    """Decide what an answer's mismatch means for entries, and when to ask again."""
    if reconcile.mismatch == 0:
        reconcile.suspicions = 0
        reconcile.holding = 0
    else:
        in_transit = (
            table.status_count[OrderStatus.PENDING_NEW] + table.status_count[OrderStatus.PENDING_CANCEL]
            + table.status_count[OrderStatus.UNKNOWN]
        )
        at_rest = in_transit == 0 and changes_now == reconcile.changes_asked
        unmoved = same and changes_now == reconcile.changes_ended
        suspicions = reconcile.suspicions + 1
        reconcile.suspicions = suspicions
        confirmed = suspicions >= MOST_SUSPICIONS or (suspicions >= 2 and (at_rest or unmoved))
        if confirmed and reconcile.holding == 0:
            reconcile.holding = 1
            reconcile.confirmed += 1
        wait_ns = reconcile.confirm_ns * 2 ** min(suspicions - 1, 20)  # an answer costs much of the rate budget
        reconcile.next_ns = now_ns + min(wait_ns, reconcile.every_ns)
    reconcile.changes_ended = changes_now


@kernel()
def compare(reconcile: np.record, ledger: np.record, table: np.record, now_ns: int) -> None:
    """Compare the answer with ledger and order table, keep what differed, and judge it."""
    mismatch = 0
    same = _note_difference(reconcile, 0, reconcile.balance - ledger.balance)
    same = _note_difference(reconcile, 1, reconcile.fees - reconcile.fees_at_opening - ledger.fees) and same
    same = _note_difference(reconcile, 2, reconcile.open_orders - open_order_count(table)) and same
    for i in range(MAX_INSTRUMENTS):
        same = _note_difference(reconcile, 3 + i, reconcile.position[i] - ledger.positions[i].size) and same
    reconcile.our_balance = ledger.balance
    reconcile.our_fees = ledger.fees
    reconcile.our_open_orders = open_order_count(table)
    if reconcile.balance_seen == 0 or reconcile.balance != ledger.balance:
        mismatch |= Mismatch.BALANCE.value
    if reconcile.fees - reconcile.fees_at_opening != ledger.fees:
        mismatch |= Mismatch.FEES.value
    surely = table.status_count[OrderStatus.LIVE] + table.status_count[OrderStatus.PARTIALLY_FILLED]
    if reconcile.open_orders < surely or reconcile.open_orders > reconcile.our_open_orders:
        mismatch |= Mismatch.OPEN_ORDERS.value
    for i in range(MAX_INSTRUMENTS):
        reconcile.our_position[i] = ledger.positions[i].size
        if reconcile.position[i] != ledger.positions[i].size:
            mismatch |= Mismatch.POSITION.value
    reconcile.mismatch = mismatch
    reconcile.compared += 1
    if mismatch != 0:
        reconcile.mismatches += 1
    _judge(reconcile, table, same, changes(ledger, table), now_ns)
