"""Decoding the market-data frames of Binance: spot, USD-M futures, COIN-M futures.

Layout: a frame is `{"stream": ..., "data": EVENT}`, a bare EVENT, or an answer `{"result": null, "id": 1}`.

    depthUpdate      E T s U u pu b a   -> LEVEL for each level, bids first, each side in wire order
    trade            E T s t p q m      -> TRADE; side is the aggressor's: m says that the buyer was resting
    aggTrade         E T s f l p q m    -> TRADE of the trades f to l, which had one price and one aggressor
    bookTicker       E T s u b B a A    -> QUOTE bid, QUOTE ask
    markPriceUpdate  E s p i r T        -> MARK_PRICE, FUNDING (none where r is absent or empty)
    forceOrder       E o{s S p q T}     -> LIQUIDATION
    contractInfo     s cs               -> no records: the room of the venue makes a listing of it
    REST openInterest  openInterest symbol time -> OPEN_INTEREST; futures
    REST depth       lastUpdateId E T bids asks -> LEVEL with Flag.SNAPSHOT

Spot differs in three things: its depth has neither T nor pu, but U follows on the u before, so that U - 1 stands
for pu; its bookTicker has no e, E or T; its snapshot has no time. COIN-M adds `ps` and `pair`, which are skipped,
and the `symbol` of a snapshot; its sizes are contracts.

The records are written to `rows` from `base` on; the caller stamps what all of a frame share. Trades with a
price or size of zero, or of another kind than MARKET, are decoded like any other: validation refuses them.

Invariants: nothing but `rows` and the scratch of the state is written; prices need not be on tick. Cost: 15 ns a
level, 170 ns a trade, 190 ns a ticker. Known limits: klines and other streams are UNKNOWN_STREAM; the partial depth
of futures (`@depth20`) looks like a diff and must not be subscribed.
Source: Binance spot, USD-M and COIN-M futures, "Websocket Market Streams" and "Order Book".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.ingest.entry import is_listed
from engine.ingest.event_scan import (
    AT_ASK,
    AT_ASK_SIZE,
    AT_BID,
    AT_BID_SIZE,
    AT_EVENT,
    AT_EVENT_TIME,
    AT_FIRST_ID,
    AT_FIRST_TRADE,
    AT_INDEX,
    AT_LAST_ID,
    AT_LAST_TRADE,
    AT_MAKER,
    AT_ORDER,
    AT_PREVIOUS,
    AT_PRICE,
    AT_RATE,
    AT_SIDE,
    AT_SIZE,
    AT_TIME,
    AT_TRADE_ID,
    BUY,
    NO_EXP,
    NONE_YET,
    NS_PER_MS,
    SELL,
    SLOT_BASE,
    number_at,
    parse_levels,
    scan_event,
    time_at,
    venue_time,
)
from engine.ingest.json_scan import (
    BAD_JSON,
    BAD_NUMBER,
    CLOSE_OBJECT,
    LOWER_E,
    NO_NAME,
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
)
from engine.ingest.members import UNKNOWN_SYMBOL, find_symbol, next_key, next_member
from engine.ingest.rows import FIRST, LAST, mark_group, write_row
from engine.ingest.state import VALUE_SLOTS, StateRow
from engine.instruments import Dialect
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Flag, Kind, Side

UNKNOWN_STREAM = -int(Reason.UNKNOWN_STREAM)
SPOT = int(Dialect.BINANCE_SPOT)

# What a frame was, when it is not refused.
ACK, DEPTH, TRADE, QUOTE_PAIR, MARK, MARK_AND_FUNDING, LIQUIDATION, SNAPSHOT, OPEN_INTEREST = range(1, 10)
CONTRACT_INFO = 10

MARK_EXP, FUNDING_EXP = np.int64(8), np.int64(12)
TRADE_KIND, QUOTE_KIND, LIQUIDATION_KIND = int(Kind.TRADE), int(Kind.QUOTE), int(Kind.LIQUIDATION)
MARK_KIND, FUNDING_KIND = int(Kind.MARK_PRICE), int(Kind.FUNDING)
OPEN_INTEREST_KIND = int(Kind.OPEN_INTEREST)
NO_SIDE, SNAPSHOT_FLAG = int(Side.NONE), int(Flag.SNAPSHOT)
LOWER_T, LOWER_F, LOWER_U = ord("t"), ord("f"), ord("u")

DEPTH_EVENT, TRADE_EVENT, TICKER_EVENT = pack_name("depthUpdate"), pack_name("trade"), pack_name("bookTicker")
MARK_EVENT, LIQUIDATION_EVENT = pack_name("markPriceUpdate"), pack_name("forceOrder")
AGGREGATE_EVENT, CONTRACT_EVENT = pack_name("aggTrade"), pack_name("contractInfo")
DATA_KEY, RESULT_KEY = pack_name("data"), pack_name("result")
BUY_NAME, SELL_NAME = pack_name("BUY"), pack_name("SELL")
UPDATE_ID_KEY, BIDS_KEY, ASKS_KEY = pack_name("lastUpdateId"), pack_name("bids"), pack_name("asks")
SYMBOL_KEY = pack_name("symbol")
OPEN_INTEREST_KEY, TIME_KEY = pack_name("openInterest"), pack_name("time")


class Decoded(NamedTuple):
    """One frame, decoded. `code` is what it was, or -Reason; the rest holds only for codes that have it."""

    code: int
    instrument: int
    records: int  # written to rows
    bids: int  # of them, bid levels
    exch_ts_ns: int  # T where given, else E, else 0
    sequence: int  # u of a diff or ticker, (last) trade id, lastUpdateId
    first_id: int  # U of a diff, first trade id of a trade
    previous_id: int  # pu of a diff


@kernel(inline=True)
def _nothing(code: int) -> Decoded:
    return Decoded(code, 0, 0, 0, 0, 0, 0, 0)


@kernel()
def _decode_depth(
    state: StateRow, text: Text, rows: np.ndarray, base: int, instrument: int, bids: int, levels: int
) -> Decoded:
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    if state.value_at[AT_BID] == 0 or state.value_at[AT_ASK] == 0:
        return _nothing(BAD_JSON)
    if bids < 0:
        bids, end = parse_levels(text, state.value_at[AT_BID], price_exp, size_exp, BUY, rows, base, NONE_YET)
        if end < 0:
            return _nothing(end)
    if levels < 0:
        levels, end = parse_levels(text, state.value_at[AT_ASK], price_exp, size_exp, SELL, rows, base, bids)
        if end < 0:
            return _nothing(end)
    first_id, ok_first = number_at(state, text, AT_FIRST_ID, NO_EXP)
    last_id, ok_last = number_at(state, text, AT_LAST_ID, NO_EXP)
    previous_id, ok_previous = first_id - 1, 1
    if state.dialect != SPOT:
        previous_id, ok_previous = number_at(state, text, AT_PREVIOUS, NO_EXP)
    exch_ts_ns, ok_time = venue_time(state, text)
    ok = min(ok_first, ok_last, ok_previous, ok_time)
    if ok < 0:
        return _nothing(ok)
    mark_group(rows, base, levels, 0)
    return Decoded(DEPTH, instrument, levels, bids, exch_ts_ns, last_id, first_id, previous_id)


@kernel()
def _decode_trade(
    state: StateRow, text: Text, rows: np.ndarray, base: int, instrument: int, at_first: int, at_last: int
) -> Decoded:
    """A trade, or several in one: at_first and at_last are the slots of the first and the last trade id."""
    price, ok_price = number_at(state, text, AT_PRICE, state.price_exp[instrument])
    size, ok_size = number_at(state, text, AT_SIZE, state.size_exp[instrument])
    first_id, ok_first = number_at(state, text, at_first, NO_EXP)
    trade_id, ok_id = number_at(state, text, at_last, NO_EXP)
    exch_ts_ns, ok_time = venue_time(state, text)
    ok = min(ok_price, ok_size, ok_first, ok_id, ok_time)
    if ok < 0:
        return _nothing(ok)
    if first_id > trade_id:
        return _nothing(BAD_NUMBER)
    maker_at = state.value_at[AT_MAKER]
    if maker_at == 0 or (byte_at(text, maker_at) != LOWER_T and byte_at(text, maker_at) != LOWER_F):
        return _nothing(BAD_JSON)
    side = SELL if byte_at(text, maker_at) == LOWER_T else BUY
    write_row(rows[base], TRADE_KIND, side, FIRST | LAST, price, size, trade_id)
    return Decoded(TRADE, instrument, 1, 0, exch_ts_ns, trade_id, first_id, 0)


@kernel()
def _decode_quote_pair(state: StateRow, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bid, ok_bid = number_at(state, text, AT_BID, price_exp)
    bid_size, ok_bid_size = number_at(state, text, AT_BID_SIZE, size_exp)
    ask, ok_ask = number_at(state, text, AT_ASK, price_exp)
    ask_size, ok_ask_size = number_at(state, text, AT_ASK_SIZE, size_exp)
    update_id, ok_id = number_at(state, text, AT_LAST_ID, NO_EXP)
    exch_ts_ns, ok_time = venue_time(state, text)
    ok = min(ok_bid, ok_bid_size, ok_ask, ok_ask_size, ok_id, ok_time)
    if ok < 0:
        return _nothing(ok)
    write_row(rows[base], QUOTE_KIND, BUY, FIRST, bid, bid_size, 0)
    write_row(rows[base + 1], QUOTE_KIND, SELL, LAST, ask, ask_size, 0)
    return Decoded(QUOTE_PAIR, instrument, 2, 0, exch_ts_ns, update_id, 0, 0)


@kernel()
def _decode_mark(state: StateRow, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    """Mark and index price, and funding where there is any. T is the next funding time here, so E is the time."""
    mark, ok_mark = number_at(state, text, AT_PRICE, MARK_EXP)
    exch_ts_ns, ok_time = time_at(state, text, AT_EVENT_TIME)
    index_price, ok_index = 0, 1
    if state.value_at[AT_INDEX] != 0:
        index_price, ok_index = number_at(state, text, AT_INDEX, MARK_EXP)
    rate, next_ns, ok_rate, ok_next = 0, 0, 1, 1
    rate_at = state.value_at[AT_RATE]
    # a delivery contract has no funding: its rate is the empty string
    funded = rate_at != 0 and not (byte_at(text, rate_at) == QUOTE and byte_at(text, rate_at + 1) == QUOTE)
    if funded:
        rate, ok_rate = number_at(state, text, AT_RATE, FUNDING_EXP)
        next_ns, ok_next = time_at(state, text, AT_TIME)
    ok = min(ok_mark, ok_time, ok_index, ok_rate, ok_next)
    if ok < 0:
        return _nothing(ok)
    write_row(rows[base], MARK_KIND, NO_SIDE, FIRST if funded else FIRST | LAST, mark, index_price, 0)
    if not funded:
        return Decoded(MARK, instrument, 1, 0, exch_ts_ns, 0, 0, 0)
    write_row(rows[base + 1], FUNDING_KIND, NO_SIDE, LAST, 0, next_ns // NS_PER_MS, rate)
    return Decoded(MARK_AND_FUNDING, instrument, 2, 0, exch_ts_ns, 0, 0, 0)


@kernel()
def _decode_liquidation(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
    """The order sits in an object of its own, member o; price and size are the order's, not the average."""
    order_at = state.value_at[AT_ORDER]
    if order_at == 0 or byte_at(text, order_at) != OPEN_OBJECT:
        return _nothing(BAD_JSON)
    event_ts_ns, ok_event = time_at(state, text, AT_EVENT_TIME)
    end, instrument, _, _ = scan_event(state, text, order_at, rows, base)
    if end < 0:
        return _nothing(end)
    if instrument < 0:
        return _nothing(instrument)
    price, ok_price = number_at(state, text, AT_PRICE, state.price_exp[instrument])
    size, ok_size = number_at(state, text, AT_SIZE, state.size_exp[instrument])
    exch_ts_ns, ok_time = time_at(state, text, AT_TIME)
    if state.value_at[AT_TIME] == 0:
        exch_ts_ns = event_ts_ns
    ok = min(ok_price, ok_size, ok_time, ok_event)
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
def _decode_open_interest(
    state: StateRow, text: Text, rows: np.ndarray, base: int, size_at: int, symbol_at: int, time_of: int
) -> Decoded:
    """What REST answers when it is asked what is open of a contract."""
    if symbol_at == 0 or time_of == 0:
        return _nothing(BAD_JSON)
    instrument = find_symbol(state, text, symbol_at)
    if instrument < 0:
        return _nothing(instrument)
    state.value_at[AT_TIME] = time_of
    exch_ts_ns, ok_time = time_at(state, text, AT_TIME)
    size, end = parse_units(text, size_at, state.size_exp[instrument])
    ok = min(ok_time, end)
    if ok < 0:
        return _nothing(ok)
    write_row(rows[base], OPEN_INTEREST_KIND, NO_SIDE, FIRST | LAST, 0, size, 0)
    return Decoded(OPEN_INTEREST, instrument, 1, 0, exch_ts_ns, 0, 0, 0)


