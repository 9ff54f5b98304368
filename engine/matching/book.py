"""The order book: price levels, queues and the order pool, with what the commands (commands.py) build upon.

Layout: one BOOK record holds everything. Each side is a sorted array of price levels with the best level last, so
that work near the touch moves little memory and far orders are as good as near ones. A level is a FIFO of orders,
linked through the order pool. `live` lists the occupied places of the pool densely.
Invariants: levels of a side ascend in side * price; no level is empty; bid < ask after every command; a level's
size is the sum of what its orders have left; order and trade ids rise; each LEVEL event has an update id of its own
and ids between commands have holes, as on the real venue.
A command is given its time; it writes what happened to `events`, in order. Callers provide room: a command needs at
most `events_needed` records.
Cost: binary search of a level plus the memory move behind it; finding an order by id scans the live list (cancels and
amendments of clients only; the flow knows the place).
"""

from __future__ import annotations

import numpy as np

from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.matching.events import EVENT, EventKind
from engine.records import Side
from engine.stage import as_bytes

MAX_ORDERS = 8192  # of one book
MAX_LEVELS = 2048  # of one side
SIDES = 2 * MAX_LEVELS
ORDER_ID_STEP = MAX_INSTRUMENTS

BOOK = np.dtype(
    [
        ("next_order_id", "<i8"),
        ("next_trade_id", "<i8"),
        ("next_update_id", "<i8"),
        ("last_update_id", "<i8"),  # of the last level change
        ("bid_price", "<i8"),  # the touch as last announced; 0 where a side is empty
        ("bid_size", "<i8"),
        ("ask_price", "<i8"),
        ("ask_size", "<i8"),
        ("symbol", "<i8"),
        ("live_count", "<i8"),
        ("side_orders", "<i8", (2,)),  # live orders of the bid side and of the ask side
        ("level_count", "<i8", (2,)),
        # levels of bids at [0, MAX_LEVELS), of asks at [MAX_LEVELS, SIDES), best last
        ("level_price", "<i8", (SIDES,)),
        ("level_size", "<i8", (SIDES,)),
        ("level_head", "<i4", (SIDES,)),  # oldest order
        ("level_tail", "<i4", (SIDES,)),
        # the order pool
        ("order_id", "<i8", (MAX_ORDERS,)),
        ("order_price", "<i8", (MAX_ORDERS,)),
        ("order_remaining", "<i8", (MAX_ORDERS,)),
        ("order_owner", "<i4", (MAX_ORDERS,)),
        ("order_next", "<i4", (MAX_ORDERS,)),
        ("order_previous", "<i4", (MAX_ORDERS,)),
        ("order_live_index", "<i4", (MAX_ORDERS,)),  # where in `live`
        ("order_side", "i1", (MAX_ORDERS,)),
        ("live", "<i4", (MAX_ORDERS,)),  # [0, live_count): occupied places; behind: free places
    ],
    align=True,
)

NO_SLOT = -1
_BUY = int(Side.BUY)
_LEVEL = int(EventKind.LEVEL)
_TOUCH = int(EventKind.TOUCH)


def new_book(symbol: int, first_id: int = 1) -> np.ndarray:
    """An empty book, BOOK of shape (1,). first_id: where trade and update ids start.

    Order ids are first_id * ORDER_ID_STEP + symbol and rise by ORDER_ID_STEP: no two books give the same one.
    """
    book = np.zeros(1, BOOK)
    book["next_order_id"] = first_id * ORDER_ID_STEP + symbol
    book["next_trade_id"] = book["next_update_id"] = first_id
    book["last_update_id"] = first_id - 1
    book["symbol"] = symbol
    book["live"][0] = np.arange(MAX_ORDERS)
    return book


def events_needed(book: np.ndarray) -> int:
    """Records that one command on this book may write at the most."""
    return 2 * int(book["live_count"][0]) + 8


@kernel(inline=True)
def side_offset(side: int) -> int:
    """Where the levels of a side start."""
    return 0 if side == _BUY else MAX_LEVELS


@kernel(inline=True)
def side_index(side: int) -> int:
    """Index of a side in two-element fields."""
    return 0 if side == _BUY else 1


