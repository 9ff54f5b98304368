"""The rules of validation over single records, and the running median that prices are held against.

Each takes the head of the stage's state, the place of the instrument in it and the record, and gives the reason to
refuse it or NONE. Settings switch some of them off (settings.py).

The median is exact: the newest `median_window` good prices, kept both as they came and in order. It is the middle one,
of an even number the lower. Cost of the price band, a trade or quote: 1 ns where the price stands still; where it
walks 3 ns for a window of 1, 20 ns for 9, 42 ns for 63.
"""

from __future__ import annotations

from typing import Any

from engine.book.book import MAX_TICK
from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import Kind, Status
from engine.validation.state import TRADE_ID_PLACES

_TRADE_ID_MASK = TRADE_ID_PLACES - 1

_LEVEL = int(Kind.LEVEL)
_TRADE = int(Kind.TRADE)
_QUOTE = int(Kind.QUOTE)
_LIQUIDATION = int(Kind.LIQUIDATION)
_MARK_PRICE = int(Kind.MARK_PRICE)
_FUNDING = int(Kind.FUNDING)
_CLOCK = int(Kind.CLOCK)
_GAP = int(Kind.GAP)
_INSTRUMENT = int(Kind.INSTRUMENT)
_STATUS = int(Kind.STATUS)
_MOST_STATUS = max(map(int, Status))

_OK = int(Reason.NONE)
_UNKNOWN_STREAM = int(Reason.UNKNOWN_STREAM)
_DUPLICATE = int(Reason.DUPLICATE)
_PRICE_RANGE = int(Reason.PRICE_RANGE)
_SIZE_RANGE = int(Reason.SIZE_RANGE)
_OFF_TICK = int(Reason.OFF_TICK)
_TIME_BACKWARDS = int(Reason.TIME_BACKWARDS)
_BAD_SIDE = int(Reason.BAD_SIDE)
_RATE_RANGE = int(Reason.RATE_RANGE)
_RATE_UNIT = 1e-12  # of a funding rate


@kernel()
def take_price(item: Any, window: int, price: int) -> None:
    """Take a good price into the median of the newest `window` (at most MEDIAN_PLACES), in the place of the oldest."""
    count = item.newest_count
    oldest = item.newest[item.newest_next]
    item.newest[item.newest_next] = price
    item.newest_next = item.newest_next + 1 if item.newest_next + 1 < window else 0
    if count == window:
        if oldest == price:
            return
        count -= 1
        place = 0
        while item.ordered[place] != oldest:
            place += 1
        while place < count:
            item.ordered[place] = item.ordered[place + 1]
            place += 1
    place = count
    while place > 0 and item.ordered[place - 1] > price:
        item.ordered[place] = item.ordered[place - 1]
        place -= 1
    item.ordered[place] = price
    item.newest_count = count + 1
    item.reference_price = item.ordered[count >> 1]


@kernel()
def _within_band(a: int, b: int, fraction: float) -> bool:
    """Whether price a lies within a fraction of price b of it."""
    return abs(float(a) - float(b)) <= fraction * float(b)


@kernel()
def _outside_band(state: Any, item: Any, price: int) -> bool:
    """Whether a trade or quote price is implausible; keeps the median and the candidate for a new one."""
    reference = item.reference_price
    if reference == 0 or _within_band(price, reference, state.band_fraction):
        item.candidate_count = 0
        take_price(item, state.median_window, price)
        return False
    if item.candidate_count > 0 and _within_band(price, item.candidate_price, state.band_fraction):
        item.candidate_count += 1
    else:
        item.candidate_count = 1
    item.candidate_price = price
    if item.candidate_count <= state.band_confirmations:
        return True
    item.candidate_count = 0
    item.newest_count = 0
    item.newest_next = 0
    take_price(item, state.median_window, price)
    return False