@kernel()
def _decode_event(
    state: StateRow, text: Text, rows: np.ndarray, base: int, instrument: int, bids: int, levels: int
) -> Decoded:
    """Make the records of a scanned event."""
    event_at = state.value_at[AT_EVENT]
    event = read_name(text, event_at) if event_at != 0 else NO_NAME
    if same_name(event, LIQUIDATION_EVENT):
        return _decode_liquidation(state, text, rows, base)
    if same_name(event, CONTRACT_EVENT) and state.dialect != SPOT:
        return _nothing(CONTRACT_INFO)
    is_depth = same_name(event, DEPTH_EVENT)
    is_trade = same_name(event, TRADE_EVENT)
    is_aggregate = same_name(event, AGGREGATE_EVENT)
    is_ticker = same_name(event, TICKER_EVENT)
    if event_at == 0 and state.dialect == SPOT:
        is_ticker = state.value_at[AT_BID_SIZE] != 0  # the one event that does not say what it is
    if not (is_depth or is_trade or is_aggregate or is_ticker or same_name(event, MARK_EVENT)):
        return _nothing(UNKNOWN_STREAM)
    if instrument < 0:
        return _nothing(instrument)
    if is_ticker:
        return _decode_quote_pair(state, text, rows, base, instrument)
    if is_trade:
        return _decode_trade(state, text, rows, base, instrument, AT_TRADE_ID, AT_TRADE_ID)
    if is_aggregate:
        return _decode_trade(state, text, rows, base, instrument, AT_FIRST_TRADE, AT_LAST_TRADE)
    if is_depth:
        return _decode_depth(state, text, rows, base, instrument, bids, levels)
    return _decode_mark(state, text, rows, base, instrument)


