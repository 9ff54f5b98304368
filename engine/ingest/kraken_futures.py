"""Decoding the frames of Kraken Futures, WebSocket v1.

Layout: an object with `event`, or with `feed` and its data side by side; numbers are bare.

    book_snapshot   product_id timestamp seq bids asks       -> LEVEL, flagged SNAPSHOT, bids first; a level of size 0
                                                                is none, and is left out
    book            product_id side seq price qty timestamp  -> LEVEL, a group of one; sequence = seq
    trade           product_id side type seq time qty price  -> TRADE for a fill; TRADE and LIQUIDATION for a
                                                                liquidation; nothing for what is no deal on the book
    trade_snapshot  trades: past ones                        -> PAST_TRADES, no records, but their seq is learnt
    ticker          product_id time bid ask ... markPrice index relative_funding_rate next_funding_rate_time
                    openInterest suspended post_only         -> QUOTE bid, QUOTE ask, MARK_PRICE, FUNDING,
                                                                OPEN_INTEREST, each where its members are there, and a
                                                                STATUS where it is new
    ticker_lite     likewise without sizes and time          -> QUOTE of size 0: not told
    heartbeat, info, subscribed, error, alert                -> told apart, no records

The funding rate is the relative one: paid on the value of a position each hour. It, the mark price and the open
interest come with all digits of a float and are rounded to the unit of their record; everything else is exact or
refused. The seq of a trade is counted apart from the book's; it is its id here.

Invariants: nothing but `rows` and the scratch of the state is written. Cost: about 2 ns a byte: 0.3 us an update. Known
limit: a snapshot without any level is EMPTY_SNAPSHOT.
Source: Kraken Futures, "WebSocket API", public feeds.
"""

from __future__ import annotations

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    BAD_NUMBER,
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
    NO_SIDE,
    NS_PER_MS,
    SELL,
    SNAPSHOT_FLAG,
    TRADE_KIND,
    UNKNOWN_STREAM,
    close_levels,
    group_by_instrument,
    is_told,
    milliseconds,
    opens,
    parse_object_levels,
    refused,
    write_level,
    write_quote,
    write_status,
    write_trade,
)
from engine.ingest.kraken_state import Decoded, FrameKind
from engine.ingest.members import UNKNOWN_SYMBOL, find_symbol, make_names, name_index, next_element, scan_object
from engine.ingest.printed import parse_rounded
from engine.ingest.rows import write_row
from engine.ingest.state import MAX_LEVELS_PER_FRAME, StateRow
from engine.kernel import kernel
from engine.records import Kind, Status

ACK, REFUSAL, HEARTBEAT, STATUS = (
    int(FrameKind.ACK), int(FrameKind.REFUSAL), int(FrameKind.HEARTBEAT), int(FrameKind.STATUS),
)  # fmt: skip
BOOK_SNAPSHOT, BOOK_UPDATE = int(FrameKind.BOOK_SNAPSHOT), int(FrameKind.BOOK_UPDATE)
TRADES, PAST_TRADES, TICKER = int(FrameKind.TRADES), int(FrameKind.PAST_TRADES), int(FrameKind.TICKER)
MARK_KIND, FUNDING_KIND, LIQUIDATION_KIND = int(Kind.MARK_PRICE), int(Kind.FUNDING), int(Kind.LIQUIDATION)
OPEN_INTEREST_KIND = int(Kind.OPEN_INTEREST)
TRADING, HALTED, POST_ONLY = int(Status.TRADING), int(Status.HALTED), int(Status.POST_ONLY)
MARK_EXP, FUNDING_EXP = np.int64(8), np.int64(12)

