"""The order table: what we sent, where each order stands, what it may still cost, and when to act on it.

Purpose: one fixed table that owns order ids, states, exposures and timers.
Layout: ORDER_SLOTS slots, an order lives in slot order_id modulo ORDER_SLOTS. Ids rise from 1 and are never used
again; an id whose slot is still needed is skipped. A slot is free when its order is terminal and owes no fills,
so an order stays readable for about ORDER_SLOTS orders after its end.
Exposure of an order: what may still be bought or sold by it. Open and UNKNOWN orders: size - filled; terminal
ones: what the venue counts as executed beyond the fills that arrived. Sums by instrument and side are kept here.
Timers: one an order; what it means follows from the state. PENDING_*: no answer in time, becomes UNKNOWN.
UNKNOWN, or terminal and owed fills: ask the venue, wait twice as long each time. Open with `cancel_wanted`: send
the cancel.
Invariants: sum(status_count[1:]) == orders ever made; open_size == sum of exposures by side; `next_timer_ns` is
never later than the earliest timer.
Cost: O(1) a report; a timer that is due, or may be, scans the table (about 1 us).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from engine.execution.order_states import FIRST_TERMINAL, ILLEGAL, STATUS_COUNT, TRANSITIONS, OrderEvent, OrderStatus
from engine.execution.settings import ExecutionSettings
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.units import INT64_MAX

ORDER_SLOTS = 1024  # a power of two
SLOT_MASK = ORDER_SLOTS - 1
NEVER = INT64_MAX

ORDER_SLOT = np.dtype(
    [
        ("order_id", "<i8"),
        ("venue_order_id", "<i8"),  # 0 until known
        ("price", "<i8"),
        ("size", "<i8"),
        ("filled", "<i8"),  # sum of the fills that arrived
        ("cumulative", "<i8"),  # largest executed size that the venue has stated
        ("exposure", "<i8"),  # as counted in open_size
        ("created_ns", "<i8"),
        ("timer_ns", "<i8"),  # 0: none
        ("wait_ns", "<i8"),  # of the next query
        ("reference", "<i8"),  # bid + ask when it was decided, price units
        ("not_found_ns", "<i8"),  # when the question was asked that was first answered "not found", 0 none
        ("instrument", "<u2"),
        ("strategy", "u1"),
        ("side", "i1"),
        ("status", "u1"),  # OrderStatus
        ("order_type", "u1"),
        ("time_in_force", "u1"),
        ("cancel_wanted", "u1"),
        ("acknowledged", "u1"),  # the venue has shown that it knows the order
        ("ever_partial", "u1"),
        ("ever_unknown", "u1"),
        ("reduce_only", "u1"),
    ],
    align=True,
)

ORDER_TABLE = np.dtype(
    [
        ("next_order_id", "<i8"),
        ("next_timer_ns", "<i8"),
        ("acked", "<i8"),  # orders that the venue acknowledged
        ("partially_filled", "<i8"),  # orders that had a fill which left something
        ("unknown", "<i8"),  # orders that were ever UNKNOWN
        ("changes", "<i8"),  # of any order's state, new orders included
        ("illegal_transitions", "<i8"),
        ("cumulative_mismatches", "<i8"),  # fills beyond what the venue counts, or beyond the order's size
        ("answer_timeout_ns", "<i8"),
        ("query_after_ns", "<i8"),
        ("query_backoff_max_ns", "<i8"),
        ("not_found_gap_ns", "<i8"),
        ("order_lifetime_ns", "<i8"),
        ("cancel_retry_ns", "<i8"),
        ("max_open_orders", "<i8"),
        ("status_count", "<i8", (STATUS_COUNT,)),  # orders by their present status
        ("open_size", "<i8", (MAX_INSTRUMENTS, 2)),  # sum of exposures: buying, selling
        ("slots", ORDER_SLOT, (ORDER_SLOTS,)),
    ],
    align=True,
)


class Due(IntEnum):
    """What a timer that fired asks for."""

    NOTHING = 0
    CANCEL = 1
    QUERY = 2


def fill_order_table(table: np.record, settings: ExecutionSettings) -> None:
    """Write settings into an empty ORDER_TABLE record."""
    for name in (
        "answer_timeout", "query_after", "query_backoff_max", "not_found_gap", "order_lifetime", "cancel_retry",
    ):
        table[f"{name}_ns"] = int(getattr(settings, f"{name}_ms") * 1_000_000)
    table["max_open_orders"] = min(int(settings.max_open_orders), ORDER_SLOTS // 2)
    table["next_order_id"] = 1
    table["next_timer_ns"] = NEVER


@kernel()
def side_index(side: int) -> int:
    """0 for the buying side, 1 for the selling side."""
    return 0 if side > 0 else 1


@kernel()
def open_order_count(table: np.record) -> int:
    """Orders that rest or may rest at the venue, UNKNOWN ones included."""
    count = 0
    for status in range(OrderStatus.PENDING_NEW.value, FIRST_TERMINAL):
        count += table.status_count[status]
    return count


@kernel()
def find_order(table: np.record, order_id: int) -> int:
    """Slot index of an order, or -1 when the table does not hold it."""
    slot = order_id & SLOT_MASK
    if order_id <= 0 or table.slots[slot].order_id != order_id:
        return -1
    return slot


@kernel()
def arm(table: np.record, order: np.record, deadline_ns: int) -> None:
    """Set the timer of an order."""
    order.timer_ns = deadline_ns
    table.next_timer_ns = min(table.next_timer_ns, deadline_ns)


@kernel()
def refresh_exposure(table: np.record, order: np.record) -> None:
    """Count the order at what it may still execute."""
    if order.status >= FIRST_TERMINAL:
        exposure = max(order.cumulative - order.filled, 0)
    else:
        exposure = max(order.size - order.filled, 0)
    table.open_size[order.instrument, side_index(order.side)] += exposure - order.exposure
    order.exposure = exposure


@kernel()
def new_order(
    table: np.record,
    now_ns: int,
    strategy: int,
    instrument: int,
    side: int,
    price: int,
    size: int,
    order_type: int,
    time_in_force: int,
) -> int:
    """Open an order in state PENDING_NEW. Returns its slot, or -1 when too many are open."""
    if open_order_count(table) >= table.max_open_orders:
        return -1
    for _ in range(ORDER_SLOTS):
        slot = table.next_order_id & SLOT_MASK
        order = table.slots[slot]
        free = order.status == OrderStatus.EMPTY or (order.status >= FIRST_TERMINAL and order.exposure == 0)
        order_id = table.next_order_id
        table.next_order_id += 1
        if not free:
            continue
        order.order_id = order_id
        order.venue_order_id = 0
        order.price = price
        order.size = size
        order.filled = 0
        order.cumulative = 0
        order.created_ns = now_ns
        order.wait_ns = 0
        order.not_found_ns = 0
        order.instrument = instrument
        order.strategy = strategy
        order.side = side
        order.status = OrderStatus.PENDING_NEW
        order.order_type = order_type
        order.time_in_force = time_in_force
        order.cancel_wanted = 0
        order.acknowledged = 0
        order.ever_partial = 0
        order.ever_unknown = 0
        order.reduce_only = 0
        order.reference = 0
        table.status_count[OrderStatus.PENDING_NEW] += 1
        table.changes += 1
        refresh_exposure(table, order)
        arm(table, order, now_ns + table.answer_timeout_ns)
        return slot
    return -1


@kernel()
def _set_timer(table: np.record, order: np.record, old: int, now_ns: int) -> None:
    """Give the order the timer of the state that it came to from `old`."""
    status = order.status
    if status >= FIRST_TERMINAL:
        if order.exposure == 0:
            order.timer_ns = 0
        elif old < FIRST_TERMINAL or order.timer_ns == 0:
            order.wait_ns = table.query_after_ns
            arm(table, order, now_ns + table.query_after_ns)
    elif status == OrderStatus.UNKNOWN:
        if old != OrderStatus.UNKNOWN:
            order.not_found_ns = 0
            order.wait_ns = table.query_after_ns
            arm(table, order, now_ns + table.query_after_ns)
    elif status == OrderStatus.PENDING_CANCEL:
        if old != OrderStatus.PENDING_CANCEL:
            arm(table, order, now_ns + table.answer_timeout_ns)
    elif status != OrderStatus.PENDING_NEW and old != OrderStatus.LIVE and old != OrderStatus.PARTIALLY_FILLED:
        order.timer_ns = 0
        if order.cancel_wanted != 0:
            refused = old == OrderStatus.PENDING_CANCEL
            arm(table, order, now_ns + (table.cancel_retry_ns if refused else 0))


@kernel()
def apply_event(table: np.record, order: np.record, event: int, now_ns: int) -> bool:
    """Move an order by an event. Returns False, and counts, when the table of states does not allow it."""
    old = int(order.status)
    target = int(TRANSITIONS[old, event])
    legal = target != ILLEGAL
    if legal:
        if target == OrderStatus.LIVE and order.filled > 0:
            target = OrderStatus.PARTIALLY_FILLED.value
        if target != old:
            table.status_count[old] -= 1
            table.status_count[target] += 1
            order.status = target
            table.changes += 1
        if target == OrderStatus.UNKNOWN and order.ever_unknown == 0:
            order.ever_unknown = 1
            table.unknown += 1
    else:
        table.illegal_transitions += 1
    refresh_exposure(table, order)
    _set_timer(table, order, old, now_ns)
    return legal


@kernel()
def acknowledge(table: np.record, order: np.record, venue_order_id: int, cumulative_size: int) -> None:
    """Note that the venue knows the order, by which id, and how much of it it counts as executed."""
    if order.acknowledged == 0:
        order.acknowledged = 1
        table.acked += 1
    if venue_order_id > 0:
        order.venue_order_id = venue_order_id
    order.cumulative = max(order.cumulative, cumulative_size)


@kernel()
def apply_fill(table: np.record, order: np.record, size: int, now_ns: int) -> None:
    """Count a fill that was not seen before; `acknowledge` has taken its cumulative size already."""
    filled = order.filled + size
    order.filled = filled
    if filled > order.size or (order.cumulative > 0 and filled > order.cumulative):
        table.cumulative_mismatches += 1
    if filled >= order.size:
        apply_event(table, order, OrderEvent.FULL_FILL.value, now_ns)
        return
    if order.ever_partial == 0:
        order.ever_partial = 1
        table.partially_filled += 1
    apply_event(table, order, OrderEvent.PARTIAL_FILL.value, now_ns)


@kernel()
def apply_not_found(table: np.record, order: np.record, now_ns: int, asked_ns: int) -> bool:
    """Take an answer "not found" to a question asked at `asked_ns` (0: not known).

    A request can lie somewhere and take effect as long as its signature is valid, so only questions asked after the
    order's lifetime count. The second one, far enough after the first, ends an UNKNOWN order: what a venue shows can
    lag behind what it has taken. The next question is asked as soon as it can count.
    """
    if order.status == OrderStatus.UNKNOWN:
        dead_ns = order.created_ns + table.order_lifetime_ns
        if asked_ns < dead_ns:
            next_ns = max(dead_ns, now_ns)
        elif order.not_found_ns == 0:
            order.not_found_ns = asked_ns
            next_ns = now_ns + table.not_found_gap_ns
        elif asked_ns - order.not_found_ns >= table.not_found_gap_ns:
            return bool(apply_event(table, order, OrderEvent.GONE.value, now_ns))
        else:
            next_ns = max(order.not_found_ns + table.not_found_gap_ns, now_ns)
        if order.timer_ns == 0 or next_ns < order.timer_ns:
            arm(table, order, next_ns)
    return bool(apply_event(table, order, OrderEvent.NOT_FOUND.value, now_ns))


@kernel()
def want_cancel(table: np.record, order: np.record, now_ns: int) -> None:
    """Have the order cancelled as soon as its state allows, by its timer."""
    if order.status >= FIRST_TERMINAL or order.cancel_wanted != 0:
        return
    order.cancel_wanted = 1
    if order.status == OrderStatus.LIVE or order.status == OrderStatus.PARTIALLY_FILLED:
        arm(table, order, now_ns)


@kernel()
def next_due(table: np.record, now_ns: int) -> int:
    """Slot of the order whose timer is due first, in (deadline, id) order; -1 when none is due."""
    if table.next_timer_ns > now_ns:
        return -1
    best = -1
    best_ns = NEVER
    best_id = NEVER
    for slot in range(ORDER_SLOTS):
        timer_ns = table.slots[slot].timer_ns
        if timer_ns > 0 and timer_ns <= best_ns:
            order_id = table.slots[slot].order_id
            if timer_ns < best_ns or order_id < best_id:
                best = slot
                best_ns = timer_ns
                best_id = order_id
    table.next_timer_ns = best_ns
    return best if best_ns <= now_ns else -1


@kernel()
def fire(table: np.record, order: np.record, now_ns: int) -> int:
    """Take a due timer. Returns what is to be sent for the order (Due)."""
    order.timer_ns = 0
    status = order.status
    if status == OrderStatus.PENDING_NEW or status == OrderStatus.PENDING_CANCEL:
        apply_event(table, order, OrderEvent.UNKNOWN.value, now_ns)
        return Due.NOTHING.value
    if status == OrderStatus.LIVE or status == OrderStatus.PARTIALLY_FILLED:
        return Due.CANCEL.value if order.cancel_wanted != 0 else Due.NOTHING.value
    if status != OrderStatus.UNKNOWN and order.exposure == 0:
        return Due.NOTHING.value
    wait_ns = min(2 * order.wait_ns, table.query_backoff_max_ns)
    order.wait_ns = wait_ns
    arm(table, order, now_ns + wait_ns)
    return Due.QUERY.value
