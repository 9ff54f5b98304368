"""Where a frame stands in its stream, by the venue's own numbers, for whoever has it over several connections.

Layout: an entry point takes a state of ingestion and an outbox, both as bytes and both of the caller's own, since they
are scratch here, and fills `place`: int64[3], the instrument, the number before the frame, the number after it. It
returns what the frame is of, a `Stream`; NONE for what has no place: answers, heartbeats, frames that are refused.

                  number                       the number before it
    BOOK          u, seq                       pu, U - 1 (spot), seq - 1
    SNAPSHOT      seq                          none
    TRADES        last trade id, seq of it     first trade id - 1, seq - 1
    PAST_TRADES   highest seq of them          none
    TICKER        u (Binance), venue time      none: the newest is what counts
    MARK_PRICE    venue time                   none
    LIQUIDATION   venue time                   none

Invariants: the caller's state is left as it was but for scratch. Cost: that of the decoder.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numba import types

from engine.ingest.binance import DEPTH, LIQUIDATION, MARK, MARK_AND_FUNDING, QUOTE_PAIR, TRADE, decode_frame
from engine.ingest.entry import open_outbox
from engine.ingest.json_scan import text_of
from engine.ingest.kraken_futures import BOOK_SNAPSHOT, BOOK_UPDATE, PAST_TRADES, TICKER, TRADES, decode_futures
from engine.ingest.kraken_state import KRAKEN_STATE
from engine.ingest.lines import NOTHING_YET
from engine.ingest.state import INGEST_STATE, MAX_LEVELS_PER_FRAME
from engine.kernel import kernel
from engine.stage import BYTES

PLACE_RECORDS = MAX_LEVELS_PER_FRAME + 1  # the outbox holds so many
_FRAME = types.Bytes(types.uint8, 1, "C")
_PLACE = types.Array(types.int64, 1, "C")


class Stream(IntEnum):
    """What a frame is of."""

    NONE = 0
    BOOK = 1
    TRADES = 2
    TICKER = 3
    MARK_PRICE = 4
    LIQUIDATION = 5
    SNAPSHOT = 6  # of a book, over the socket
    PAST_TRADES = 7  # from before a subscription


_NONE, _BOOK, _TRADES, _TICKER = int(Stream.NONE), int(Stream.BOOK), int(Stream.TRADES), int(Stream.TICKER)
_MARK, _LIQUIDATION = int(Stream.MARK_PRICE), int(Stream.LIQUIDATION)
_SNAPSHOT, _PAST_TRADES = int(Stream.SNAPSHOT), int(Stream.PAST_TRADES)


@kernel(types.int64(BYTES, _FRAME, BYTES, _PLACE))
def binance_place(state: np.ndarray, frame: bytes, outbox: np.ndarray, place: np.ndarray) -> int:
    """The place of a frame of Binance; see the module."""
    row, rows = state.view(INGEST_STATE)[0], open_outbox(outbox, PLACE_RECORDS)
    decoded = decode_frame(row, text_of(frame), rows, 0)
    place[0] = decoded.instrument
    place[1] = NOTHING_YET
    place[2] = decoded.sequence
    if decoded.code == DEPTH:
        place[1] = decoded.previous_id
        return _BOOK
    if decoded.code == TRADE:
        place[1] = decoded.first_id - 1
        return _TRADES
    if decoded.code == QUOTE_PAIR:
        return _TICKER
    place[2] = decoded.exch_ts_ns
    if decoded.code == MARK or decoded.code == MARK_AND_FUNDING:
        return _MARK
    return _LIQUIDATION if decoded.code == LIQUIDATION else _NONE


@kernel(types.int64(BYTES, _FRAME, BYTES, _PLACE))
def kraken_futures_place(state: np.ndarray, frame: bytes, outbox: np.ndarray, place: np.ndarray) -> int:
    """The place of a frame of Kraken Futures; see the module."""
    row, rows = state.view(KRAKEN_STATE)[0], open_outbox(outbox, PLACE_RECORDS)
    decoded = decode_futures(row, text_of(frame), rows, 0)
    if decoded.code < 0 or decoded.records == 0:
        return _NONE
    place[0] = np.int64(rows[0].instrument)
    place[1] = NOTHING_YET
    place[2] = rows[0].sequence
    if decoded.code == BOOK_UPDATE:
        place[1] = rows[0].sequence - 1
        return _BOOK
    if decoded.code == BOOK_SNAPSHOT:
        return _SNAPSHOT
    if decoded.code == TICKER:
        place[2] = rows[0].exch_ts_ns
        return _TICKER
    if decoded.code != TRADES and decoded.code != PAST_TRADES:
        return _NONE
    place[2] = rows[0].aux
    for at in range(1, decoded.records):
        place[2] = max(place[2], rows[at].aux)
    if decoded.code == PAST_TRADES:
        return _PAST_TRADES
    place[1] = rows[0].aux - 1
    return _TRADES
