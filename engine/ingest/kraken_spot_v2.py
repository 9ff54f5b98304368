"""Decoding the frames of Kraken spot, WebSocket v2.

Layout: an object with `channel` and `data`, or the answer to a request with `method`. Numbers are bare, with the
trailing zeros that the checksum needs.

    channel book        symbol bids asks checksum timestamp       -> LEVEL, bids first; flagged SNAPSHOT in a snapshot
    channel trade       symbol side price qty trade_id timestamp  -> TRADE; side is the aggressor's; those of a snapshot
                                                                     are from before: PAST_TRADES, no records
    channel ticker      symbol bid bid_qty ask ask_qty timestamp  -> QUOTE bid, QUOTE ask
    channel status      data[0]: system                           -> STATUS of every instrument, where it is new
    channel heartbeat, instrument                                 -> told apart, no records
    method subscribe, unsubscribe with success true or false         -> ACK or REFUSAL; pong -> PONG

Every element of the data of a book frame is a group of its own; trades of one instrument side by side are one group.
Checksum and printed decimals travel as kraken_spot_v1.py says; here snapshots carry a checksum too.

Invariants: nothing but `rows` and the scratch of the state is written. Cost: three passes over a frame, about 2 ns a
byte: 80 ns a level of a snapshot, 0.5 us an update of one level. Known limits: ohlc and level3 are UNKNOWN_STREAM; a
snapshot without any level is EMPTY_SNAPSHOT. Built on the documented form and single messages: no recorded session was
at hand.
Source: Kraken, "WebSockets API v2".
"""

from __future__ import annotations

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    CLOSE_LIST,
    OPEN_LIST,
    OPEN_OBJECT,
    Text,
    byte_at,
    parse_units,
    skip_space,
)
from engine.ingest.kraken_levels import (
    BUY,
    EMPTY_SNAPSHOT,
    FRAME_TOO_LARGE,
    NO_EXP,
    SELL,
    SNAPSHOT_FLAG,
    TRADE_KIND,
    UNKNOWN_STREAM,
    close_levels,
    group_by_instrument,
    opens,
    parse_checksum,
    parse_object_levels,
    printable,
    refused,
    write_quote,
    write_system_status,
    write_trade,
)
from engine.ingest.kraken_state import Decoded, FrameKind
from engine.ingest.members import find_symbol, make_names, name_index, next_element, scan_object
from engine.ingest.printed import parse_iso_time
from engine.ingest.state import MAX_LEVELS_PER_FRAME, StateRow
from engine.integrity.wire_checksum import pack_checksum
from engine.kernel import kernel

ACK, REFUSAL, HEARTBEAT = int(FrameKind.ACK), int(FrameKind.REFUSAL), int(FrameKind.HEARTBEAT)
STATUS, PONG, METADATA = int(FrameKind.STATUS), int(FrameKind.PONG), int(FrameKind.METADATA)
BOOK_SNAPSHOT, BOOK_UPDATE = int(FrameKind.BOOK_SNAPSHOT), int(FrameKind.BOOK_UPDATE)
TRADES, PAST_TRADES, TICKER = int(FrameKind.TRADES), int(FrameKind.PAST_TRADES), int(FrameKind.TICKER)

FRAME_MEMBERS = make_names("channel", "type", "data", "method", "success", "error")
AT_CHANNEL, AT_TYPE, AT_DATA, AT_METHOD, AT_SUCCESS, AT_ERROR = range(6)
CHANNELS = make_names("book", "trade", "ticker", "heartbeat", "status", "instrument")
BOOK_CHANNEL, TRADE_CHANNEL, TICKER_CHANNEL, HEARTBEAT_CHANNEL, STATUS_CHANNEL, INSTRUMENT_CHANNEL = range(6)
TYPES = make_names("snapshot", "update")
METHODS = make_names("subscribe", "unsubscribe", "pong")
PONG_METHOD = 2
BOOK_MEMBERS = make_names("symbol", "bids", "asks", "checksum", "timestamp")
TRADE_MEMBERS = make_names("symbol", "side", "price", "qty", "timestamp", "trade_id")
TICKER_MEMBERS = make_names("symbol", "bid", "bid_qty", "ask", "ask_qty", "timestamp")
SYSTEM_MEMBER = make_names("system")
SIDES = make_names("buy", "sell")
LOWER_T, LOWER_F = ord("t"), ord("f")