MEMBERS = make_names(
    "event", "feed", "product_id", "seq", "side", "price", "qty", "timestamp", "time", "bids", "asks", "type",
    "trades", "bid", "ask", "bid_size", "ask_size", "markPrice", "index", "relative_funding_rate",
    "next_funding_rate_time", "openInterest", "suspended", "post_only",
)  # fmt: skip
(
    AT_EVENT, AT_FEED, AT_PRODUCT, AT_SEQUENCE, AT_SIDE, AT_PRICE, AT_SIZE, AT_TIMESTAMP, AT_TIME, AT_BIDS, AT_ASKS,
    AT_TYPE, AT_TRADES, AT_BID, AT_ASK, AT_BID_SIZE, AT_ASK_SIZE, AT_MARK, AT_INDEX, AT_RATE, AT_NEXT_FUNDING,
    AT_OPEN_INTEREST, AT_SUSPENDED, AT_POST_ONLY,
) = range(24)  # fmt: skip
EVENTS = make_names("info", "subscribed", "unsubscribed", "error", "alert")
FEEDS = make_names("book", "book_snapshot", "trade", "trade_snapshot", "ticker", "ticker_lite", "heartbeat")
BOOK_FEED, BOOK_SNAPSHOT_FEED, TRADE_FEED, TRADE_SNAPSHOT_FEED, TICKER_FEED, TICKER_LITE_FEED, HEARTBEAT_FEED = range(7)
SIDES = make_names("buy", "sell")
TRADE_TYPES = make_names("fill", "liquidation")
LOWER_T, LOWER_F, NOT_TOLD = ord("t"), ord("f"), 2


@kernel()
def _decode_event(text: Text, position: int) -> Decoded:
    event = name_index(text, position, EVENTS)
    if event < 0:
        return refused(UNKNOWN_STREAM)
    if event == 0:
        return Decoded(STATUS, 0)
    return Decoded(ACK if event <= 2 else REFUSAL, 0)


@kernel()
def _sequence(state: StateRow, text: Text) -> tuple[int, int]:
    """The seq of the scanned object as (seq, 1), or (0, -Reason)."""
    if state.value_at[AT_SEQUENCE] == 0:
        return 0, BAD_JSON
    sequence, end = parse_units(text, state.value_at[AT_SEQUENCE], NO_EXP)
    if end < 0 or sequence < 0:
        return 0, BAD_NUMBER
    return sequence, 1


