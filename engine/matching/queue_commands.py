"""What may be asked of a recorded market: new order, amendment, cancel. Kernels beside queues.py.

An order that takes, takes what is displayed and not taken by us yet, best price first, each level at its price; what is
left of it rests behind what is displayed at its price, or expires. Amendments keep their place as in commands.py.
Our orders do not trade with each other: where the next to be taken is an order of the same owner, the order that takes
expires, or the resting one, as the mode says (NONE as EXPIRE_TAKER). Displayed sizes at the same price come behind it.
While the book is not in sequence nothing but a cancel is possible (HALTED). Limit: LOOK_LEVELS levels for one order.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.book.book import book_best
from engine.book.layout import BOOK
from engine.kernel import kernel
from engine.matching.book import ORDER_ID_STEP, put_event
from engine.matching.events import EVENT, EventKind, Refusal, SelfTrade
from engine.matching.queues import (
    OWN_ORDERS,
    QUEUES,
    find_order,
    join,
    look,
    note_taken,
    remove_order,
)
from engine.records import OrderType, TimeInForce
from engine.stage import BYTES

_NO_LIMIT = 2**62  # beyond every price
_MARKET = int(OrderType.MARKET)
_GTC, _FOK, _GTX = int(TimeInForce.GTC), int(TimeInForce.FOK), int(TimeInForce.GTX)
_ACCEPTED, _FILL, _CANCELLED = int(EventKind.ACCEPTED), int(EventKind.FILL), int(EventKind.CANCELLED)
_EXPIRED, _REJECTED, _AMENDED = int(EventKind.EXPIRED), int(EventKind.REJECTED), int(EventKind.AMENDED)
_WOULD_TAKE, _CANNOT_FILL, _BOOK_FULL = int(Refusal.WOULD_TAKE), int(Refusal.CANNOT_FILL), int(Refusal.BOOK_FULL)
_UNKNOWN_ORDER, _BAD_SIZE, _HALTED = int(Refusal.UNKNOWN_ORDER), int(Refusal.BAD_SIZE), int(Refusal.HALTED)
_SELF_TRADE = int(Refusal.SELF_TRADE)
_EXPIRE_MAKER, _EXPIRE_BOTH = int(SelfTrade.EXPIRE_MAKER), int(SelfTrade.EXPIRE_BOTH)


@kernel()
def facing(queues: np.ndarray, owner: int, side: int, limit: int) -> int:
    """Place of the owner's best resting order that an order of this side and limit would meet, or -1."""
    for place in range(queues[0].orders):
        if queues[0].side[place] == -side and queues[0].owner[place] == owner:
            return place if side * queues[0].price[place] <= side * limit else -1
    return -1


@kernel()
def would_take(queues: np.ndarray, books: np.ndarray, owner: int, side: int, limit: int) -> bool:
    """Whether anything stands where an order of this side and limit would take it, be it taken by us already."""
    best, _ = book_best(books, 0, -side)
    return (best != 0 and side * best <= side * limit) or facing(queues, owner, side, limit) >= 0


@kernel()
def takeable(queues: np.ndarray, books: np.ndarray, owner: int, side: int, limit: int) -> int:
    """How much an order could take before it meets one of its owner."""
    mine = facing(queues, owner, side, limit)
    total = 0
    for level in range(look(queues, books, side, limit)):
        if mine >= 0 and side * queues[0].look_price[level] >= side * queues[0].price[mine]:
            break
        total += queues[0].look_size[level]
    return total


@kernel()
def enter_queue(
    queues: np.ndarray, books: np.ndarray, order_id: int, owner: int, side: int, limit: int, size: int,
    may_rest: bool, self_trade: int, time_ns: int, events: np.ndarray, count: int,
) -> int:
    """Let an order that has its id take, and what is left rest or expire; returns the new count of events."""
    remaining = size
    prevented = False
    found = look(queues, books, side, limit)
    level = 0
    while remaining > 0 and not prevented:
        mine = facing(queues, owner, side, limit)
        if mine >= 0 and (level == found or side * queues[0].look_price[level] >= side * queues[0].price[mine]):
            if self_trade == _EXPIRE_MAKER or self_trade == _EXPIRE_BOTH:
                resting = queues[0].remaining[mine]
                count = put_event(
                    queues, events, count, _EXPIRED, time_ns, queues[0].order_id[mine], owner, -side,
                    queues[0].price[mine], resting, resting, _SELF_TRADE,
                )
                remove_order(queues, mine)
            prevented = self_trade != _EXPIRE_MAKER
            continue
        if level == found:
            break
        price = queues[0].look_price[level]
        traded = min(remaining, queues[0].look_size[level])
        remaining -= traded
        note_taken(queues, -side, price, traded)
        written = count
        count = put_event(queues, events, count, _FILL, time_ns, order_id, owner, side, price, traded, remaining, 0)
        events[written].trade_id = queues[0].next_trade_id
        queues[0].next_trade_id += 1
        level += 1
    if remaining > 0 and may_rest and not prevented:
        join(queues, books, order_id, owner, side, limit, remaining)
    elif remaining > 0:
        price = limit if abs(limit) < _NO_LIMIT else 0
        reason = _SELF_TRADE if prevented else 0
        count = put_event(
            queues, events, count, _EXPIRED, time_ns, order_id, owner, side, price, size, remaining, reason
        )
    return count


