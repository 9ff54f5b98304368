"""What execution knows of one instrument at this moment: units, filters, touch, mark price, prediction.

Purpose: the read-only picture that strategies and the gate decide on. Only the dispatcher of the execution stage
writes it, from the records that pass through the market chain.
Invariants: units are fixed at creation, filters change only by an INSTRUMENT record; `book_valid` is 1 only
between BOOK_VALID and the next BOOK_INVALID, GAP, STALE or change of tick or lot; an instrument that was never
configured has known 0.
Cost: a few stores a record.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel
from engine.reasons import Reason
from engine.records import FEATURE_COUNT, OUTPUT_COUNT, Kind, Status

MARKET_VIEW = np.dtype(
    [
        ("price_exp", "<i8"),
        ("size_exp", "<i8"),
        ("unit_exp", "<i8"),  # price_exp + size_exp, as engine.units.notional takes it
        ("tick_size", "<i8"),  # price units
        ("lot_size", "<i8"),  # size units
        ("min_notional", "<i8"),  # 1e-8 quote
        ("filter_epoch", "<i8"),
        ("bid_price", "<i8"),  # price units, 0: side empty
        ("bid_size", "<i8"),  # size units
        ("ask_price", "<i8"),
        ("ask_size", "<i8"),
        ("book_recv_ts_ns", "<i8"),  # receive time of the last event of the book
        ("mark_price", "<i8"),  # 1e-8 quote, 0: never seen
        ("funding_rate", "<i8"),  # 1e-12
        ("next_funding_ms", "<i8"),
        ("vector", "<f8", (FEATURE_COUNT,)),  # features, see engine/features/vector.py
        ("output", "<f8", (OUTPUT_COUNT,)),  # outputs of the model, see models/card
        ("known", "u1"),  # 1: configured
        ("book_valid", "u1"),
        ("trading", "u1"),  # 0: the venue takes no orders for it, or we trade none of its kind
        ("venue", "u1"),
        ("tradable", "u1"),  # 1: of a kind that we trade
    ],
    align=True,
)


@kernel()
def touch_is_sound(view: np.record) -> bool:
    """True when both sides of the touch are there and do not cross."""
    return (
        view.bid_price > 0 and view.ask_price > view.bid_price and view.bid_size > 0 and view.ask_size > 0
    )


@kernel()
def book_is_fresh(view: np.record, now_ns: int, max_age_ns: int) -> bool:
    """True when the book is valid, sound and at most max_age_ns old (a limit of 0 or less means never)."""
    if view.book_valid == 0 or max_age_ns <= 0 or view.book_recv_ts_ns <= 0:
        return False
    return now_ns - view.book_recv_ts_ns <= max_age_ns and touch_is_sound(view)


@kernel()
def apply_prediction(view: np.record, record: np.record) -> None:
    """Take touch, features and model outputs from a PREDICTION record."""
    view.bid_price = record.bid_price
    view.bid_size = record.bid_size
    view.ask_price = record.ask_price
    view.ask_size = record.ask_size
    view.book_recv_ts_ns = record.book_recv_ts_ns
    for i in range(FEATURE_COUNT):
        view.vector[i] = record.vector[i]
    for i in range(OUTPUT_COUNT):
        view.output[i] = record.output[i]


@kernel()
def apply_control(view: np.record, record: np.record) -> int:
    """Take a control record of this instrument. Returns Reason.NONE, or why the record was refused."""
    kind = record.kind
    if kind == Kind.MARK_PRICE:
        if record.price <= 0:
            return Reason.PRICE_RANGE.value
        view.mark_price = record.price
    elif kind == Kind.FUNDING:
        view.funding_rate = record.aux
        view.next_funding_ms = record.size
    elif kind == Kind.INSTRUMENT:
        if record.price <= 0 or record.size <= 0 or record.aux < 0:
            return Reason.BAD_NUMBER.value
        if record.price != view.tick_size or record.size != view.lot_size:
            view.book_valid = 0
        view.tick_size = record.price
        view.lot_size = record.size
        view.min_notional = record.aux
        view.filter_epoch = record.sequence
    elif kind == Kind.BOOK_VALID:
        view.book_valid = 1
    elif kind == Kind.BOOK_INVALID or kind == Kind.GAP:
        view.book_valid = 0
    elif kind == Kind.STATUS:
        view.trading = 1 if record.aux == Status.TRADING and view.tradable == 1 else 0
    else:
        return Reason.UNKNOWN_STREAM.value
    return Reason.NONE.value