@kernel()
def put_event(
    book: np.ndarray, events: np.ndarray, count: int, kind: int, time_ns: int, order_id: int, owner: int, side: int,
    price: int, size: int, remaining: int, reason: int,
) -> int:
    """Write one event; returns the new count."""
    event = events[count]
    event.time_ns = time_ns
    event.order_id = order_id
    event.maker_order_id = 0
    event.price = price
    event.size = size
    event.ask_price = 0
    event.ask_size = 0
    event.remaining = remaining
    event.maker_remaining = 0
    event.update_id = book[0].last_update_id
    event.trade_id = 0
    event.owner = owner
    event.maker_owner = 0
    event.kind = kind
    event.side = side
    event.reason = reason
    event.symbol = book[0].symbol
    return count + 1


@kernel()
def put_level(
    book: np.ndarray, events: np.ndarray, count: int, time_ns: int, side: int, price: int, size: int
) -> int:
    """Write a LEVEL event under a fresh update id."""
    book[0].last_update_id = book[0].next_update_id
    book[0].next_update_id += 1
    return put_event(book, events, count, _LEVEL, time_ns, 0, 0, side, price, size, 0, 0)


@kernel()
def put_touch(book: np.ndarray, events: np.ndarray, count: int, time_ns: int) -> int:
    """Write a TOUCH event where the best bid or ask differs from what was announced last."""
    bids = book[0].level_count[0]
    asks = book[0].level_count[1]
    bid_price = book[0].level_price[bids - 1] if bids > 0 else 0
    bid_size = book[0].level_size[bids - 1] if bids > 0 else 0
    ask_price = book[0].level_price[MAX_LEVELS + asks - 1] if asks > 0 else 0
    ask_size = book[0].level_size[MAX_LEVELS + asks - 1] if asks > 0 else 0
    if (
        bid_price == book[0].bid_price and bid_size == book[0].bid_size
        and ask_price == book[0].ask_price and ask_size == book[0].ask_size
    ):
        return count
    book[0].bid_price = bid_price
    book[0].bid_size = bid_size
    book[0].ask_price = ask_price
    book[0].ask_size = ask_size
    place = count
    count = put_event(book, events, count, _TOUCH, time_ns, 0, 0, 0, bid_price, bid_size, 0, 0)
    events[place].ask_price = ask_price
    events[place].ask_size = ask_size
    return count


@kernel()
def find_level(book: np.ndarray, side: int, price: int) -> int:
    """Place within the side (0 = worst) of the level with this price, or where it would be inserted."""
    offset = side_offset(side)
    low = 0
    high = book[0].level_count[side_index(side)]
    while low < high:
        middle = (low + high) // 2
        if side * book[0].level_price[offset + middle] < side * price:
            low = middle + 1
        else:
            high = middle
    return low


@kernel()
def insert_level(book: np.ndarray, side: int, place: int, price: int) -> None:
    """Open an empty level at a place; the levels from there on move up by one."""
    offset = side_offset(side)
    last = book[0].level_count[side_index(side)]
    for index in range(offset + last, offset + place, -1):
        book[0].level_price[index] = book[0].level_price[index - 1]
        book[0].level_size[index] = book[0].level_size[index - 1]
        book[0].level_head[index] = book[0].level_head[index - 1]
        book[0].level_tail[index] = book[0].level_tail[index - 1]
    book[0].level_price[offset + place] = price
    book[0].level_size[offset + place] = 0
    book[0].level_head[offset + place] = NO_SLOT
    book[0].level_tail[offset + place] = NO_SLOT
    book[0].level_count[side_index(side)] = last + 1


@kernel()
def remove_level(book: np.ndarray, side: int, place: int) -> None:
    """Take a level out; the levels behind it move down by one."""
    offset = side_offset(side)
    last = book[0].level_count[side_index(side)] - 1
    for index in range(offset + place, offset + last):
        book[0].level_price[index] = book[0].level_price[index + 1]
        book[0].level_size[index] = book[0].level_size[index + 1]
        book[0].level_head[index] = book[0].level_head[index + 1]
        book[0].level_tail[index] = book[0].level_tail[index + 1]
    book[0].level_count[side_index(side)] = last


