"""What the decoders of Kraken's three wire formats share: lists of levels, trades and quotes as records.

Layout: records are written to rows[base + count:] with all that a decoder knows of them: the instrument, the venue's
time and sequence, the flags of their group. The caller adds what it knows: receive time, ingest id, venue index.

Invariants: nothing but `rows` is written; a helper that answers with -Reason may leave records behind `base` that
nobody reads. Cost: about 1 ns a byte, 40 to 60 ns a level.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.ingest.json_scan import (
    BAD_JSON,
    BAD_NUMBER,
    CLOSE_LIST,
    OPEN_LIST,
    OPEN_OBJECT,
    Text,
    byte_at,
    ends_scalar,
    pack_name,
    parse_units,
    read_name,
    same_name,
    skip_space,
    skip_value,
)
from engine.ingest.kraken_state import Decoded
from engine.ingest.members import make_names, name_index, next_element, next_key, next_member
from engine.ingest.printed import parse_printed
from engine.ingest.rows import FIRST, LAST, write_row
from engine.ingest.state import MAX_LEVELS_PER_FRAME, StateRow
from engine.instruments import MAX_INSTRUMENTS
from engine.integrity.wire_checksum import MAX_CHECKSUM, MAX_DECIMALS
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Flag, Kind, Side, Status

FRAME_TOO_LARGE, UNKNOWN_STREAM = -int(Reason.FRAME_TOO_LARGE), -int(Reason.UNKNOWN_STREAM)
EMPTY_SNAPSHOT = -int(Reason.EMPTY_SNAPSHOT)
LEVEL_KIND, TRADE_KIND, QUOTE_KIND = int(Kind.LEVEL), int(Kind.TRADE), int(Kind.QUOTE)
SNAPSHOT_FLAG = int(Flag.SNAPSHOT)
# A numpy integer is no literal to numba: a helper that takes these compiles once, not once for each of them.
BUY, SELL, NO_SIDE = np.int64(Side.BUY), np.int64(Side.SELL), np.int64(Side.NONE)
NO_EXP, NANOSECONDS_EXP = np.int64(0), np.int64(9)
NS_PER_MS = 1_000_000
MAX_TIME_MS = (2**63 - 1) // NS_PER_MS
NULL = np.frombuffer(b"null", np.uint8).copy()
PRICE_KEY, SIZE_KEY = pack_name("price"), pack_name("qty")
STATUS_KIND, HALTED = int(Kind.STATUS), int(Status.HALTED)
# What spot says of its trading engine, and what that means; "maintenance" and words that are new are HALTED.
SYSTEM_WORDS = make_names("online", "cancel_only", "post_only")
SYSTEM_STATUS = np.array([Status.TRADING, Status.CANCEL_ONLY, Status.POST_ONLY], np.int64)


class Levels(NamedTuple):
    """What a list of levels held: records in all, the position after it or -Reason, and what was seen."""

    written: int
    position: int
    price_decimals: int  # the most that a price was printed with, -1: no price
    size_decimals: int  # likewise of sizes above 0
    time_ns: int  # the latest time, 0 where levels carry none


@kernel(inline=True)
def refused(reason: int) -> Decoded:
    """A frame that is refused with -Reason."""
    return Decoded(reason, 0)


@kernel(inline=True)
def no_levels(reason: int) -> Levels:
    """A list of levels that is refused with -Reason."""
    return Levels(0, reason, 0, 0, 0)


@kernel()
def write_level(rows: np.ndarray, at: int, instrument: int, side: int, flags: int, price: int, size: int) -> None:
    """Write one LEVEL without time and sequence."""
    write_row(rows[at], LEVEL_KIND, side, flags, price, size, 0)
    rows[at].instrument = instrument


@kernel()
def parse_list_levels(
    text: Text, position: int, price_exp: int, size_exp: int, instrument: int, side: int, flags: int,
    rows: np.ndarray, base: int, count: int,
) -> Levels:  # fmt: skip
    """Decode `[[price, size, time, ...], ...]` at `position`; what follows the time is skipped."""
    end = text.size
    if position >= end or byte_at(text, position) != OPEN_LIST:
        return no_levels(BAD_JSON)
    price_decimals, size_decimals, latest = -1, -1, 0
    position = skip_space(text, position + 1)
    if position < end and byte_at(text, position) == CLOSE_LIST:
        return Levels(count, position + 1, price_decimals, size_decimals, latest)
    more = True
    while more:
        if position >= end or byte_at(text, position) != OPEN_LIST:
            return no_levels(BAD_JSON)
        price, decimals, position = parse_printed(text, skip_space(text, position + 1), price_exp)
        if position < 0:
            return no_levels(position)
        price_decimals = max(price_decimals, decimals)
        following, position = next_element(text, position)
        if not following:
            return no_levels(BAD_JSON)
        size, decimals, position = parse_printed(text, position, size_exp)
        if position < 0:
            return no_levels(position)
        if size != 0:
            size_decimals = max(size_decimals, decimals)
        following, position = next_element(text, position)
        if not following:
            return no_levels(BAD_JSON)
        time_ns, position = parse_units(text, position, NANOSECONDS_EXP)
        if position < 0:
            return no_levels(position)
        if time_ns < 0:
            return no_levels(BAD_NUMBER)
        latest = max(latest, time_ns)
        following, position = next_element(text, position)
        while following:
            position = skip_value(text, position)
            if position < 0:
                return no_levels(position)
            following, position = next_element(text, position)
        if position < 0:
            return no_levels(BAD_JSON)
        if count == MAX_LEVELS_PER_FRAME:
            return no_levels(FRAME_TOO_LARGE)
        write_level(rows, base + count, instrument, side, flags, price, size)
        count += 1
        more, position = next_element(text, position)
    if position < 0:
        return no_levels(BAD_JSON)
    return Levels(count, position, price_decimals, size_decimals, latest)


@kernel()
def parse_object_levels(
    text: Text, position: int, price_exp: int, size_exp: int, instrument: int, side: int, flags: int,
    rows: np.ndarray, base: int, count: int,
) -> Levels:  # fmt: skip
    """Decode `[{"price": number, "qty": number}, ...]` at `position`; other members are skipped."""
    end = text.size
    if position >= end or byte_at(text, position) != OPEN_LIST:
        return no_levels(BAD_JSON)
    price_decimals, size_decimals = -1, -1
    position = skip_space(text, position + 1)
    if position < end and byte_at(text, position) == CLOSE_LIST:
        return Levels(count, position + 1, price_decimals, size_decimals, 0)
    more = True
    while more:
        if position >= end or byte_at(text, position) != OPEN_OBJECT:
            return no_levels(BAD_JSON)
        position = skip_space(text, position + 1)
        price, size, seen = 0, 0, 0
        following = True
        while following:
            key_end, value = next_key(text, position)
            if key_end < 0:
                return no_levels(BAD_JSON)
            key = read_name(text, position)
            if same_name(key, PRICE_KEY) and seen & 1 == 0:
                price, decimals, position = parse_printed(text, value, price_exp)
                price_decimals = max(price_decimals, decimals)
                seen |= 1
            elif same_name(key, SIZE_KEY) and seen & 2 == 0:
                size, decimals, position = parse_printed(text, value, size_exp)
                if size != 0:
                    size_decimals = max(size_decimals, decimals)
                seen |= 2
            elif same_name(key, PRICE_KEY) or same_name(key, SIZE_KEY):
                return no_levels(BAD_JSON)
            else:
                position = skip_value(text, value)
            if position < 0:
                return no_levels(position)
            following, position = next_member(text, position)
        if position < 0 or seen != 3:
            return no_levels(BAD_JSON)
        if count == MAX_LEVELS_PER_FRAME:
            return no_levels(FRAME_TOO_LARGE)
        write_level(rows, base + count, instrument, side, flags, price, size)
        count += 1
        more, position = next_element(text, position)
    if position < 0:
        return no_levels(BAD_JSON)
    return Levels(count, position, price_decimals, size_decimals, 0)


@kernel()
def parse_checksum(text: Text, position: int) -> int:
    """The checksum at `position`, bare or in quotes, or -Reason."""
    checksum, end = parse_units(text, position, NO_EXP)
    if end < 0:
        return end
    return checksum if checksum >= 0 and checksum <= MAX_CHECKSUM else BAD_NUMBER


@kernel(inline=True)
def printable(decimals: int) -> int:
    """Decimals as a checksum word can hold them; -1 beyond that."""
    return decimals if decimals <= MAX_DECIMALS else -1


@kernel()
def close_levels(rows: np.ndarray, start: int, end: int, flags: int, exch_ts_ns: int, sequence: int, word: int) -> None:
    """Make one group of the levels rows[start:end]: its flags, its time, and the checksum word on the last."""
    for at in range(start, end):
        rows[at].flags = flags
        rows[at].exch_ts_ns = exch_ts_ns
        rows[at].sequence = sequence
    if end > start:
        rows[start].flags |= FIRST
        rows[end - 1].flags |= LAST
        rows[end - 1].aux = word


@kernel()
def write_trade(
    rows: np.ndarray, at: int, kind: int, instrument: int, side: int, price: int, size: int, trade_id: int,
    exch_ts_ns: int,
) -> None:  # fmt: skip
    """Write one TRADE (or LIQUIDATION); the flags of its group come with `group_by_instrument`."""
    write_row(rows[at], kind, side, 0, price, size, trade_id)
    rows[at].instrument = instrument
    rows[at].sequence = trade_id
    rows[at].exch_ts_ns = exch_ts_ns


@kernel()
def write_quote(rows: np.ndarray, at: int, instrument: int, side: int, price: int, size: int, exch_ts_ns: int) -> None:
    """Write one QUOTE; size 0 says that the venue does not tell it."""
    write_row(rows[at], QUOTE_KIND, side, 0, price, size, 0)
    rows[at].instrument = instrument
    rows[at].exch_ts_ns = exch_ts_ns


@kernel()
def write_status(state: StateRow, rows: np.ndarray, at: int, instrument: int, status: int, exch_ts_ns: int) -> int:
    """Write a STATUS if the sockets said another before. The next place in rows."""
    if status == state.live_status[instrument]:
        return at
    write_row(rows[at], STATUS_KIND, 0, FIRST | LAST, 0, 0, status)
    rows[at].instrument = instrument
    rows[at].exch_ts_ns = exch_ts_ns
    return at + 1


@kernel()
def write_system_status(state: StateRow, text: Text, position: int, rows: np.ndarray, base: int) -> int:
    """Write what the word at `position` says of the trading engine for every instrument; how many records."""
    word = name_index(text, position, SYSTEM_WORDS)
    status = SYSTEM_STATUS[word] if word >= 0 else HALTED
    at = base
    for instrument in range(MAX_INSTRUMENTS):
        if state.symbol_length[instrument] > 0:
            at = write_status(state, rows, at, instrument, status, 0)
    return at - base


@kernel()
def group_by_instrument(rows: np.ndarray, base: int, count: int, flags: int) -> None:
    """Flag records as groups: `flags` on all, FIRST and LAST where the instrument begins and ends."""
    for at in range(base, base + count):
        rows[at].flags = flags
        if at == base or rows[at].instrument != rows[at - 1].instrument:
            rows[at].flags |= FIRST
            if at > base:
                rows[at - 1].flags |= LAST
    if count > 0:
        rows[base + count - 1].flags |= LAST


@kernel()
def milliseconds(text: Text, position: int) -> tuple[int, int]:
    """A time in ms as (ns, 1); (0, 1) for position 0, which says that there is none; (0, BAD_NUMBER)."""
    if position == 0:
        return 0, 1
    value, end = parse_units(text, position, NO_EXP)
    if end < 0 or value < 0 or value > MAX_TIME_MS:
        return 0, BAD_NUMBER
    return value * NS_PER_MS, 1


@kernel()
def is_told(text: Text, position: int) -> bool:
    """True where a value was noted and is not null."""
    if position == 0:
        return False
    end = position + len(NULL)
    if end >= text.size or not ends_scalar(byte_at(text, end)):
        return True
    same = 0
    for place in range(len(NULL)):
        same += 1 if byte_at(text, position + place) == np.int64(NULL[place]) else 0
    return same < len(NULL)


@kernel(inline=True)
def opens(text: Text, position: int, bracket: int) -> bool:
    """True where a value was noted and opens with this bracket."""
    return position != 0 and byte_at(text, position) == bracket