@kernel()
def decode_frame(state: StateRow, text: Text, rows: np.ndarray, base: int) -> Decoded:
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
    is_event, is_wrapped, is_answer = False, False, False
    open_at, symbol_at, time_of = 0, 0, 0
    instrument, bids, levels = BAD_JSON, -1, -1
    more = True
    while more:
        key_end, value = next_key(text, position)
        if key_end < 0:
            return _nothing(BAD_JSON)
        letter = byte_at(text, position + 1) if key_end - position == 2 else 0
        if (letter == LOWER_E or letter == LOWER_U) and not is_event:
            # the frame names its event itself, or is a ticker of spot: all of it is the event
            is_event = True
            position, instrument, bids, levels = scan_event(state, text, start, rows, base)
            break
        key = read_name(text, position)
        if same_name(key, DATA_KEY) and byte_at(text, value) == OPEN_OBJECT and not is_event:
            is_event, is_wrapped = True, True
            position, instrument, bids, levels = scan_event(state, text, value, rows, base)
        else:
            seen = 0
            if same_name(key, OPEN_INTEREST_KEY):
                seen, open_at = open_at, value
            elif same_name(key, SYMBOL_KEY):
                seen, symbol_at = symbol_at, value
            elif same_name(key, TIME_KEY):
                seen, time_of = time_of, value
            else:
                is_answer = is_answer or same_name(key, RESULT_KEY)
            if seen != 0:
                return _nothing(BAD_JSON)
            position = skip_value(text, value)
        if position < 0:
            return _nothing(position)
        more, position = next_member(text, position)
    if position < 0:
        return _nothing(position)
    if skip_space(text, position) != size:
        return _nothing(BAD_JSON)
    if is_answer and (is_wrapped or open_at != 0):
        return _nothing(BAD_JSON)  # an answer and news at once: no venue sends that, two frames run into one another do
    if open_at != 0 and not is_event:
        return _decode_open_interest(state, text, rows, base, open_at, symbol_at, time_of)
    if is_event:
        return _decode_event(state, text, rows, base, instrument, bids, levels)
    return _nothing(ACK if is_answer else UNKNOWN_STREAM)