@kernel(inline=True)
def judge_data(state: Any, item: Any, record: Any) -> int:
    """The reason to refuse a level, trade, quote or liquidation of a known instrument, or NONE."""
    kind = record.kind
    # Now is the largest receive time up to and including this record.
    if record.recv_ts_ns < state.now_ns and state.monotonic_time != 0:
        return _TIME_BACKWARDS
    if record.side != 1 and record.side != -1:
        return _BAD_SIDE
    place = record.aux & _TRADE_ID_MASK
    if kind == _TRADE and record.aux != 0 and item.trade_ids[place] == record.aux and state.unique_trades != 0:
        return _DUPLICATE
    if record.price <= 0 or record.price > state.price_max:
        return _PRICE_RANGE
    if record.size < 0 or record.size > state.size_max:
        return _SIZE_RANGE
    if kind == _LEVEL:
        return _OK
    if record.size == 0 and kind != _QUOTE:
        return _SIZE_RANGE
    if state.tick_grid != 0 and record.price % item.tick != 0:
        return _OFF_TICK
    if kind == _LIQUIDATION:  # at the price of bankruptcy, which says little of the market: no part of the median
        if state.price_band == 0 or item.reference_price == 0:
            return _OK
        return _OK if _within_band(record.price, item.reference_price, state.band_fraction) else _PRICE_RANGE
    if state.price_band != 0 and _outside_band(state, item, record.price):
        return _PRICE_RANGE
    if kind == _TRADE and record.aux != 0:
        item.trade_ids[place] = record.aux
    return _OK


@kernel()
def judge_open_interest(state: Any, record: Any) -> int:
    """The reason to refuse an open interest of a known instrument, or NONE."""
    if record.recv_ts_ns < state.now_ns and state.monotonic_time != 0:
        return _TIME_BACKWARDS
    return _SIZE_RANGE if record.size < 0 or record.size > state.size_max else _OK


@kernel()
def judge_audit_level(state: Any, record: Any) -> int:
    """The reason to refuse a level of a snapshot that a book is audited by, or NONE."""
    if record.side != 1 and record.side != -1:
        return _BAD_SIDE
    if record.price <= 0 or record.price > state.price_max:
        return _PRICE_RANGE
    return _SIZE_RANGE if record.size < 0 or record.size > state.size_max else _OK


@kernel()
def _is_plausible_mark(state: Any, item: Any, mark: int, index: int) -> bool:
    """Whether a mark price lies within the band of the running median or of the last good mark price, and an index
    price within that of the mark price or of the last good index price. An index price of 0 was not told."""
    fraction = state.band_fraction
    if index != 0 and not _within_band(index, mark, fraction):
        if item.index_price == 0 or not _within_band(index, item.index_price, fraction):
            return False
    median = float(item.reference_price) * item.mark_unit
    if item.mark_price == 0:
        return median == 0.0 or abs(float(mark) - median) <= fraction * median
    return _within_band(mark, item.mark_price, fraction) or abs(float(mark) - median) <= fraction * median


@kernel()
def _judge_mark(state: Any, item: Any, record: Any) -> int:
    """The reason to refuse a mark and an index price, or NONE; keeps the last good ones and the candidates for them."""
    if record.recv_ts_ns < state.now_ns and state.monotonic_time != 0:
        return _TIME_BACKWARDS
    mark, index = record.price, record.size
    if mark <= 0 or index < 0:
        return _PRICE_RANGE
    if state.price_band != 0 and not _is_plausible_mark(state, item, mark, index):
        agrees = item.mark_candidate_count > 0 and _within_band(mark, item.mark_candidate, state.band_fraction)
        if agrees and _within_band(index, item.index_candidate, state.band_fraction):
            item.mark_candidate_count += 1
        else:
            item.mark_candidate_count = 1
        item.mark_candidate = mark
        item.index_candidate = index
        if item.mark_candidate_count <= state.band_confirmations:
            return _PRICE_RANGE
    item.mark_candidate_count = 0
    item.mark_price = mark
    if index != 0:
        item.index_price = index
    return _OK


@kernel()
def _judge_funding(state: Any, record: Any) -> int:
    """The reason to refuse a funding rate, or NONE."""
    if record.recv_ts_ns < state.now_ns and state.monotonic_time != 0:
        return _TIME_BACKWARDS
    return _RATE_RANGE if abs(float(record.aux)) * _RATE_UNIT > state.funding_rate_max else _OK


@kernel()
def judge_control(state: Any, item: Any, record: Any) -> int:
    """The reason to refuse a control record, or NONE."""
    kind = record.kind
    if kind == _INSTRUMENT:
        if record.price <= 0 or record.price > MAX_TICK:
            return _PRICE_RANGE
        return _SIZE_RANGE if record.size <= 0 else _OK
    if kind == _MARK_PRICE:
        return _judge_mark(state, item, record)
    if kind == _FUNDING:
        return _judge_funding(state, record)
    if kind == _STATUS:
        return _OK if 0 <= record.aux <= _MOST_STATUS else _UNKNOWN_STREAM
    if kind == _CLOCK or kind == _GAP:
        return _OK
    return _UNKNOWN_STREAM
