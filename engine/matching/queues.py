"""Own orders in a recorded market: what records of the market do to them. Kernels over one record a contract.

The displayed book is the engine's own L2 book (engine/book); it is as recorded and no order of ours changes it.
Beside it lie our resting orders with their places in the queues (queue_rule.py), and what orders of ours have taken
from displayed levels, which stays taken until the level is gone, at most all of it: nobody takes a size twice.

A trade meets our orders of its other side that its price reaches, best price first and then the oldest: those at better
prices as if they stood alone, those at its price by the queue rule, together at most with its size. A trade that the
venue made before an order joined does not meet it. A displayed level of the other side that comes to stand at an
order's price or beyond it meets it too, up to what is left to take there. Both fill at the order's own price.
While the book is not in sequence (a gap, no snapshot yet) only trades fill.

Invariants: orders lie in the order of priority, bids before asks; `ahead` is never more than was displayed last; the
sum of fills by one trade is at most its size. Events are those of engine/matching/events.py, less levels and touches.
Cost: some ns a record without orders of ours, some more for each order.
"""

from __future__ import annotations

import numpy as np
from numba import types

from engine.book.book import book_best, book_clear, book_set_tick, book_size_at, book_top, book_update
from engine.book.layout import BOOK
from engine.kernel import kernel
from engine.matching.book import put_event
from engine.matching.events import EVENT, EventKind
from engine.matching.queue_rule import after_level, after_trade
from engine.records import MARKET, Flag, Kind, Side
from engine.stage import BYTES

OWN_ORDERS = 1024  # that rest in one contract
TAKEN_LEVELS = 1024  # from which we have taken
LOOK_LEVELS = 1024  # as deep as one order takes

QUEUES = np.dtype(
    [
        ("next_order_id", "<i8"),
        ("next_trade_id", "<i8"),
        ("last_update_id", "<i8"),  # of the displayed book
        ("symbol", "<i8"),
        ("rule", "<i8"),  # CAREFUL or EVEN
        ("in_sequence", "<i8"),  # 1: the displayed book can be trusted
        ("venue_ns", "<i8"),  # the latest venue time of anything
        ("book_ns", "<i8"),  # that of the displayed book
        ("trade_ns", "<i8"),  # that of the latest trade that was told before it was shown
        ("mark", "<i8"),  # mark price as told last, 1e-8 quote; 0: never
        ("next_record", "<i8"),  # where feeding goes on
        ("orders", "<i8"),
        ("taken_levels", "<i8"),
        # our resting orders
        ("order_id", "<i8", (OWN_ORDERS,)),
        ("price", "<i8", (OWN_ORDERS,)),
        ("remaining", "<i8", (OWN_ORDERS,)),
        ("ahead", "<i8", (OWN_ORDERS,)),  # of others
        ("credit", "<i8", (OWN_ORDERS,)),
        ("traded", "<i8", (OWN_ORDERS,)),  # at its price since it joined, and not shown yet
        ("joined_ns", "<i8", (OWN_ORDERS,)),  # venue time
        ("owner", "<i4", (OWN_ORDERS,)),
        ("side", "i1", (OWN_ORDERS,)),
        # what we have taken
        ("taken_price", "<i8", (TAKEN_LEVELS,)),
        ("taken_size", "<i8", (TAKEN_LEVELS,)),
        ("taken_side", "i1", (TAKEN_LEVELS,)),
        # scratch: what an order can take, best first
        ("look_price", "<i8", (LOOK_LEVELS,)),
        ("look_size", "<i8", (LOOK_LEVELS,)),
    ],
    align=True,
)
EVENTS_NEEDED = OWN_ORDERS + LOOK_LEVELS + 8  # by one call at the most

_FILL = int(EventKind.FILL)
_LEVEL, _TRADE, _GAP = int(Kind.LEVEL), int(Kind.TRADE), int(Kind.GAP)
_INSTRUMENT, _MARK_PRICE = int(Kind.INSTRUMENT), int(Kind.MARK_PRICE)
_SNAPSHOT, _FIRST, _LAST = int(Flag.SNAPSHOT), int(Flag.FIRST), int(Flag.LAST)
_BUY, _SELL = int(Side.BUY), int(Side.SELL)


@kernel()
def taken_place(queues: np.ndarray, side: int, price: int) -> int:
    """Where it is noted what we took from a level; -1: nothing."""
    for place in range(queues[0].taken_levels):
        if queues[0].taken_price[place] == price and queues[0].taken_side[place] == side:
            return place
    return -1


@kernel()
def note_taken(queues: np.ndarray, side: int, price: int, size: int) -> None:
    """We have taken from a level. With no room to note it the level noted first is forgotten."""
    place = taken_place(queues, side, price)
    if place < 0:
        if queues[0].taken_levels == TAKEN_LEVELS:
            forget_taken(queues, 0)
        place = queues[0].taken_levels
        queues[0].taken_levels = place + 1
        queues[0].taken_side[place] = side
        queues[0].taken_price[place] = price
        queues[0].taken_size[place] = 0
    queues[0].taken_size[place] += size