@kernel(types.int64(BYTES, BYTES, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64,
                    types.int64, types.int64, BYTES))
def submit(
    queue_bytes: np.ndarray, book_bytes: np.ndarray, owner: int, side: int, order_type: int, time_in_force: int,
    price: int, size: int, self_trade: int, time_ns: int, event_bytes: np.ndarray,
) -> int:
    """One new order of an owner >= 1; returns how many events were written from the start of the event array."""
    queues, books, events = queue_bytes.view(QUEUES), book_bytes.view(BOOK), event_bytes.view(EVENT)
    market = order_type == _MARKET
    may_rest = not market and (time_in_force == _GTC or time_in_force == _GTX)
    limit = side * _NO_LIMIT if market else price
    refusal = 0
    if size <= 0 or (not market and price <= 0):
        refusal = _BAD_SIZE
    elif queues[0].in_sequence == 0:
        refusal = _HALTED
    elif may_rest and queues[0].orders >= OWN_ORDERS:
        refusal = _BOOK_FULL
    elif not market and time_in_force == _GTX and would_take(queues, books, owner, side, limit):
        refusal = _WOULD_TAKE
    elif not market and time_in_force == _FOK and takeable(queues, books, owner, side, limit) < size:
        refusal = _CANNOT_FILL
    if refusal != 0:
        return put_event(queues, events, 0, _REJECTED, time_ns, 0, owner, side, price, size, size, refusal)
    order_id = queues[0].next_order_id
    queues[0].next_order_id += ORDER_ID_STEP
    count = put_event(queues, events, 0, _ACCEPTED, time_ns, order_id, owner, side, price, size, size, 0)
    return enter_queue(queues, books, order_id, owner, side, limit, size, may_rest, self_trade, time_ns, events, count)


@kernel()
def cancel_at(queues: np.ndarray, place: int, time_ns: int, events: np.ndarray) -> int:
    """Take the order at a place off; returns the event count."""
    remaining = queues[0].remaining[place]
    count = put_event(
        queues, events, 0, _CANCELLED, time_ns, queues[0].order_id[place], queues[0].owner[place],
        queues[0].side[place], queues[0].price[place], remaining, remaining, 0,
    )
    remove_order(queues, place)
    return count


@kernel(types.int64(BYTES, BYTES, types.int64, types.int64, types.int64, types.int64, types.boolean, types.int64,
                    types.int64, BYTES))
def amend(
    queue_bytes: np.ndarray, book_bytes: np.ndarray, owner: int, order_id: int, price: int, size: int,
    post_only: bool, self_trade: int, time_ns: int, event_bytes: np.ndarray,
) -> int:
    """Give a resting order of an owner a new price and a new open size; returns the event count.

    What cannot be gives one REJECTED event and changes nothing; a post-only order that would take is cancelled.
    """
    queues, books, events = queue_bytes.view(QUEUES), book_bytes.view(BOOK), event_bytes.view(EVENT)
    place = find_order(queues, owner, order_id)
    refusal = 0
    if place < 0:
        refusal = _UNKNOWN_ORDER
    elif size <= 0 or price <= 0:
        refusal = _BAD_SIZE
    elif queues[0].in_sequence == 0:
        refusal = _HALTED
    if refusal != 0:
        return put_event(queues, events, 0, _REJECTED, time_ns, order_id, owner, 0, price, size, 0, refusal)
    side = np.int64(queues[0].side[place])
    if post_only and would_take(queues, books, owner, side, price):
        return cancel_at(queues, place, time_ns, events)
    count = put_event(queues, events, 0, _AMENDED, time_ns, order_id, owner, side, price, size, size, 0)
    if price == queues[0].price[place] and size <= queues[0].remaining[place]:
        queues[0].remaining[place] = size
        return count
    remove_order(queues, place)
    return enter_queue(queues, books, order_id, owner, side, price, size, True, self_trade, time_ns, events, count)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, BYTES))
def cancel(queue_bytes: np.ndarray, owner: int, order_id: int, time_ns: int, event_bytes: np.ndarray) -> int:
    """Cancel one resting order of an owner; an unknown one gives a REJECTED event. Returns the event count."""
    queues, events = queue_bytes.view(QUEUES), event_bytes.view(EVENT)
    place = find_order(queues, owner, order_id)
    if place < 0:
        return put_event(queues, events, 0, _REJECTED, time_ns, order_id, owner, 0, 0, 0, 0, _UNKNOWN_ORDER)
    return cancel_at(queues, place, time_ns, events)