@kernel()
def decode_snapshot(state: StateRow, text: Text, rows: np.ndarray, base: int, instrument: int) -> Decoded:
    """Decode one REST depth body of an instrument; its levels, flagged SNAPSHOT, are written to rows[base:].

    A body without any level is BAD_JSON: nothing could say that the book is empty, and no book is that bare. One that
    names another symbol, or is of no instrument, is UNKNOWN_SYMBOL.
    """
    if not is_listed(state, instrument):
        return _nothing(UNKNOWN_SYMBOL)
    size = text.size
    value_at = state.value_at
    for slot in range(VALUE_SLOTS):
        value_at[slot] = 0
    start = skip_space(text, 0)
    if start >= size or byte_at(text, start) != OPEN_OBJECT:
        return _nothing(BAD_JSON)
    position = skip_space(text, start + 1)
    update_at, bids_at, asks_at, symbol_at = 0, 0, 0, 0
    more = True
    while more:
        key_end, value = next_key(text, position)
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
        elif same_name(key, SYMBOL_KEY):
            seen, symbol_at = symbol_at, value
        elif key_end - position == 2:
            slot = byte_at(text, position + 1) - SLOT_BASE
            if slot > 0 and slot < VALUE_SLOTS:
                seen, value_at[slot] = value_at[slot], value
        if seen != 0:
            return _nothing(BAD_JSON)
        position = skip_value(text, value)
        if position < 0:
            return _nothing(position)
        more, position = next_member(text, position)
    if position < 0 or skip_space(text, position) != size:
        return _nothing(BAD_JSON)
    if update_at == 0 or bids_at == 0 or asks_at == 0:
        return _nothing(BAD_JSON)
    if symbol_at != 0 and find_symbol(state, text, symbol_at) != instrument:
        return _nothing(UNKNOWN_SYMBOL)
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bids, end = parse_levels(text, bids_at, price_exp, size_exp, BUY, rows, base, NONE_YET)
    if end < 0:
        return _nothing(end)
    levels, end = parse_levels(text, asks_at, price_exp, size_exp, SELL, rows, base, bids)
    if end < 0:
        return _nothing(end)
    update_id, end = parse_units(text, update_at, NO_EXP)
    if end < 0:
        return _nothing(end)
    exch_ts_ns, ok_time = venue_time(state, text)
    if ok_time < 0:
        return _nothing(ok_time)
    if levels == 0:
        return _nothing(BAD_JSON)
    mark_group(rows, base, levels, SNAPSHOT_FLAG)
    return Decoded(SNAPSHOT, instrument, levels, bids, exch_ts_ns, update_id, 0, 0)
