"""What may be asked of an order book: new order, amendment, cancel. Matching by price and time, as kernels.

Invariants: those of book.py; an order trades with the best price first and, at one price, with the oldest order. The
level changes of a command come before its TOUCH event.
Self-trade prevention: the mode of the order that takes decides; the venue applies it to orders that are not
fill-or-kill. An expired order is told by an EXPIRED event with reason SELF_TRADE.
Amendment: an order keeps its id. It keeps its place in the queue only when its price stays and its size does not
grow; else it queues anew, and may trade when its new price crosses. A post-only order that would take at its new price
is cancelled. Limits: a new price or size is refused with BOOK_FULL where the side has no free price level, although
the old level might become free.
Capacity is fixed: a resting order beyond it is refused with BOOK_FULL. Cost: below 1 us plus what is matched.
Source: Binance USD-M futures, "New Order", "Modify Order", "Self Trade Prevention FAQ".
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.kernel import kernel
from engine.matching.book import (
    BOOK,
    MAX_LEVELS,
    MAX_ORDERS,
    NO_SLOT,
    ORDER_ID_STEP,
    drop_head,
    find_level,
    find_slot,
    put_event,
    put_level,
    put_touch,
    remove_level,
    rest,
    side_index,
    side_offset,
    take_out,
)
from engine.matching.events import EVENT, EventKind, Refusal, SelfTrade
from engine.records import OrderType, TimeInForce
from engine.stage import BYTES

_NO_LIMIT = 2**62  # beyond every price
_MARKET = int(OrderType.MARKET)
_GTC = int(TimeInForce.GTC)
_FOK = int(TimeInForce.FOK)
_GTX = int(TimeInForce.GTX)
_ACCEPTED = int(EventKind.ACCEPTED)
_FILL = int(EventKind.FILL)
_CANCELLED = int(EventKind.CANCELLED)
_EXPIRED = int(EventKind.EXPIRED)
_REJECTED = int(EventKind.REJECTED)
_AMENDED = int(EventKind.AMENDED)
_WOULD_TAKE = int(Refusal.WOULD_TAKE)
_CANNOT_FILL = int(Refusal.CANNOT_FILL)
_BOOK_FULL = int(Refusal.BOOK_FULL)
_UNKNOWN_ORDER = int(Refusal.UNKNOWN_ORDER)
_BAD_SIZE = int(Refusal.BAD_SIZE)
_SELF_TRADE = int(Refusal.SELF_TRADE)
_ALLOWED = int(SelfTrade.NONE)
_EXPIRE_TAKER = int(SelfTrade.EXPIRE_TAKER)
_EXPIRE_BOTH = int(SelfTrade.EXPIRE_BOTH)


@kernel()
def crossing_size(book: np.ndarray, side: int, price: int, enough: int) -> int:
    """How much an order of this side and limit could take at once, counted up to `enough`."""
    offset = side_offset(-side)
    total = 0
    place = book[0].level_count[side_index(-side)] - 1
    while place >= 0 and total < enough and side * book[0].level_price[offset + place] <= side * price:
        total += book[0].level_size[offset + place]
        place -= 1
    return total


@kernel()
def put_fill(
    book: np.ndarray, events: np.ndarray, count: int, time_ns: int, order_id: int, owner: int, side: int, price: int,
    size: int, remaining: int, slot: int,
) -> int:
    """Write a FILL event of a taker with the resting order at `slot`; returns the new count."""
    written = count
    count = put_event(book, events, count, _FILL, time_ns, order_id, owner, side, price, size, remaining, 0)
    events[written].trade_id = book[0].next_trade_id
    events[written].maker_order_id = book[0].order_id[slot]
    events[written].maker_owner = book[0].order_owner[slot]
    events[written].maker_remaining = book[0].order_remaining[slot]
    book[0].next_trade_id += 1
    return count


@kernel()
def match(
    book: np.ndarray, order_id: int, owner: int, side: int, price: int, size: int, self_trade: int, time_ns: int,
    events: np.ndarray, count: int,
) -> tuple[int, int, bool]:
    """Take from the opposite side up to a limit price.

    Returns (count of events, size left, whether what is left has expired to prevent a self-trade).
    """
    opposite = side_index(-side)
    offset = side_offset(-side)
    remaining = size
    prevented = False
    while remaining > 0 and not prevented and book[0].level_count[opposite] > 0:
        place = book[0].level_count[opposite] - 1
        level = offset + place
        level_price = book[0].level_price[level]
        if side * level_price > side * price:
            break
        before = book[0].level_size[level]
        while remaining > 0 and not prevented and book[0].level_head[level] != NO_SLOT:
            slot = book[0].level_head[level]
            resting = book[0].order_remaining[slot]
            if self_trade != _ALLOWED and owner != 0 and book[0].order_owner[slot] == owner:
                prevented = self_trade == _EXPIRE_TAKER or self_trade == _EXPIRE_BOTH
                if self_trade != _EXPIRE_TAKER:
                    count = put_event(
                        book, events, count, _EXPIRED, time_ns, book[0].order_id[slot], owner, -side, level_price,
                        resting, resting, _SELF_TRADE,
                    )
                    book[0].level_size[level] -= resting
                    drop_head(book, level)
                continue
            traded = min(remaining, resting)
            remaining -= traded
            book[0].order_remaining[slot] -= traded
            book[0].level_size[level] -= traded
            count = put_fill(
                book, events, count, time_ns, order_id, owner, side, level_price, traded, remaining, slot
            )
            if traded == resting:
                drop_head(book, level)
        left = book[0].level_size[level]
        if left == 0:
            remove_level(book, -side, place)
        if left != before:
            count = put_level(book, events, count, time_ns, -side, level_price, left)
    return count, remaining, prevented


@kernel()
def enter(
    book: np.ndarray, order_id: int, owner: int, side: int, limit: int, size: int, may_rest: bool, self_trade: int,
    time_ns: int, events: np.ndarray, count: int,
) -> int:
    """Match an order that has its id and let what is left rest or expire; returns the new count of events."""
    count, remaining, prevented = match(
        book, order_id, owner, side, limit, size, self_trade, time_ns, events, count
    )
    if remaining > 0 and may_rest and not prevented:
        total = rest(book, order_id, owner, side, limit, remaining)
        count = put_level(book, events, count, time_ns, side, limit, total)
    elif remaining > 0 and owner != 0:
        reason = _SELF_TRADE if prevented else 0
        price = limit if abs(limit) < _NO_LIMIT else 0
        count = put_event(
            book, events, count, _EXPIRED, time_ns, order_id, owner, side, price, size, remaining, reason
        )
    return put_touch(book, events, count, time_ns)


@kernel()
def submit_order(
    book: np.ndarray, owner: int, side: int, order_type: int, time_in_force: int, price: int, size: int,
    self_trade: int, time_ns: int, events: np.ndarray, count: int,
) -> int:
    """Take one new order; returns the new count of events. Lifecycle events are written for owners >= 1 only."""
    market = order_type == _MARKET
    may_rest = not market and (time_in_force == _GTC or time_in_force == _GTX)
    fill_or_kill = not market and time_in_force == _FOK
    limit = side * _NO_LIMIT if market else price
    refusal = 0
    if size <= 0 or (not market and price <= 0):
        refusal = _BAD_SIZE
    elif may_rest and (
        book[0].live_count >= MAX_ORDERS or book[0].level_count[side_index(side)] >= MAX_LEVELS
    ):
        refusal = _BOOK_FULL
    elif not market and time_in_force == _GTX and crossing_size(book, side, limit, 1) > 0:
        refusal = _WOULD_TAKE
    elif fill_or_kill and crossing_size(book, side, limit, size) < size:
        refusal = _CANNOT_FILL
    if refusal != 0:
        return put_event(book, events, count, _REJECTED, time_ns, 0, owner, side, price, size, size, refusal)
    order_id = book[0].next_order_id
    book[0].next_order_id += ORDER_ID_STEP
    book[0].next_update_id += 1
    if owner != 0:
        count = put_event(book, events, count, _ACCEPTED, time_ns, order_id, owner, side, price, size, size, 0)
    mode = _ALLOWED if fill_or_kill else self_trade
    return enter(book, order_id, owner, side, limit, size, may_rest, mode, time_ns, events, count)


@kernel()
def cancel_slot(book: np.ndarray, slot: int, time_ns: int, events: np.ndarray, count: int) -> int:
    """Take the order at a place of the pool off the book; returns the new count of events."""
    side = book[0].order_side[slot]
    price = book[0].order_price[slot]
    remaining = book[0].order_remaining[slot]
    owner = book[0].order_owner[slot]
    order_id = book[0].order_id[slot]
    left = take_out(book, slot)
    if owner != 0:
        count = put_event(
            book, events, count, _CANCELLED, time_ns, order_id, owner, side, price, remaining, remaining, 0
        )
    return put_level(book, events, count, time_ns, side, price, left)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64,
                    types.int64, types.int64, BYTES))
def submit(
    book_bytes: np.ndarray, owner: int, side: int, order_type: int, time_in_force: int, price: int, size: int,
    self_trade: int, time_ns: int, event_bytes: np.ndarray,
) -> int:
    """One new order on a book; returns how many events were written from the start of the event array.

    book_bytes: uint8 view of BOOK; self_trade: SelfTrade; event_bytes: uint8 view of EVENT with room for
    `events_needed`.
    """
    return submit_order(
        book_bytes.view(BOOK), owner, side, order_type, time_in_force, price, size, self_trade, time_ns,
        event_bytes.view(EVENT), 0,
    )


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, types.int64, types.boolean, types.int64,
                    types.int64, BYTES))
def amend(
    book_bytes: np.ndarray, owner: int, order_id: int, price: int, size: int, post_only: bool, self_trade: int,
    time_ns: int, event_bytes: np.ndarray,
) -> int:
    """Give a live order of an owner a new price and a new open size; returns the event count.

    size: what is to be open after it, not counting what the order has traded before. An unknown order, a senseless
    number or a full side gives one REJECTED event and changes nothing.
    """
    book = book_bytes.view(BOOK)
    events = event_bytes.view(EVENT)
    slot = find_slot(book, owner, order_id)
    if slot == NO_SLOT:
        return put_event(book, events, 0, _REJECTED, time_ns, order_id, owner, 0, price, size, 0, _UNKNOWN_ORDER)
    side = np.int64(book[0].order_side[slot])
    old_price = book[0].order_price[slot]
    old_size = book[0].order_remaining[slot]
    if size <= 0 or price <= 0:
        return put_event(
            book, events, 0, _REJECTED, time_ns, order_id, owner, side, price, size, old_size, _BAD_SIZE
        )
    if price != old_price and book[0].level_count[side_index(side)] >= MAX_LEVELS:
        return put_event(
            book, events, 0, _REJECTED, time_ns, order_id, owner, side, price, size, old_size, _BOOK_FULL
        )
    book[0].next_update_id += 1
    if post_only and crossing_size(book, side, price, 1) > 0:
        return put_touch(book, events, cancel_slot(book, slot, time_ns, events, 0), time_ns)
    count = put_event(book, events, 0, _AMENDED, time_ns, order_id, owner, side, price, size, size, 0)
    if price == old_price and size <= old_size:
        level = side_offset(side) + find_level(book, side, price)
        book[0].order_remaining[slot] = size
        book[0].level_size[level] -= old_size - size
        count = put_level(book, events, count, time_ns, side, price, book[0].level_size[level])
        return put_touch(book, events, count, time_ns)
    left = take_out(book, slot)
    count = put_level(book, events, count, time_ns, side, old_price, left)
    return enter(book, order_id, owner, side, price, size, True, self_trade, time_ns, events, count)


@kernel(types.int64(BYTES, types.int64, types.int64, types.int64, BYTES))
def cancel(book_bytes: np.ndarray, owner: int, order_id: int, time_ns: int, event_bytes: np.ndarray) -> int:
    """Cancel one live order of an owner; an unknown one gives a REJECTED event. Returns the event count."""
    book = book_bytes.view(BOOK)
    events = event_bytes.view(EVENT)
    slot = find_slot(book, owner, order_id)
    if slot == NO_SLOT:
        return put_event(book, events, 0, _REJECTED, time_ns, order_id, owner, 0, 0, 0, 0, _UNKNOWN_ORDER)
    book[0].next_update_id += 1
    return put_touch(book, events, cancel_slot(book, slot, time_ns, events, 0), time_ns)


@kernel(types.int64(BYTES, types.int64, types.int64, BYTES))
def cancel_all(book_bytes: np.ndarray, owner: int, time_ns: int, event_bytes: np.ndarray) -> int:
    """Cancel every live order of an owner; returns the event count."""
    book = book_bytes.view(BOOK)
    events = event_bytes.view(EVENT)
    count = 0
    index = 0
    book[0].next_update_id += 1
    while index < book[0].live_count:
        slot = book[0].live[index]
        if book[0].order_owner[slot] == owner:
            count = cancel_slot(book, slot, time_ns, events, count)
        else:
            index += 1
    return put_touch(book, events, count, time_ns)
