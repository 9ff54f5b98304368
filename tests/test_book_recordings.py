"""Recorded Binance USD-M sessions: after every diff the book's touch is the venue's own bookTicker.

The venue's rule for futures: drop diffs with u < lastUpdateId of the snapshot; the first one applied has
U <= lastUpdateId <= u; later ones have pu = u of the one before. Decoding here is plain orjson, independent
of the engine's own.
"""

from __future__ import annotations

import bisect

import numpy as np
import orjson
import pytest

from engine.book.book import book_best, book_crossing, book_set_tick, book_top, book_update, make_books
from engine.records import Side
from tests.recordings import USDM_CAPTURES, open_capture, require_capture

PRICE_EXP = 2
SIZE_EXP = 3
DIFFS = dict(zip(USDM_CAPTURES, (4322, 6547, 6581)))  # not dropped by the snapshot rule
TOP = 20


def units(text: str, exp: int) -> int:
    whole, _, fraction = text.partition(".")
    if len(fraction) > exp:
        raise ValueError(f"{text}: more than {exp} decimals")
    return int(whole + fraction.ljust(exp, "0"))


@pytest.mark.recordings
@pytest.mark.parametrize("capture", USDM_CAPTURES)
def test_touch_equals_book_ticker_after_every_diff(capture: str) -> None:
    tickers: list[tuple[int, tuple[int, int, int, int]]] = []
    events: list[tuple[int, int, dict]] = []  # (last update id, previous id or -1 for the snapshot, body)
    for _, frame in open_capture(require_capture(capture)):
        body = orjson.loads(frame)
        data = body.get("data", body)
        if data.get("e") == "bookTicker":
            touch = (units(data["b"], PRICE_EXP), units(data["B"], SIZE_EXP),
                     units(data["a"], PRICE_EXP), units(data["A"], SIZE_EXP))
            tickers.append((data["u"], touch))
        elif data.get("e") == "depthUpdate":
            events.append((data["u"], data["pu"], data))
        elif "lastUpdateId" in data:
            events.append((data["lastUpdateId"], -1, data))
    tickers.sort()
    ticker_ids = [update_id for update_id, _ in tickers]

    books = make_books(1)
    book_set_tick(books, 0, 1 if "ethusdt" in capture else 10)
    held: dict[int, dict[int, int]] = {1: {}, -1: {}}

    def apply(bids: list, asks: list) -> None:
        for side, levels in ((int(Side.BUY), bids), (int(Side.SELL), asks)):
            for price_text, size_text in levels:
                price, size = units(price_text, PRICE_EXP), units(size_text, SIZE_EXP)
                book_update(books, 0, side, price, size)
                if size:
                    held[side][price] = size
                else:
                    held[side].pop(price, None)

    snapshot_at = next(number for number, event in enumerate(events) if event[1] < 0)
    last_id, _, snapshot = events[snapshot_at]
    apply(snapshot["bids"], snapshot["asks"])
    first = True
    compared = 0
    prices, sizes = np.zeros(TOP, np.int64), np.zeros(TOP, np.int64)
    for update_id, previous_id, data in events[:snapshot_at] + events[snapshot_at + 1:]:
        if update_id < snapshot["lastUpdateId"]:
            continue
        assert (data["U"] <= last_id <= update_id) if first else previous_id == last_id
        first, last_id = False, update_id
        apply(data["b"], data["a"])
        at = bisect.bisect_right(ticker_ids, update_id) - 1
        if at >= 0:
            assert book_best(books, 0, 1) + book_best(books, 0, -1) == tickers[at][1]
            compared += 1
        assert book_crossing(books, 0) == 0
        if compared % 100 == 0:
            for side in (1, -1):
                found = book_top(books, 0, side, TOP, prices, sizes)
                best = sorted(held[side].items(), reverse=side == 1)[:TOP]
                assert list(zip(prices[:found].tolist(), sizes[:found].tolist())) == best
    assert compared == DIFFS[capture]
    assert books[0]["faults"] == 0
    assert [int(n + f) for n, f in zip(books[0]["near_count"], books[0]["far_count"])] == [
        len(held[1]), len(held[-1])
    ] or books[0]["forgotten"] > 0