@kernel()
def forget_taken(queues: np.ndarray, place: int) -> None:
    """A level that we took from is gone; those noted later move up."""
    last = queues[0].taken_levels - 1
    for index in range(place, last):
        queues[0].taken_side[index] = queues[0].taken_side[index + 1]
        queues[0].taken_price[index] = queues[0].taken_price[index + 1]
        queues[0].taken_size[index] = queues[0].taken_size[index + 1]
    queues[0].taken_levels = last


@kernel()
def limit_taken(queues: np.ndarray, place: int, shown: int) -> bool:
    """No more is taken from a level than it shows; True where nothing is left of the note."""
    if queues[0].taken_size[place] > shown:
        queues[0].taken_size[place] = shown
    if shown == 0:
        forget_taken(queues, place)
    return shown == 0


@kernel()
def look(queues: np.ndarray, books: np.ndarray, side: int, limit: int) -> int:
    """Put what an order of this side and limit can take, level by level, into the scratch; how many levels."""
    prices, sizes = queues[0].look_price, queues[0].look_size
    best, _ = book_best(books, 0, -side)
    if best == 0 or side * best > side * limit:
        return 0
    found = 0
    for index in range(book_top(books, 0, -side, LOOK_LEVELS, prices, sizes)):
        if side * prices[index] > side * limit:
            break
        place = taken_place(queues, -side, prices[index])
        size = sizes[index] if place < 0 else sizes[index] - queues[0].taken_size[place]
        if size > 0:
            prices[found] = prices[index]
            sizes[found] = size
            found += 1
    return found


@kernel()
def find_order(queues: np.ndarray, owner: int, order_id: int) -> int:
    """Place of an owner's resting order, or -1."""
    for place in range(queues[0].orders):
        if queues[0].order_id[place] == order_id and queues[0].owner[place] == owner:
            return place
    return -1


@kernel()
def move_order(queues: np.ndarray, source: int, target: int) -> None:
    """Copy an order to another place."""
    queues[0].order_id[target] = queues[0].order_id[source]
    queues[0].price[target] = queues[0].price[source]
    queues[0].remaining[target] = queues[0].remaining[source]
    queues[0].ahead[target] = queues[0].ahead[source]
    queues[0].credit[target] = queues[0].credit[source]
    queues[0].traded[target] = queues[0].traded[source]
    queues[0].joined_ns[target] = queues[0].joined_ns[source]
    queues[0].owner[target] = queues[0].owner[source]
    queues[0].side[target] = queues[0].side[source]


@kernel()
def remove_order(queues: np.ndarray, place: int) -> None:
    """Take an order out."""
    queues[0].orders -= 1
    for index in range(place, queues[0].orders):
        move_order(queues, index + 1, index)


@kernel()
def join(
    queues: np.ndarray, books: np.ndarray, order_id: int, owner: int, side: int, price: int, size: int
) -> None:
    """Let an order rest behind what is displayed at its price. There is room."""
    place = queues[0].orders
    while place > 0:
        other = queues[0].side[place - 1]
        if other > side or (other == side and side * queues[0].price[place - 1] >= side * price):
            break
        move_order(queues, place - 1, place)
        place -= 1
    queues[0].orders += 1
    queues[0].order_id[place] = order_id
    queues[0].price[place] = price
    queues[0].remaining[place] = size
    queues[0].ahead[place] = book_size_at(books, 0, side, price)
    queues[0].credit[place] = 0
    queues[0].traded[place] = 0
    queues[0].joined_ns[place] = queues[0].venue_ns
    queues[0].owner[place] = owner
    queues[0].side[place] = side


@kernel()
def fill_resting(queues: np.ndarray, place: int, size: int, time_ns: int, events: np.ndarray, count: int) -> int:
    """Fill so much of a resting order, at its price; returns the new count of events. It is not taken out."""
    queues[0].remaining[place] -= size
    written = count
    count = put_event(
        queues, events, count, _FILL, time_ns, 0, 0, -queues[0].side[place], queues[0].price[place], size, 0, 0
    )
    events[written].maker_order_id = queues[0].order_id[place]
    events[written].maker_owner = queues[0].owner[place]
    events[written].maker_remaining = queues[0].remaining[place]
    events[written].trade_id = queues[0].next_trade_id
    queues[0].next_trade_id += 1
    return count


@kernel()
def take_trade(
    queues: np.ndarray, price: int, size: int, aggressor: int, venue_ns: int, time_ns: int, events: np.ndarray,
    count: int,
) -> int:
    """A recorded trade; returns the new count of events."""
    side = -aggressor
    is_shown = venue_ns <= queues[0].book_ns
    if not is_shown:
        queues[0].trade_ns = max(queues[0].trade_ns, venue_ns)
    left = size
    place = 0
    while place < queues[0].orders:
        own = queues[0].price[place]
        is_early = venue_ns != 0 and venue_ns <= queues[0].joined_ns[place]
        if queues[0].side[place] != side or side * own < side * price or is_early:
            place += 1
            continue
        reaching = left
        if own == price:
            ahead, credit, reaching = after_trade(queues[0].ahead[place], queues[0].credit[place], left, is_shown)
            queues[0].ahead[place] = ahead
            queues[0].credit[place] = credit
            queues[0].traded[place] += 0 if is_shown else size
        elif left > 0:
            queues[0].ahead[place] = 0
        filled = min(reaching, queues[0].remaining[place])
        if filled > 0:
            left -= filled
            count = fill_resting(queues, place, filled, time_ns, events, count)
        if queues[0].remaining[place] == 0:
            remove_order(queues, place)
        else:
            place += 1
    return count