@kernel()
def _iso_time(text: Text, position: int) -> tuple[int, int]:
    """A noted time as (ns, 1); (0, 1) where there is none."""
    if position == 0:
        return 0, 1
    return parse_iso_time(text, position)


@kernel()
def _book_element(
    state: StateRow, text: Text, position: int, is_snapshot: bool, rows: np.ndarray, base: int, count: int
) -> tuple[int, int]:
    """One element of a book frame at `position`: (records in all, position after it), or (0, -Reason)."""
    value_at = state.value_at
    end = scan_object(text, position, BOOK_MEMBERS, value_at)
    if end < 0:
        return 0, end
    if value_at[0] == 0 or value_at[1] == 0 or value_at[2] == 0:
        return 0, BAD_JSON
    instrument = find_symbol(state, text, value_at[0])
    if instrument < 0:
        return 0, instrument
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    flags = SNAPSHOT_FLAG if is_snapshot else 0
    bids = parse_object_levels(text, value_at[1], price_exp, size_exp, instrument, BUY, flags, rows, base, count)
    if bids.position < 0:
        return 0, bids.position
    asks = parse_object_levels(
        text, value_at[2], price_exp, size_exp, instrument, SELL, flags, rows, base, bids.written
    )
    if asks.position < 0:
        return 0, asks.position
    checksum = parse_checksum(text, value_at[3]) if value_at[3] != 0 else -1
    if value_at[3] != 0 and checksum < 0:
        return 0, checksum
    time_ns, ok = _iso_time(text, value_at[4])
    if ok < 0:
        return 0, ok
    if is_snapshot:
        if asks.written == count:
            return 0, EMPTY_SNAPSHOT
        price_decimals = printable(max(bids.price_decimals, asks.price_decimals))
        size_decimals = printable(max(bids.size_decimals, asks.size_decimals))
    else:
        price_decimals, size_decimals = state.price_decimals[instrument], state.size_decimals[instrument]
    word = pack_checksum(checksum, price_decimals, size_decimals)
    close_levels(rows, base + count, base + asks.written, flags, time_ns, 0, word)
    return asks.written, end


@kernel()
def _trade_element(
    state: StateRow, text: Text, position: int, rows: np.ndarray, base: int, count: int
) -> tuple[int, int]:
    """One element of a trade frame at `position`: (records in all, position after it), or (0, -Reason)."""
    value_at = state.value_at
    end = scan_object(text, position, TRADE_MEMBERS, value_at)
    if end < 0:
        return 0, end
    for member in range(5):
        if value_at[member] == 0:
            return 0, BAD_JSON
    instrument = find_symbol(state, text, value_at[0])
    if instrument < 0:
        return 0, instrument
    side = name_index(text, value_at[1], SIDES)
    if side < 0:
        return 0, BAD_JSON
    price, ok_price = parse_units(text, value_at[2], state.price_exp[instrument])
    size, ok_size = parse_units(text, value_at[3], state.size_exp[instrument])
    time_ns, ok_time = parse_iso_time(text, value_at[4])
    trade_id, ok_id = 0, 1
    if value_at[5] != 0:
        trade_id, ok_id = parse_units(text, value_at[5], NO_EXP)
    ok = min(ok_price, ok_size, ok_time, ok_id)
    if ok < 0:
        return 0, ok
    if count == MAX_LEVELS_PER_FRAME:
        return 0, FRAME_TOO_LARGE
    taker = BUY if side == 0 else SELL
    write_trade(rows, base + count, TRADE_KIND, instrument, taker, price, size, trade_id, time_ns)
    return count + 1, end


@kernel()
def _ticker_element(
    state: StateRow, text: Text, position: int, rows: np.ndarray, base: int, count: int
) -> tuple[int, int]:
    """One element of a ticker frame at `position`: (records in all, position after it), or (0, -Reason)."""
    value_at = state.value_at
    end = scan_object(text, position, TICKER_MEMBERS, value_at)
    if end < 0:
        return 0, end
    for member in range(5):
        if value_at[member] == 0:
            return 0, BAD_JSON
    instrument = find_symbol(state, text, value_at[0])
    if instrument < 0:
        return 0, instrument
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bid, ok_bid = parse_units(text, value_at[1], price_exp)
    bid_size, ok_bid_size = parse_units(text, value_at[2], size_exp)
    ask, ok_ask = parse_units(text, value_at[3], price_exp)
    ask_size, ok_ask_size = parse_units(text, value_at[4], size_exp)
    time_ns, ok_time = _iso_time(text, value_at[5])
    ok = min(ok_bid, ok_bid_size, ok_ask, ok_ask_size, ok_time)
    if ok < 0:
        return 0, ok
    if count + 2 > MAX_LEVELS_PER_FRAME:
        return 0, FRAME_TOO_LARGE
    write_quote(rows, base + count, instrument, BUY, bid, bid_size, time_ns)
    write_quote(rows, base + count + 1, instrument, SELL, ask, ask_size, time_ns)
    return count + 2, end


