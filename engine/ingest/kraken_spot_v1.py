"""Decoding the frames of Kraken spot, WebSocket v1.

Layout: an object is an event; a list is data, with the pair last and the channel's name last but one.

    [id, {"as": [...], "bs": [...]}, "book-1000", PAIR]     -> LEVEL, flagged SNAPSHOT
    [id, {"a": [...], "c": checksum}, "book-1000", PAIR]    -> LEVEL in wire order; likewise "b", or both sides in two
                                                               objects; a level is [price, size, time], and a fourth
                                                               element "r" says that it is sent again unchanged
    [id, [[price, size, time, b|s, m|l, misc], ...], "trade", PAIR]      -> TRADE; side is the aggressor's
    [id, {"a": [price, lots, size], "b": [...], ...}, "ticker", PAIR]    -> QUOTE bid, QUOTE ask, without a time
    [id, [bid, ask, time, bid size, ask size], "spread", PAIR]           -> QUOTE bid, QUOTE ask

The checksum goes into `aux` of the LAST level (see engine/integrity/wire_checksum.py), beside the decimals that the
venue prints: those of this frame for a snapshot, those of the snapshot for an update. A group's time is the latest of
its levels. Trades have no id here.

Invariants: nothing but `rows` and the scratch of the state is written. Cost: two passes over a frame, about 2 ns a
byte: 110 ns a level of a snapshot, 0.4 us an update of one level. Known limits: ohlc is UNKNOWN_STREAM; a snapshot
without any level is EMPTY_SNAPSHOT.
Source: Kraken, "WebSockets API v1".
"""

from __future__ import annotations

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    BAD_NUMBER,
    CLOSE_LIST,
    CLOSE_OBJECT,
    OPEN_LIST,
    OPEN_OBJECT,
    QUOTE,
    Text,
    byte_at,
    parse_units,
    skip_space,
    skip_value,
)
from engine.ingest.kraken_levels import (
    BUY,
    EMPTY_SNAPSHOT,
    FRAME_TOO_LARGE,
    NANOSECONDS_EXP,
    SELL,
    SNAPSHOT_FLAG,
    TRADE_KIND,
    UNKNOWN_STREAM,
    close_levels,
    group_by_instrument,
    opens,
    parse_checksum,
    parse_list_levels,
    printable,
    refused,
    write_quote,
    write_system_status,
    write_trade,
)
from engine.ingest.kraken_state import Decoded, FrameKind
from engine.ingest.members import (
    find_symbol,
    make_names,
    name_index,
    next_element,
    next_key,
    next_member,
    scan_object,
)
from engine.ingest.state import MAX_LEVELS_PER_FRAME, StateRow
from engine.integrity.wire_checksum import pack_checksum
from engine.kernel import kernel

ACK, REFUSAL, HEARTBEAT = int(FrameKind.ACK), int(FrameKind.REFUSAL), int(FrameKind.HEARTBEAT)
STATUS, PONG = int(FrameKind.STATUS), int(FrameKind.PONG)
BOOK_SNAPSHOT, BOOK_UPDATE = int(FrameKind.BOOK_SNAPSHOT), int(FrameKind.BOOK_UPDATE)
TRADES, TICKER = int(FrameKind.TRADES), int(FrameKind.TICKER)

EVENT_MEMBERS = make_names("event", "status", "errorMessage")
AT_EVENT, AT_STATUS, AT_ERROR = 0, 1, 2
EVENTS = make_names("heartbeat", "systemStatus", "subscriptionStatus", "pong", "error")
BOOK_MEMBERS = make_names("a", "b", "as", "bs", "c")
CHECKSUM_MEMBER = 4
CHANNELS = make_names("book-10", "book-25", "book-100", "book-500", "book-1000", "trade", "ticker", "spread")
TRADE_CHANNEL, TICKER_CHANNEL, SPREAD_CHANNEL = 5, 6, 7
REFUSED_STATUS, SIDES = make_names("error"), make_names("b", "s")
TICKER_MEMBERS = make_names("b", "a")
MAX_ELEMENTS = 5


@kernel()
def _decode_event(state: StateRow, text: Text, start: int, rows: np.ndarray, base: int) -> Decoded:
    """What the event at `start` says; a refused subscription is a REFUSAL."""
    end = scan_object(text, start, EVENT_MEMBERS, state.value_at)
    if end < 0:
        return refused(end)
    if skip_space(text, end) != text.size:
        return refused(BAD_JSON)
    if state.value_at[AT_EVENT] == 0:
        return refused(UNKNOWN_STREAM)
    event = name_index(text, state.value_at[AT_EVENT], EVENTS)
    if event == 0:
        return Decoded(HEARTBEAT, 0)
    if event == 1:
        told = state.value_at[AT_STATUS]
        return Decoded(STATUS, write_system_status(state, text, told, rows, base) if told != 0 else 0)
    if event == 3:
        return Decoded(PONG, 0)
    if event == 4:
        return Decoded(REFUSAL, 0)
    if event < 0:
        return refused(UNKNOWN_STREAM)
    if state.value_at[AT_STATUS] == 0:
        return refused(BAD_JSON)
    failed = name_index(text, state.value_at[AT_STATUS], REFUSED_STATUS) == 0 or state.value_at[AT_ERROR] != 0
    return Decoded(REFUSAL if failed else ACK, 0)


