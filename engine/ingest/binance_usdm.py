"""Decoding the market-data frames of Binance USD-M futures.

Layout: a frame is `{"stream": ..., "data": EVENT}`, a bare EVENT, or an answer `{"result": null, "id": 1}`. An EVENT is an
object whose members have one-letter names; one pass notes where each value begins, in any order, skipping names it does
not know. Levels are decoded in that pass when the symbol stands before them (the venue's own order), else after it.

    depthUpdate      E T s U u pu b a       -> LEVEL for each level, bids first, each side in wire order
    trade            E T s t p q m          -> TRADE; side is the aggressor's: m says that the buyer was resting
    bookTicker       E T s u b B a A        -> QUOTE bid, QUOTE ask
    markPriceUpdate  E s p i r T            -> MARK_PRICE, FUNDING (none where r is absent or empty)
    forceOrder       E o{s S p q T}         -> LIQUIDATION
    REST depth       lastUpdateId E T bids asks -> LEVEL with Flag.SNAPSHOT

The records are written to `rows` from `base` on; the caller stamps what all of a frame share. Trades with a price or
size of zero or of another kind than MARKET are decoded like any other: to refuse them is validation's task.

Invariants: nothing but `rows` and the scratch `value_at` is written; prices need not be on tick; a member seen twice is
BAD_JSON. Cost: about 50 ns a level, 250 ns a trade. Known limits: aggTrade, klines and other streams are UNKNOWN_STREAM.
Source: Binance USD-M futures, "Websocket Market Streams" and "Order Book".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    BAD_NUMBER,
    CLOSE_LIST,
    CLOSE_OBJECT,
    COLON,
    COMMA,
    LOWER_E,
    NO_NAME,
    OPEN_LIST,
    OPEN_OBJECT,
    QUOTE,
    Text,
    byte_at,
    pack_name,
    parse_units,
    read_name,
    same_name,
    skip_space,
    skip_value,
    string_end,
)
from engine.ingest.state import MAX_LEVELS_PER_FRAME, VALUE_SLOTS
from engine.instruments import MAX_INSTRUMENTS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Flag, Kind, Side

UNKNOWN_STREAM = -int(Reason.UNKNOWN_STREAM)
UNKNOWN_SYMBOL = -int(Reason.UNKNOWN_SYMBOL)
FRAME_TOO_LARGE = -int(Reason.FRAME_TOO_LARGE)

# What a frame was, when it is not refused.
ACK, DEPTH, TRADE, QUOTE_PAIR, MARK, MARK_AND_FUNDING, LIQUIDATION, SNAPSHOT = 1, 2, 3, 4, 5, 6, 7, 8

# A numpy integer is no literal to numba: a helper that takes these compiles once, not once for each of them.
NO_EXP, MARK_EXP, FUNDING_EXP = np.int64(0), np.int64(8), np.int64(12)
NONE_YET = np.int64(0)
NS_PER_MS = 1_000_000
MAX_TIME_MS = (2**63 - 1) // NS_PER_MS

LEVEL_KIND, TRADE_KIND, QUOTE_KIND = int(Kind.LEVEL), int(Kind.TRADE), int(Kind.QUOTE)
MARK_KIND, FUNDING_KIND, LIQUIDATION_KIND = int(Kind.MARK_PRICE), int(Kind.FUNDING), int(Kind.LIQUIDATION)
FIRST, LAST, SNAPSHOT_FLAG = int(Flag.FIRST), int(Flag.LAST), int(Flag.SNAPSHOT)
BUY, SELL, NO_SIDE = np.int64(Side.BUY), np.int64(Side.SELL), np.int64(Side.NONE)

# Slots of one-letter keys in `value_at`; slot 0 is free, so it holds "pu".
SLOT_BASE = ord("@")
AT_PREVIOUS = np.int64(0)
AT_EVENT, AT_EVENT_TIME, AT_TIME, AT_SYMBOL = (np.int64(ord(letter) - SLOT_BASE) for letter in "eETs")
AT_FIRST_ID, AT_LAST_ID, AT_TRADE_ID = (np.int64(ord(letter) - SLOT_BASE) for letter in "Uut")
AT_BID, AT_BID_SIZE, AT_ASK, AT_ASK_SIZE = (np.int64(ord(letter) - SLOT_BASE) for letter in "bBaA")
AT_PRICE, AT_SIZE, AT_MAKER, AT_INDEX, AT_RATE = (np.int64(ord(letter) - SLOT_BASE) for letter in "pqmir")
AT_ORDER, AT_SIDE = (np.int64(ord(letter) - SLOT_BASE) for letter in "oS")

LOWER_P, LOWER_U, LOWER_T, LOWER_F = ord("p"), ord("u"), ord("t"), ord("f")


DEPTH_EVENT, TRADE_EVENT, TICKER_EVENT = pack_name("depthUpdate"), pack_name("trade"), pack_name("bookTicker")
MARK_EVENT, LIQUIDATION_EVENT = pack_name("markPriceUpdate"), pack_name("forceOrder")
DATA_KEY, RESULT_KEY = pack_name("data"), pack_name("result")
BUY_NAME, SELL_NAME = pack_name("BUY"), pack_name("SELL")
UPDATE_ID_KEY, BIDS_KEY, ASKS_KEY = pack_name("lastUpdateId"), pack_name("bids"), pack_name("asks")


class Decoded(NamedTuple):
    """One text, decoded. `code` is what it was, or -Reason; the rest holds only for codes that have it."""

    code: int
    instrument: int
    count: int  # records written to rows
    bids: int  # of them, bid levels
    exch_ts_ns: int  # T where given, else E, else 0
    sequence: int  # u of a diff or ticker, trade id, lastUpdateId
    first_id: int  # U of a diff
    previous_id: int  # pu of a diff


@kernel(inline=True)
def _nothing(code: int) -> Decoded:
    return Decoded(code, 0, 0, 0, 0, 0, 0, 0)


@kernel()
def find_symbol(state: np.void, text: Text, position: int) -> int:
    """The index of the instrument whose symbol is the string at `position`, or UNKNOWN_SYMBOL, or BAD_JSON."""
    size = text.size
    if position >= size or byte_at(text, position) != QUOTE:
        return BAD_JSON
    for index in range(MAX_INSTRUMENTS):
        length = state.symbol_length[index]
        if length == 0 or position + length + 1 >= size or byte_at(text, position + length + 1) != QUOTE:
            continue
        place = 0
        while place < length and byte_at(text, position + 1 + place) == state.symbol[index, place]:
            place += 1
        if place == length:
            return index
    return UNKNOWN_SYMBOL


@kernel(inline=True)
def write_row(row: np.void, kind: int, side: int, flags: int, price: int, size: int, aux: int) -> None:
    """Write one record whole, so that no byte of an earlier use of the outbox is left."""
    row.ingest_id = 0
    row.recv_ts_ns = 0
    row.exch_ts_ns = 0
    row.sequence = 0
    row.price = price
    row.size = size
    row.aux = aux
    row.kind = kind
    row.venue = 0
    row.side = side
    row.flags = flags
    row.instrument = 0
    row.reason = 0


@kernel()
def _parse_levels(
    text: Text, position: int, price_exp: int, size_exp: int, side: int, rows: np.ndarray, base: int, count: int
) -> tuple[int, int]:
    """Decode the list of levels at `position` to rows[base + count:]; (levels written in all, position after it).

    (anything, -Reason) where it is no list of [price, size] or the frame holds more than MAX_LEVELS_PER_FRAME. Elements
    of a level after the second are skipped.
    """
    end = text.size
    if position >= end or byte_at(text, position) != OPEN_LIST:
        return 0, BAD_JSON
    position = skip_space(text, position + 1)
    if position < end and byte_at(text, position) == CLOSE_LIST:
        return count, position + 1
    while True:
        if position >= end or byte_at(text, position) != OPEN_LIST:
            return 0, BAD_JSON
        price, position = parse_units(text, skip_space(text, position + 1), price_exp)
        if position < 0:
            return 0, position
        position = skip_space(text, position)
        if position >= end or byte_at(text, position) != COMMA:
            return 0, BAD_JSON
        size, position = parse_units(text, skip_space(text, position + 1), size_exp)
        if position < 0:
            return 0, position
        position = skip_space(text, position)
        while position < end and byte_at(text, position) == COMMA:
            position = skip_value(text, skip_space(text, position + 1))
            if position < 0:
                return 0, position
            position = skip_space(text, position)
        if position >= end or byte_at(text, position) != CLOSE_LIST:
            return 0, BAD_JSON
        if count == MAX_LEVELS_PER_FRAME:
            return 0, FRAME_TOO_LARGE
        write_row(rows[base + count], LEVEL_KIND, side, 0, price, size, 0)
        count += 1
        position = skip_space(text, position + 1)
        if position >= end:
            return 0, BAD_JSON
        if byte_at(text, position) == CLOSE_LIST:
            return count, position + 1
        if byte_at(text, position) != COMMA:
            return 0, BAD_JSON
        position = skip_space(text, position + 1)


@kernel(inline=True)
def _next_key(text: Text, position: int) -> tuple[int, int]:
    """(position of the closing quote of the key at `position`, position of its value), or (BAD_JSON, BAD_JSON)."""
    size = text.size
    if position >= size or byte_at(text, position) != QUOTE:
        return BAD_JSON, BAD_JSON
    key_end = string_end(text, position)
    if key_end < 0:
        return BAD_JSON, BAD_JSON
    value = skip_space(text, key_end + 1)
    if value >= size or byte_at(text, value) != COLON:
        return BAD_JSON, BAD_JSON
    value = skip_space(text, value + 1)
    return (key_end, value) if value < size else (BAD_JSON, BAD_JSON)


@kernel(inline=True)
def _next_member(text: Text, position: int) -> tuple[bool, int]:
    """After a value: (True, position of the next key) or (False, position after the object), or (False, BAD_JSON)."""
    position = skip_space(text, position)
    if position >= text.size:
        return False, BAD_JSON
    if byte_at(text, position) == COMMA:
        return True, skip_space(text, position + 1)
    return False, (position + 1 if byte_at(text, position) == CLOSE_OBJECT else BAD_JSON)


@kernel()
def _scan_event(
    state: np.void, text: Text, position: int, rows: np.ndarray, base: int
) -> tuple[int, int, int, int]:
    """Note where the values of the object at `position` begin; decode levels on the way where that is possible.

    Returns (position after the object or -Reason, instrument or -Reason, bid levels or -1, all levels or -1): a count
    of -1 means that the list was not met or must be decoded later, since the symbol or the bids came after it.
    """
    value_at = state.value_at
    for slot in range(VALUE_SLOTS):
        value_at[slot] = 0
    instrument, bids, levels = BAD_JSON, -1, -1
    position = skip_space(text, position + 1)
    if position < text.size and byte_at(text, position) == CLOSE_OBJECT:
        return position + 1, instrument, bids, levels
    more = True
    while more:
        key_end, value = _next_key(text, position)
        if key_end < 0:
            return BAD_JSON, instrument, bids, levels
        slot = -1
        if key_end - position == 2:
            slot = byte_at(text, position + 1) - SLOT_BASE
            if slot <= 0 or slot >= VALUE_SLOTS:
                slot = -1
        elif key_end - position == 3 and byte_at(text, position + 1) == LOWER_P and byte_at(text, position + 2) == LOWER_U:
            slot = AT_PREVIOUS
        if slot >= 0:
            if value_at[slot] != 0:
                return BAD_JSON, instrument, bids, levels
            value_at[slot] = value
        if slot == AT_BID and instrument >= 0 and byte_at(text, value) == OPEN_LIST:
            bids, position = _parse_levels(
                text, value, state.price_exp[instrument], state.size_exp[instrument], BUY, rows, base, NONE_YET
            )
        elif slot == AT_ASK and bids >= 0 and byte_at(text, value) == OPEN_LIST:
            levels, position = _parse_levels(
                text, value, state.price_exp[instrument], state.size_exp[instrument], SELL, rows, base, bids
            )
        else:
            if slot == AT_SYMBOL:
                instrument = find_symbol(state, text, value)
            position = skip_value(text, value)
        if position < 0:
            return position, instrument, bids, levels
        more, position = _next_member(text, position)
    return position, instrument, bids, levels


@kernel()
def _number_at(state: np.void, text: Text, slot: int, exp: int) -> tuple[int, int]:
    """The number of a noted key: (value, 1), or (0, BAD_JSON) where the key is missing, or (0, BAD_NUMBER)."""
    position = state.value_at[slot]
    if position == 0:
        return 0, BAD_JSON
    value, position = parse_units(text, position, exp)
    return value, min(position, 1)


@kernel()
def _time_at(state: np.void, text: Text, slot: int) -> tuple[int, int]:
    """A time in ms as ns: (ns, 1), (0, 1) where the key is missing, or (0, BAD_NUMBER)."""
    if state.value_at[slot] == 0:
        return 0, 1
    value, ok = _number_at(state, text, slot, NO_EXP)
    if ok < 0 or value < 0 or value > MAX_TIME_MS:
        return 0, BAD_NUMBER
    return value * NS_PER_MS, 1


@kernel()
def _venue_time(state: np.void, text: Text) -> tuple[int, int]:
    """T where given, else E, else 0, in ns; (0, BAD_NUMBER) where that one is no time."""
    return _time_at(state, text, AT_TIME if state.value_at[AT_TIME] != 0 else AT_EVENT_TIME)


@kernel()
def _decode_depth(
    state: np.void, text: Text, rows: np.ndarray, base: int, instrument: int, bids: int, levels: int
) -> Decoded:
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    if state.value_at[AT_BID] == 0 or state.value_at[AT_ASK] == 0:
        return _nothing(BAD_JSON)
    if bids < 0:
        bids, end = _parse_levels(text, state.value_at[AT_BID], price_exp, size_exp, BUY, rows, base, NONE_YET)
        if end < 0:
            return _nothing(end)
    if levels < 0:
        levels, end = _parse_levels(text, state.value_at[AT_ASK], price_exp, size_exp, SELL, rows, base, bids)
        if end < 0:
            return _nothing(end)
    first_id, ok_first = _number_at(state, text, AT_FIRST_ID, NO_EXP)
    last_id, ok_last = _number_at(state, text, AT_LAST_ID, NO_EXP)
    previous_id, ok_previous = _number_at(state, text, AT_PREVIOUS, NO_EXP)
    exch_ts_ns, ok_time = _venue_time(state, text)
    ok = min(min(ok_first, ok_last), min(ok_previous, ok_time))
    if ok < 0:
        return _nothing(ok)
    mark_group(rows, base, levels, 0)
    return Decoded(DEPTH, instrument, levels, bids, exch_ts_ns, last_id, first_id, previous_id)


@kernel()
def mark_group(rows: np.ndarray, base: int, count: int, flags: int) -> None:
    """Set the flags of a group of records: `flags` on all, FIRST on the first, LAST on the last."""
    for at in range(base, base + count):
        rows[at].flags = flags
    if count > 0:
        rows[base].flags |= FIRST
        rows[base + count - 1].flags |= LAST


@kernel()
def _decode_trade(state: np.void, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    price, ok_price = _number_at(state, text, AT_PRICE, state.price_exp[instrument])
    size, ok_size = _number_at(state, text, AT_SIZE, state.size_exp[instrument])
    trade_id, ok_id = _number_at(state, text, AT_TRADE_ID, NO_EXP)
    exch_ts_ns, ok_time = _venue_time(state, text)
    ok = min(min(ok_price, ok_size), min(ok_id, ok_time))
    if ok < 0:
        return _nothing(ok)
    maker_at = state.value_at[AT_MAKER]
    if maker_at == 0 or (byte_at(text, maker_at) != LOWER_T and byte_at(text, maker_at) != LOWER_F):
        return _nothing(BAD_JSON)
    side = SELL if byte_at(text, maker_at) == LOWER_T else BUY
    write_row(rows[base], TRADE_KIND, side, FIRST | LAST, price, size, trade_id)
    return Decoded(TRADE, instrument, 1, 0, exch_ts_ns, trade_id, 0, 0)


@kernel()
def _decode_quote_pair(state: np.void, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bid, ok_bid = _number_at(state, text, AT_BID, price_exp)
    bid_size, ok_bid_size = _number_at(state, text, AT_BID_SIZE, size_exp)
    ask, ok_ask = _number_at(state, text, AT_ASK, price_exp)
    ask_size, ok_ask_size = _number_at(state, text, AT_ASK_SIZE, size_exp)
    update_id, ok_id = _number_at(state, text, AT_LAST_ID, NO_EXP)
    exch_ts_ns, ok_time = _venue_time(state, text)
    ok = min(min(min(ok_bid, ok_bid_size), min(ok_ask, ok_ask_size)), min(ok_id, ok_time))
    if ok < 0:
        return _nothing(ok)
    write_row(rows[base], QUOTE_KIND, BUY, FIRST, bid, bid_size, 0)
    write_row(rows[base + 1], QUOTE_KIND, SELL, LAST, ask, ask_size, 0)
    return Decoded(QUOTE_PAIR, instrument, 2, 0, exch_ts_ns, update_id, 0, 0)


@kernel()
def _decode_mark(state: np.void, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    """Mark and index price, and the funding rate where there is one. T is the next funding time here, so E is the time."""
    mark, ok_mark = _number_at(state, text, AT_PRICE, MARK_EXP)
    exch_ts_ns, ok_time = _time_at(state, text, AT_EVENT_TIME)
    index_price, ok_index = 0, 1
    if state.value_at[AT_INDEX] != 0:
        index_price, ok_index = _number_at(state, text, AT_INDEX, MARK_EXP)
    rate, next_ns, ok_rate, ok_next = 0, 0, 1, 1
    rate_at = state.value_at[AT_RATE]
    # a delivery contract has no funding: its rate is the empty string
    funded = rate_at != 0 and not (byte_at(text, rate_at) == QUOTE and byte_at(text, rate_at + 1) == QUOTE)
    if funded:
        rate, ok_rate = _number_at(state, text, AT_RATE, FUNDING_EXP)
        next_ns, ok_next = _time_at(state, text, AT_TIME)
    ok = min(min(min(ok_mark, ok_time), min(ok_index, ok_rate)), ok_next)
    if ok < 0:
        return _nothing(ok)
    write_row(rows[base], MARK_KIND, NO_SIDE, FIRST if funded else FIRST | LAST, mark, index_price, 0)
    if not funded:
        return Decoded(MARK, instrument, 1, 0, exch_ts_ns, 0, 0, 0)
    write_row(rows[base + 1], FUNDING_KIND, NO_SIDE, LAST, 0, next_ns // NS_PER_MS, rate)
    return Decoded(MARK_AND_FUNDING, instrument, 2, 0, exch_ts_ns, 0, 0, 0)


@kernel()
def _decode_liquidation(state: np.void, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """The order sits in an object of its own, member o; price and size are the order's, not the average."""
    order_at = state.value_at[AT_ORDER]
    if order_at == 0 or byte_at(text, order_at) != OPEN_OBJECT:
        return _nothing(BAD_JSON)
    end, instrument, _, _ = _scan_event(state, text, order_at, rows, base)
    if end < 0:
        return _nothing(end)
    if instrument < 0:
        return _nothing(instrument)
    price, ok_price = _number_at(state, text, AT_PRICE, state.price_exp[instrument])
    size, ok_size = _number_at(state, text, AT_SIZE, state.size_exp[instrument])
    exch_ts_ns, ok_time = _time_at(state, text, AT_TIME)
    ok = min(min(ok_price, ok_size), ok_time)
    if ok < 0:
        return _nothing(ok)
    side_at = state.value_at[AT_SIDE]
    side_name = read_name(text, side_at) if side_at != 0 else NO_NAME
    if same_name(side_name, BUY_NAME):
        side = BUY
    elif same_name(side_name, SELL_NAME):
        side = SELL
    else:
        return _nothing(BAD_JSON)
    write_row(rows[base], LIQUIDATION_KIND, side, FIRST | LAST, price, size, 0)
    return Decoded(LIQUIDATION, instrument, 1, 0, exch_ts_ns, 0, 0, 0)