@kernel()
def _decode_data(
    state: StateRow, text: Text, position: int, channel: int, is_snapshot: bool, rows: np.ndarray, base: int
) -> Decoded:
    """The elements of the list at `position`."""
    position = skip_space(text, position + 1)
    count = 0
    more = byte_at(text, position) != CLOSE_LIST
    while more:
        if position >= text.size or byte_at(text, position) != OPEN_OBJECT:
            return refused(BAD_JSON)
        if channel == BOOK_CHANNEL:
            count, position = _book_element(state, text, position, is_snapshot, rows, base, count)
        elif channel == TRADE_CHANNEL:
            count, position = _trade_element(state, text, position, rows, base, count)
        else:
            count, position = _ticker_element(state, text, position, rows, base, count)
        if position < 0:
            return refused(position)
        more, position = next_element(text, position)
    if position < 0:
        return refused(BAD_JSON)
    if channel == BOOK_CHANNEL:
        return Decoded(BOOK_SNAPSHOT if is_snapshot else BOOK_UPDATE, count)
    group_by_instrument(rows, base, count, 0)
    if channel == TICKER_CHANNEL:
        return Decoded(TICKER, count)
    return Decoded(PAST_TRADES if is_snapshot else TRADES, count)


@kernel()
def _decode_answer(state: StateRow, text: Text) -> Decoded:
    """The answer to a request of ours."""
    value_at = state.value_at
    method = name_index(text, value_at[AT_METHOD], METHODS) if value_at[AT_METHOD] != 0 else -1
    if method == PONG_METHOD:
        return Decoded(PONG, 0)
    success = value_at[AT_SUCCESS]
    if value_at[AT_ERROR] != 0 or (success != 0 and byte_at(text, success) == LOWER_F):
        return Decoded(REFUSAL, 0)
    if method < 0:
        return refused(UNKNOWN_STREAM)
    if success == 0 or byte_at(text, success) != LOWER_T:
        return refused(BAD_JSON)
    return Decoded(ACK, 0)


@kernel()
def _decode_status(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """The status of the trading engine; a frame that does not say it has no records."""
    value_at = state.value_at
    if not opens(text, value_at[AT_DATA], OPEN_LIST):
        return Decoded(STATUS, 0)
    position = skip_space(text, value_at[AT_DATA] + 1)
    if position >= text.size or byte_at(text, position) != OPEN_OBJECT:
        return Decoded(STATUS, 0)
    if scan_object(text, position, SYSTEM_MEMBER, value_at) < 0:
        return refused(BAD_JSON)
    if value_at[0] == 0:
        return Decoded(STATUS, 0)
    return Decoded(STATUS, write_system_status(state, text, value_at[0], rows, base))


@kernel()
def decode_spot_v2(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """Decode one frame; its records are written to rows[base:]. A frame that is refused has a negative code."""
    start = skip_space(text, 0)
    if start >= text.size or byte_at(text, start) != OPEN_OBJECT:
        return refused(BAD_JSON)
    value_at = state.value_at
    end = scan_object(text, start, FRAME_MEMBERS, value_at)
    if end < 0 or skip_space(text, end) != text.size:
        return refused(BAD_JSON)
    if value_at[AT_CHANNEL] == 0:
        return _decode_answer(state, text)
    channel = name_index(text, value_at[AT_CHANNEL], CHANNELS)
    if channel < 0:
        return refused(UNKNOWN_STREAM)
    if channel == HEARTBEAT_CHANNEL:
        return Decoded(HEARTBEAT, 0)
    if channel == STATUS_CHANNEL:
        return _decode_status(state, text, rows, base)
    if channel == INSTRUMENT_CHANNEL:
        return Decoded(METADATA, 0)
    kind = name_index(text, value_at[AT_TYPE], TYPES) if value_at[AT_TYPE] != 0 else -1
    if kind < 0 or not opens(text, value_at[AT_DATA], OPEN_LIST):
        return refused(BAD_JSON)
    return _decode_data(state, text, value_at[AT_DATA], channel, kind == 0, rows, base)