@kernel()
def take_level(queues: np.ndarray, books: np.ndarray, side: int, price: int, size: int, venue_ns: int) -> None:
    """A recorded level has a new size."""
    before = book_size_at(books, 0, side, price)
    book_update(books, 0, side, price, size)
    for place in range(queues[0].orders):
        if queues[0].price[place] == price and queues[0].side[place] == side:
            ahead, credit = after_level(
                queues[0].ahead[place], queues[0].credit[place], queues[0].traded[place], before, size,
                queues[0].rule,
            )
            queues[0].ahead[place] = ahead
            queues[0].credit[place] = credit
            shown = queues[0].traded[place] if venue_ns >= queues[0].trade_ns else before - size
            queues[0].traded[place] -= max(0, min(shown, queues[0].traded[place]))
    place = taken_place(queues, side, price)
    if place >= 0:
        limit_taken(queues, place, size)


@kernel()
def begin_anew(queues: np.ndarray, books: np.ndarray) -> None:
    """A snapshot is whole: orders and notes of levels that it does not hold learn that these are gone."""
    for place in range(queues[0].orders):
        shown = book_size_at(books, 0, queues[0].side[place], queues[0].price[place])
        queues[0].ahead[place] = min(queues[0].ahead[place], shown)
        queues[0].credit[place] = 0
        queues[0].traded[place] = 0
    place = 0
    while place < queues[0].taken_levels:
        shown = book_size_at(books, 0, queues[0].taken_side[place], queues[0].taken_price[place])
        if not limit_taken(queues, place, shown):
            place += 1


@kernel()
def meet_quotes(queues: np.ndarray, books: np.ndarray, time_ns: int, events: np.ndarray, count: int) -> int:
    """Orders that displayed levels of the other side have reached; returns the new count of events."""
    for side in (_BUY, _SELL):
        place = 0
        while place < queues[0].orders and queues[0].side[place] != side:
            place += 1
        if place == queues[0].orders:
            continue
        found = look(queues, books, side, queues[0].price[place])
        level = 0
        while place < queues[0].orders and queues[0].side[place] == side and level < found:
            price = queues[0].look_price[level]
            if side * price > side * queues[0].price[place]:
                break
            filled = min(queues[0].remaining[place], queues[0].look_size[level])
            note_taken(queues, -side, price, filled)
            queues[0].look_size[level] -= filled
            count = fill_resting(queues, place, filled, time_ns, events, count)
            if queues[0].look_size[level] == 0:
                level += 1
            if queues[0].remaining[place] == 0:
                remove_order(queues, place)
    return count


@kernel(types.int64(BYTES, BYTES, BYTES, BYTES))
def feed(queue_bytes: np.ndarray, book_bytes: np.ndarray, record_bytes: np.ndarray, event_bytes: np.ndarray) -> int:
    """Take MARKET records of one contract, from `next_record` on; returns how many events were written.

    Returns early after a record that filled an order of ours, so that its account can be booked first: call it until
    next_record is their number. event_bytes: room for EVENTS_NEEDED.
    """
    queues = queue_bytes.view(QUEUES)
    books = book_bytes.view(BOOK)
    records = record_bytes.view(MARKET)
    events = event_bytes.view(EVENT)
    count = 0
    while queues[0].next_record < records.size and count == 0:
        record = records[queues[0].next_record]
        queues[0].next_record += 1
        kind = record.kind
        if kind == _LEVEL:
            if record.flags & _SNAPSHOT and record.flags & _FIRST:
                book_clear(books, 0)
            queues[0].last_update_id = record.sequence
            queues[0].book_ns = max(queues[0].book_ns, record.exch_ts_ns)
            queues[0].venue_ns = max(queues[0].venue_ns, record.exch_ts_ns)
            take_level(queues, books, record.side, record.price, record.size, record.exch_ts_ns)
            if record.flags & _LAST:
                if record.flags & _SNAPSHOT:
                    begin_anew(queues, books)
                    queues[0].in_sequence = 1
                if queues[0].in_sequence:
                    count = meet_quotes(queues, books, record.recv_ts_ns, events, count)
        elif kind == _TRADE:
            count = take_trade(
                queues, record.price, record.size, record.side, record.exch_ts_ns, record.recv_ts_ns, events, count
            )
            queues[0].venue_ns = max(queues[0].venue_ns, record.exch_ts_ns)
        elif kind == _GAP:
            queues[0].in_sequence = 0
        elif kind == _MARK_PRICE:
            queues[0].mark = record.price
        elif kind == _INSTRUMENT:
            book_set_tick(books, 0, record.price)
    return count