@kernel()
def free_slot(book: np.ndarray, slot: int) -> None:
    """Give a place of the order pool back (the order is already out of its level)."""
    last = book[0].live_count - 1
    index = book[0].order_live_index[slot]
    moved = book[0].live[last]
    book[0].live[index] = moved
    book[0].order_live_index[moved] = index
    book[0].live[last] = slot
    book[0].order_live_index[slot] = last
    book[0].live_count = last
    book[0].side_orders[side_index(book[0].order_side[slot])] -= 1


@kernel()
def drop_head(book: np.ndarray, level: int) -> None:
    """Take the oldest order of a level out of its queue and the pool; the level's size is the caller's affair."""
    slot = book[0].level_head[level]
    following = book[0].order_next[slot]
    book[0].level_head[level] = following
    if following == NO_SLOT:
        book[0].level_tail[level] = NO_SLOT
    else:
        book[0].order_previous[following] = NO_SLOT
    free_slot(book, slot)


@kernel()
def take_out(book: np.ndarray, slot: int) -> int:
    """Remove the order at a place of the pool from the book; returns what its level has left."""
    side = book[0].order_side[slot]
    place = find_level(book, side, book[0].order_price[slot])
    level = side_offset(side) + place
    before = book[0].order_previous[slot]
    after = book[0].order_next[slot]
    if before == NO_SLOT:
        book[0].level_head[level] = after
    else:
        book[0].order_next[before] = after
    if after == NO_SLOT:
        book[0].level_tail[level] = before
    else:
        book[0].order_previous[after] = before
    book[0].level_size[level] -= book[0].order_remaining[slot]
    left = book[0].level_size[level]
    if left == 0:
        remove_level(book, side, place)
    free_slot(book, slot)
    return left


@kernel()
def find_slot(book: np.ndarray, owner: int, order_id: int) -> int:
    """Place in the pool of an owner's live order, or NO_SLOT."""
    for index in range(book[0].live_count):
        slot = book[0].live[index]
        if book[0].order_id[slot] == order_id and book[0].order_owner[slot] == owner:
            return slot
    return NO_SLOT


@kernel()
def rest(book: np.ndarray, order_id: int, owner: int, side: int, price: int, size: int) -> int:
    """Add an order at the end of its level's queue; returns the level's new size. There is room."""
    slot = book[0].live[book[0].live_count]
    book[0].order_live_index[slot] = book[0].live_count
    book[0].live_count += 1
    book[0].side_orders[side_index(side)] += 1
    book[0].order_id[slot] = order_id
    book[0].order_price[slot] = price
    book[0].order_remaining[slot] = size
    book[0].order_owner[slot] = owner
    book[0].order_side[slot] = side
    book[0].order_next[slot] = NO_SLOT
    place = find_level(book, side, price)
    level = side_offset(side) + place
    if place == book[0].level_count[side_index(side)] or book[0].level_price[level] != price:
        insert_level(book, side, place, price)
    tail = book[0].level_tail[level]
    book[0].order_previous[slot] = tail
    if tail == NO_SLOT:
        book[0].level_head[level] = slot
    else:
        book[0].order_next[tail] = slot
    book[0].level_tail[level] = slot
    book[0].level_size[level] += size
    return book[0].level_size[level]


def levels(book: np.ndarray, side: Side, limit: int) -> list[tuple[int, int]]:
    """(price, size) of the best `limit` levels of a side, best first."""
    count = int(book["level_count"][0][0 if side == Side.BUY else 1])
    offset = 0 if side == Side.BUY else MAX_LEVELS
    first = offset + max(0, count - limit)
    prices = book["level_price"][0][first : offset + count][::-1].tolist()
    sizes = book["level_size"][0][first : offset + count][::-1].tolist()
    return list(zip(prices, sizes))


def event_buffer(records: int = 2 * MAX_ORDERS + 64) -> tuple[np.ndarray, np.ndarray]:
    """An event array and its uint8 view."""
    events = np.zeros(records, EVENT)
    return events, as_bytes(events)