@kernel()
def _decode_event(
    state: np.void, text: Text, rows: np.ndarray, base: int, instrument: int, bids: int, levels: int
) -> Decoded:
    """Make the records of a scanned event."""
    event_at = state.value_at[AT_EVENT]
    event = read_name(text, event_at) if event_at != 0 else NO_NAME
    if same_name(event, LIQUIDATION_EVENT):
        return _decode_liquidation(state, text, rows, base)
    is_depth = same_name(event, DEPTH_EVENT)
    is_trade = same_name(event, TRADE_EVENT)
    is_ticker = same_name(event, TICKER_EVENT)
    if not (is_depth or is_trade or is_ticker or same_name(event, MARK_EVENT)):
        return _nothing(UNKNOWN_STREAM)
    if instrument < 0:
        return _nothing(instrument)
    if is_ticker:
        return _decode_quote_pair(state, text, rows, base, instrument)
    if is_trade:
        return _decode_trade(state, text, rows, base, instrument)
    if is_depth:
        return _decode_depth(state, text, rows, base, instrument, bids, levels)
    return _decode_mark(state, text, rows, base, instrument)


@kernel()
def decode_frame(state: np.void, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """Decode one stream frame; its records are written to rows[base:], flags of the group set.

    Only the scratch of the state is written. A frame that is refused has a negative code.
    """
    size = text.size
    start = skip_space(text, 0)
    if start >= size or byte_at(text, start) != OPEN_OBJECT:
        return _nothing(BAD_JSON)
    position = skip_space(text, start + 1)
    if position < size and byte_at(text, position) == CLOSE_OBJECT:
        return _nothing(UNKNOWN_STREAM if skip_space(text, position + 1) == size else BAD_JSON)
    is_event, is_answer = False, False
    instrument, bids, levels = BAD_JSON, -1, -1
    more = True
    while more:
        key_end, value = _next_key(text, position)
        if key_end < 0:
            return _nothing(BAD_JSON)
        if key_end - position == 2 and byte_at(text, position + 1) == LOWER_E and not is_event:
            # the frame names its event itself: all of it is the event
            is_event = True
            position, instrument, bids, levels = _scan_event(state, text, start, rows, base)
            break
        key = read_name(text, position)
        if same_name(key, DATA_KEY) and byte_at(text, value) == OPEN_OBJECT and not is_event:
            is_event = True
            position, instrument, bids, levels = _scan_event(state, text, value, rows, base)
        else:
            is_answer = is_answer or same_name(key, RESULT_KEY)
            position = skip_value(text, value)
        if position < 0:
            return _nothing(position)
        more, position = _next_member(text, position)
    if position < 0:
        return _nothing(position)
    if skip_space(text, position) != size:
        return _nothing(BAD_JSON)
    if is_event:
        return _decode_event(state, text, rows, base, instrument, bids, levels)
    return _nothing(ACK if is_answer else UNKNOWN_STREAM)


@kernel()
def decode_snapshot(state: np.void, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    """Decode one REST depth body of an instrument; its levels, flagged SNAPSHOT, are written to rows[base:].

    A body without any level is BAD_JSON: nothing could say that the book is empty, and no book is that bare.
    """
    size = text.size
    value_at = state.value_at
    for slot in range(VALUE_SLOTS):
        value_at[slot] = 0
    start = skip_space(text, 0)
    if start >= size or byte_at(text, start) != OPEN_OBJECT:
        return _nothing(BAD_JSON)
    position = skip_space(text, start + 1)
    update_at, bids_at, asks_at = 0, 0, 0
    more = True
    while more:
        key_end, value = _next_key(text, position)
        if key_end < 0:
            return _nothing(BAD_JSON)
        seen = 0
        key = read_name(text, position)
        if same_name(key, UPDATE_ID_KEY):
            seen, update_at = update_at, value
        elif same_name(key, BIDS_KEY):
            seen, bids_at = bids_at, value
        elif same_name(key, ASKS_KEY):
            seen, asks_at = asks_at, value
        elif key_end - position == 2:
            slot = byte_at(text, position + 1) - SLOT_BASE
            if slot > 0 and slot < VALUE_SLOTS:
                seen, value_at[slot] = value_at[slot], value
        if seen != 0:
            return _nothing(BAD_JSON)
        position = skip_value(text, value)
        if position < 0:
            return _nothing(position)
        more, position = _next_member(text, position)
    if position < 0 or skip_space(text, position) != size:
        return _nothing(BAD_JSON)
    if update_at == 0 or bids_at == 0 or asks_at == 0:
        return _nothing(BAD_JSON)
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bids, end = _parse_levels(text, bids_at, price_exp, size_exp, BUY, rows, base, NONE_YET)
    if end < 0:
        return _nothing(end)
    levels, end = _parse_levels(text, asks_at, price_exp, size_exp, SELL, rows, base, bids)
    if end < 0:
        return _nothing(end)
    update_id, end = parse_units(text, update_at, NO_EXP)
    if end < 0:
        return _nothing(end)
    exch_ts_ns, ok_time = _venue_time(state, text)
    if ok_time < 0:
        return _nothing(ok_time)
    if levels == 0:
        return _nothing(BAD_JSON)
    mark_group(rows, base, levels, SNAPSHOT_FLAG)
    return Decoded(SNAPSHOT, instrument, levels, bids, exch_ts_ns, update_id, 0, 0)