@kernel()
def _decode_book(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    value_at = state.value_at
    side = name_index(text, value_at[AT_SIDE], SIDES) if value_at[AT_SIDE] != 0 else -1
    if side < 0 or value_at[AT_PRICE] == 0 or value_at[AT_SIZE] == 0:
        return refused(BAD_JSON)
    price, ok_price = parse_units(text, value_at[AT_PRICE], state.price_exp[instrument])
    size, ok_size = parse_units(text, value_at[AT_SIZE], state.size_exp[instrument])
    sequence, ok_sequence = _sequence(state, text)
    time_ns, ok_time = milliseconds(text, value_at[AT_TIMESTAMP])
    ok = min(ok_price, ok_size, ok_sequence, ok_time)
    if ok < 0:
        return refused(ok)
    write_level(rows, base, instrument, BUY if side == 0 else SELL, 0, price, size)
    close_levels(rows, base, base + 1, 0, time_ns, sequence, 0)
    return Decoded(BOOK_UPDATE, 1)


@kernel()
def _decode_snapshot(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    value_at = state.value_at
    if value_at[AT_BIDS] == 0 or value_at[AT_ASKS] == 0:
        return refused(BAD_JSON)
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bids = parse_object_levels(
        text, value_at[AT_BIDS], price_exp, size_exp, instrument, BUY, SNAPSHOT_FLAG, rows, base, 0
    )
    if bids.position < 0:
        return refused(bids.position)
    asks = parse_object_levels(
        text, value_at[AT_ASKS], price_exp, size_exp, instrument, SELL, SNAPSHOT_FLAG, rows, base, bids.written
    )
    if asks.position < 0:
        return refused(asks.position)
    sequence, ok_sequence = _sequence(state, text)
    time_ns, ok_time = milliseconds(text, value_at[AT_TIMESTAMP])
    ok = min(ok_sequence, ok_time)
    if ok < 0:
        return refused(ok)
    kept = 0
    for at in range(asks.written):
        if rows[base + at].size != 0:
            if kept != at:
                row = rows[base + at]
                write_level(rows, base + kept, instrument, np.int64(row.side), SNAPSHOT_FLAG, row.price, row.size)
            kept += 1
    if kept == 0:
        return refused(EMPTY_SNAPSHOT)
    close_levels(rows, base, base + kept, SNAPSHOT_FLAG, time_ns, sequence, 0)
    return Decoded(BOOK_SNAPSHOT, kept)


@kernel()
def _write_scanned_trade(state: StateRow, text: Text, rows: np.ndarray, base: int, count: int) -> int:
    """Write the trade whose members were scanned; the number of records in all, or -Reason."""
    value_at = state.value_at
    if value_at[AT_PRODUCT] == 0 or value_at[AT_PRICE] == 0 or value_at[AT_SIZE] == 0 or value_at[AT_TYPE] == 0:
        return BAD_JSON
    instrument = find_symbol(state, text, value_at[AT_PRODUCT])
    if instrument < 0:
        return instrument
    side = name_index(text, value_at[AT_SIDE], SIDES) if value_at[AT_SIDE] != 0 else -1
    if side < 0:
        return BAD_JSON
    price, ok_price = parse_units(text, value_at[AT_PRICE], state.price_exp[instrument])
    size, ok_size = parse_units(text, value_at[AT_SIZE], state.size_exp[instrument])
    sequence, ok_sequence = _sequence(state, text)
    time_ns, ok_time = milliseconds(text, value_at[AT_TIME])
    ok = min(ok_price, ok_size, ok_sequence, ok_time)
    if ok < 0:
        return ok
    if count + 2 > MAX_LEVELS_PER_FRAME:
        return FRAME_TOO_LARGE
    kind = name_index(text, value_at[AT_TYPE], TRADE_TYPES)
    taker = BUY if side == 0 else SELL
    if kind >= 0:
        write_trade(rows, base + count, TRADE_KIND, instrument, taker, price, size, sequence, time_ns)
        count += 1
    if kind == 1:
        write_trade(rows, base + count, LIQUIDATION_KIND, instrument, taker, price, size, sequence, time_ns)
        count += 1
    return count


@kernel()
def _decode_past_trades(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
    position = state.value_at[AT_TRADES]
    if not opens(text, position, OPEN_LIST):
        return refused(BAD_JSON)
    position = skip_space(text, position + 1)
    count = 0
    more = byte_at(text, position) != CLOSE_LIST
    while more:
        if position >= text.size or byte_at(text, position) != OPEN_OBJECT:
            return refused(BAD_JSON)
        position = scan_object(text, position, MEMBERS, state.value_at)
        if position < 0:
            return refused(position)
        count = _write_scanned_trade(state, text, rows, base, count)
        if count < 0:
            return refused(count)
        more, position = next_element(text, position)
    if position < 0:
        return refused(BAD_JSON)
    group_by_instrument(rows, base, count, 0)
    return Decoded(PAST_TRADES, count)


@kernel()
def _flag(text: Text, position: int) -> int:
    """1 or 0 for the true or false at `position`, NOT_TOLD, or BAD_JSON for anything else."""
    if not is_told(text, position):
        return NOT_TOLD
    first = byte_at(text, position)
    if first == LOWER_T:
        return 1
    return 0 if first == LOWER_F else BAD_JSON


@kernel()
def _ticker_status(state: StateRow, text: Text, instrument: int) -> int:
    """The Status that a ticker tells; that of before where it tells none, or BAD_JSON."""
    suspended, post_only = _flag(text, state.value_at[AT_SUSPENDED]), _flag(text, state.value_at[AT_POST_ONLY])
    if min(suspended, post_only) < 0:
        return BAD_JSON
    if suspended == NOT_TOLD and post_only == NOT_TOLD:
        return state.live_status[instrument]
    if suspended == 1:
        return HALTED
    return POST_ONLY if post_only == 1 else TRADING


@kernel()
def _decode_ticker(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Decoded:
    value_at = state.value_at
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    time_ns, ok = milliseconds(text, value_at[AT_TIME])
    if ok < 0:
        return refused(ok)
    count = 0
    for side in (1, -1):
        price_at = value_at[AT_BID] if side > 0 else value_at[AT_ASK]
        size_at = value_at[AT_BID_SIZE] if side > 0 else value_at[AT_ASK_SIZE]
        if is_told(text, price_at):
            price, ok = parse_units(text, price_at, price_exp)
            if ok < 0:
                return refused(ok)
            size = 0
            if is_told(text, size_at):
                size, ok = parse_units(text, size_at, size_exp)
                if ok < 0:
                    return refused(ok)
            write_quote(rows, base + count, instrument, side, price, size, time_ns)
            count += 1
    if is_told(text, value_at[AT_MARK]):
        mark, ok = parse_rounded(text, value_at[AT_MARK], MARK_EXP)
        if ok < 0:
            return refused(ok)
        index_price = 0
        if is_told(text, value_at[AT_INDEX]):
            index_price, ok = parse_rounded(text, value_at[AT_INDEX], MARK_EXP)
            if ok < 0:
                return refused(ok)
        write_row(rows[base + count], MARK_KIND, NO_SIDE, 0, mark, index_price, 0)
        rows[base + count].instrument = instrument
        rows[base + count].exch_ts_ns = time_ns
        count += 1
    if is_told(text, value_at[AT_RATE]) and is_told(text, value_at[AT_NEXT_FUNDING]):
        rate, ok = parse_rounded(text, value_at[AT_RATE], FUNDING_EXP)
        if ok < 0:
            return refused(ok)
        next_ns, ok = milliseconds(text, value_at[AT_NEXT_FUNDING])
        if ok < 0:
            return refused(ok)
        write_row(rows[base + count], FUNDING_KIND, NO_SIDE, 0, 0, next_ns // NS_PER_MS, rate)
        rows[base + count].instrument = instrument
        rows[base + count].exch_ts_ns = time_ns
        count += 1
    if is_told(text, value_at[AT_OPEN_INTEREST]):
        size, ok = parse_rounded(text, value_at[AT_OPEN_INTEREST], size_exp)
        if ok < 0:
            return refused(ok)
        write_row(rows[base + count], OPEN_INTEREST_KIND, NO_SIDE, 0, 0, size, 0)
        rows[base + count].instrument = instrument
        rows[base + count].exch_ts_ns = time_ns
        count += 1
    status = _ticker_status(state, text, instrument)
    if status < 0:
        return refused(status)
    count = write_status(state, rows, base + count, instrument, status, time_ns) - base
    group_by_instrument(rows, base, count, 0)
    return Decoded(TICKER, count)


@kernel()
def decode_futures(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """Decode one frame; its records are written to rows[base:]. A frame that is refused has a negative code."""
    start = skip_space(text, 0)
    if start >= text.size or byte_at(text, start) != OPEN_OBJECT:
        return refused(BAD_JSON)
    value_at = state.value_at
    end = scan_object(text, start, MEMBERS, value_at)
    if end < 0 or skip_space(text, end) != text.size:
        return refused(BAD_JSON)
    if value_at[AT_EVENT] != 0:
        return _decode_event(text, value_at[AT_EVENT])
    feed = name_index(text, value_at[AT_FEED], FEEDS) if value_at[AT_FEED] != 0 else -1
    if feed < 0:
        return refused(UNKNOWN_STREAM)
    if feed == HEARTBEAT_FEED:
        return Decoded(HEARTBEAT, 0)
    instrument = find_symbol(state, text, value_at[AT_PRODUCT]) if value_at[AT_PRODUCT] != 0 else UNKNOWN_SYMBOL
    if instrument < 0:
        return refused(instrument)
    if feed == BOOK_FEED:
        return _decode_book(state, text, instrument, rows, base)
    if feed == BOOK_SNAPSHOT_FEED:
        return _decode_snapshot(state, text, instrument, rows, base)
    if feed == TRADE_SNAPSHOT_FEED:
        return _decode_past_trades(state, text, rows, base)
    if feed == TRADE_FEED:
        count = _write_scanned_trade(state, text, rows, base, 0)
        if count < 0:
            return refused(count)
        group_by_instrument(rows, base, count, 0)
        return Decoded(TRADES, count)
    return _decode_ticker(state, text, instrument, rows, base)
