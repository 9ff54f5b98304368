"""Decoding the REST body of a book of Kraken spot, which books are audited by.

    {"error": [], "result": {PAIR: {"asks": [[price, size, time], ...], "bids": [...]}}}

The pair stands there by REST's own name and only one is asked for, so its name is not looked at. Sizes are printed with
fewer decimals than on the socket (3; cut or rounded is not documented): two agree that differ by less than one of the
last digit. Invariants and cost: as kraken_levels.py. Known limits: built on the documented form and a single message.
Source: Kraken, "Spot REST API, Get Order Book".
"""

from __future__ import annotations

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    CLOSE_LIST,
    CLOSE_OBJECT,
    OPEN_LIST,
    OPEN_OBJECT,
    Text,
    byte_at,
    skip_space,
)
from engine.ingest.kraken_levels import (
    BUY,
    EMPTY_SNAPSHOT,
    SELL,
    Levels,
    no_levels,
    opens,
    parse_list_levels,
)
from engine.ingest.members import make_names, next_key, next_member, scan_object
from engine.ingest.state import StateRow
from engine.kernel import kernel

BODY_MEMBERS = make_names("error", "result")
BOOK_MEMBERS = make_names("bids", "asks")


@kernel()
def decode_depth_body(state: StateRow, text: Text, instrument: int, rows: np.ndarray, base: int) -> Levels:
    """Write the levels of a body to rows[base:], bids first. Returns them as Levels, refused with a negative position.

    A body that says an error, or of several pairs, is BAD_JSON; one without any level EMPTY_SNAPSHOT.
    """
    start = skip_space(text, 0)
    if start >= text.size or byte_at(text, start) != OPEN_OBJECT:
        return no_levels(BAD_JSON)
    value_at = state.value_at
    end = scan_object(text, start, BODY_MEMBERS, value_at)
    if end < 0 or skip_space(text, end) != text.size:
        return no_levels(BAD_JSON)
    error, result = value_at[0], value_at[1]
    if error != 0:
        if not opens(text, error, OPEN_LIST) or byte_at(text, skip_space(text, error + 1)) != CLOSE_LIST:
            return no_levels(BAD_JSON)
    if not opens(text, result, OPEN_OBJECT):
        return no_levels(BAD_JSON)
    pair = skip_space(text, result + 1)
    if byte_at(text, pair) == CLOSE_OBJECT:
        return no_levels(BAD_JSON)
    key_end, value = next_key(text, pair)
    if key_end < 0 or not opens(text, value, OPEN_OBJECT):
        return no_levels(BAD_JSON)
    end = scan_object(text, value, BOOK_MEMBERS, value_at)
    if end < 0 or value_at[0] == 0 or value_at[1] == 0:
        return no_levels(BAD_JSON)
    more, end = next_member(text, end)
    if more or end < 0:
        return no_levels(BAD_JSON)
    price_exp, size_exp = state.price_exp[instrument], state.size_exp[instrument]
    bids = parse_list_levels(text, value_at[0], price_exp, size_exp, instrument, BUY, 0, rows, base, 0)
    if bids.position < 0:
        return bids
    asks = parse_list_levels(text, value_at[1], price_exp, size_exp, instrument, SELL, 0, rows, base, bids.written)
    if asks.position < 0:
        return asks
    if asks.written == 0:
        return no_levels(EMPTY_SNAPSHOT)
    size_decimals = max(bids.size_decimals, asks.size_decimals)
    return Levels(asks.written, asks.position, 0, size_decimals, max(bids.time_ns, asks.time_ns))