@kernel()
def _decode_book(state: StateRow, text: Text, payloads: int, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    """Make the levels of the objects that begin at value_at[1] to value_at[payloads]."""
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    count, latest, price_decimals, size_decimals, checksum, seen = 0, 0, -1, -1, -1, 0
    for payload in range(1, payloads + 1):
        position = state.value_at[payload]
        if byte_at(text, position) != OPEN_OBJECT:
            return refused(BAD_JSON)
        position = skip_space(text, position + 1)
        more = byte_at(text, position) != CLOSE_OBJECT
        while more:
            key_end, value = next_key(text, position)
            if key_end < 0:
                return refused(BAD_JSON)
            member = name_index(text, position, BOOK_MEMBERS)
            if member >= 0:
                if seen & (1 << member) != 0:
                    return refused(BAD_JSON)
                seen |= 1 << member
            if member >= 0 and member < CHECKSUM_MEMBER:
                flags = SNAPSHOT_FLAG if member >= 2 else 0
                side = SELL if member & 1 == 0 else BUY
                levels = parse_list_levels(text, value, price_exp, size_exp, instrument, side, flags, rows, base, count)
                count, position = levels.written, levels.position
                price_decimals = max(price_decimals, levels.price_decimals)
                size_decimals = max(size_decimals, levels.size_decimals)
                latest = max(latest, levels.time_ns)
            elif member == CHECKSUM_MEMBER:
                checksum = parse_checksum(text, value)
                position = skip_value(text, value) if checksum >= 0 else checksum
            else:
                position = skip_value(text, value)
            if position < 0:
                return refused(position)
            more, position = next_member(text, position)
        if position < 0:
            return refused(BAD_JSON)
    is_snapshot = seen & 12 == 12
    if is_snapshot == (seen & 3 != 0) or (not is_snapshot and seen & 12 != 0):
        return refused(BAD_JSON)
    if is_snapshot:
        if count == 0:
            return refused(EMPTY_SNAPSHOT)
        word = pack_checksum(checksum, printable(price_decimals), printable(size_decimals))
        close_levels(rows, base, base + count, SNAPSHOT_FLAG, latest, 0, word)
        return Decoded(BOOK_SNAPSHOT, count)
    word = pack_checksum(checksum, state.price_decimals[instrument], state.size_decimals[instrument])
    close_levels(rows, base, base + count, 0, latest, 0, word)
    return Decoded(BOOK_UPDATE, count)


@kernel()
def _decode_trades(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    position = state.value_at[1]
    if byte_at(text, position) != OPEN_LIST:
        return refused(BAD_JSON)
    position = skip_space(text, position + 1)
    count = 0
    more = byte_at(text, position) != CLOSE_LIST
    while more:
        if position >= text.size or byte_at(text, position) != OPEN_LIST:
            return refused(BAD_JSON)
        price, position = parse_units(text, skip_space(text, position + 1), price_exp)
        if position < 0:
            return refused(position)
        following, position = next_element(text, position)
        if not following:
            return refused(BAD_JSON)
        size, position = parse_units(text, position, size_exp)
        if position < 0:
            return refused(position)
        following, position = next_element(text, position)
        if not following:
            return refused(BAD_JSON)
        time_ns, position = parse_units(text, position, NANOSECONDS_EXP)
        if position < 0:
            return refused(position)
        following, position = next_element(text, position)
        if not following or time_ns < 0:
            return refused(BAD_JSON)
        side = name_index(text, position, SIDES)
        if side < 0:
            return refused(BAD_JSON)
        position = skip_value(text, position)
        following, position = next_element(text, position)
        while following:
            position = skip_value(text, position)
            if position < 0:
                return refused(position)
            following, position = next_element(text, position)
        if position < 0:
            return refused(BAD_JSON)
        if count == MAX_LEVELS_PER_FRAME:
            return refused(FRAME_TOO_LARGE)
        taker = BUY if side == 0 else SELL
        write_trade(rows, base + count, TRADE_KIND, instrument, taker, price, size, 0, time_ns)
        count += 1
        more, position = next_element(text, position)
    if position < 0:
        return refused(BAD_JSON)
    group_by_instrument(rows, base, count, 0)
    return Decoded(TRADES, count)


@kernel()
def _elements(text: Text, position: int, positions: np.ndarray, most: int) -> tuple[int, int]:
    """Note where the elements of the list at `position` begin: (how many, position after it).

    (0, BAD_JSON) for no list, an empty one, or one of more than `most` elements.
    """
    if byte_at(text, position) != OPEN_LIST:
        return 0, BAD_JSON
    position = skip_space(text, position + 1)
    count = 0
    more = True
    while more:
        if count == most:
            return 0, BAD_JSON
        positions[count] = position
        count += 1
        position = skip_value(text, position)
        if position < 0:
            return 0, BAD_JSON
        more, position = next_element(text, position)
    return (count, position) if position >= 0 else (0, BAD_JSON)


@kernel()
def _write_pair(
    state: StateRow, text: Text, instrument: int, bid_at: int, bid_size_at: int, ask_at: int, ask_size_at: int,
    time_ns: int, rows: np.ndarray, base: int,
) -> Decoded:  # fmt: skip
    """Two QUOTEs from the numbers at four positions."""
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bid, ok_bid = parse_units(text, bid_at, price_exp)
    bid_size, ok_bid_size = parse_units(text, bid_size_at, size_exp)
    ask, ok_ask = parse_units(text, ask_at, price_exp)
    ask_size, ok_ask_size = parse_units(text, ask_size_at, size_exp)
    ok = min(ok_bid, ok_bid_size, ok_ask, ok_ask_size)
    if ok < 0:
        return refused(ok)
    write_quote(rows, base, instrument, BUY, bid, bid_size, time_ns)
    write_quote(rows, base + 1, instrument, SELL, ask, ask_size, time_ns)
    group_by_instrument(rows, base, 2, 0)
    return Decoded(TICKER, 2)


@kernel()
def _decode_ticker(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    if byte_at(text, state.value_at[1]) != OPEN_OBJECT:
        return refused(BAD_JSON)
    end = scan_object(text, state.value_at[1], TICKER_MEMBERS, state.inner_at)
    if end < 0 or not opens(text, state.inner_at[0], OPEN_LIST) or not opens(text, state.inner_at[1], OPEN_LIST):
        return refused(BAD_JSON)
    ask_list = state.inner_at[1]
    bids, _ = _elements(text, state.inner_at[0], state.inner_at, 3)
    bid_at, bid_size_at = state.inner_at[0], state.inner_at[2]
    asks, _ = _elements(text, ask_list, state.inner_at, 3)
    if bids != 3 or asks != 3:
        return refused(BAD_JSON)
    return _write_pair(
        state, text, instrument, bid_at, bid_size_at, state.inner_at[0], state.inner_at[2], 0, rows, base
    )


@kernel()
def _decode_spread(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    found, _ = _elements(text, state.value_at[1], state.inner_at, 5)
    if found != 5:
        return refused(BAD_JSON)
    time_ns, ok = parse_units(text, state.inner_at[2], NANOSECONDS_EXP)
    if ok < 0 or time_ns < 0:
        return refused(ok if ok < 0 else BAD_NUMBER)
    return _write_pair(
        state, text, instrument, state.inner_at[0], state.inner_at[3], state.inner_at[1], state.inner_at[4],
        time_ns, rows, base,
    )  # fmt: skip


@kernel()
def decode_spot_v1(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """Decode one frame; its records are written to rows[base:]. A frame that is refused has a negative code."""
    start = skip_space(text, 0)
    if start >= text.size:
        return refused(BAD_JSON)
    if byte_at(text, start) == OPEN_OBJECT:
        return _decode_event(state, text, start, rows, base)
    elements, end = _elements(text, start, state.value_at, MAX_ELEMENTS)
    if end < 0 or skip_space(text, end) != text.size:
        return refused(BAD_JSON)
    if elements < 4 or byte_at(text, state.value_at[elements - 2]) != QUOTE:
        return refused(UNKNOWN_STREAM)
    channel = name_index(text, state.value_at[elements - 2], CHANNELS)
    if channel < 0:
        return refused(UNKNOWN_STREAM)
    instrument = find_symbol(state, text, state.value_at[elements - 1])
    if instrument < 0:
        return refused(instrument)
    if channel < TRADE_CHANNEL:
        return _decode_book(state, text, elements - 3, instrument, rows, base)
    if elements != 4:
        return refused(BAD_JSON)
    if channel == TRADE_CHANNEL:
        return _decode_trades(state, text, instrument, rows, base)
    if channel == TICKER_CHANNEL:
        return _decode_ticker(state, text, instrument, rows, base)
    return _decode_spread(state, text, instrument, rows, base)
