"""The state of the features stage: a head, then a flow record and a book for each instrument it serves.

The arrays are as long as the shard has instruments, so that a checkpoint copies no more than that; one compiled
step serves every length, because it takes the head first and reads the length there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.book.book import make_books
from engine.book.layout import BOOK
from engine.features.settings import SAMPLE_PLACES, FeatureSettings
from engine.instruments import MAX_INSTRUMENTS, Instrument
from engine.maths import exp
from engine.stage import STATE_HEAD

NS_PER_MS = 1_000_000
CUT_PLACES = 1280  # above every depth that a book may be subscribed to

FLOW = np.dtype(
    [
        ("depth", "<i8"),  # levels a side that the venue tells of, 0: all
        ("price_scale", "<f8"),  # 2 * 10^price_exp: (bid + ask) / price_scale is the mid in quote units
        ("filling", "<i8"),  # 1: levels have a snapshot to stand on
        ("valid", "<i8"),  # 1: the book is right and vectors may leave
        ("book_recv_ts_ns", "<i8"),  # receive time of the last level of the book
        ("last_trade_ns", "<i8"),
        ("signed_volume", "<f8"),  # decayed, size units, buyers positive
        ("total_volume", "<f8"),
        ("held_mid", "<f8"),  # bid + ask of the last vector, price units; 0: none since the book was lost
        ("interval", "<i8"),  # grid point at or before the last vector
        ("sample_count", "<i8"),  # grid points sampled since the book was lost
        ("samples", "<f8", (SAMPLE_PLACES,)),  # bid + ask at the newest of them
        ("variance_sum", "<f8"),
        ("variance_weight", "<f8"),
        ("resync_wanted", "<i8"),  # how often the book here went wrong although validation held it right
        ("vectors", "<i8"),
    ],
    align=True,
)

_HEAD_FIELDS: list[tuple] = STATE_HEAD + [
    ("instrument_count", "<i8"),
    ("crossed_books", "<i8"),  # level groups after which a valid book was crossed or locked
    ("trade_flow_ns", "<f8"),
    ("sample_interval_ns", "<i8"),
    ("return_intervals", "<i8"),
    ("decay_rate", "<f8"),  # sample interval / volatility time constant
    ("decay", "<f8"),  # exp(-decay_rate)
    ("cut_prices", "<i8", (CUT_PLACES,)),  # scratch
    ("cut_sizes", "<i8", (CUT_PLACES,)),  # scratch
]
FEATURES_HEAD = np.dtype(_HEAD_FIELDS, align=True)


def features_dtype(instrument_count: int) -> np.dtype:
    """The state dtype for so many instruments (indexes 0 to instrument_count - 1)."""
    fields = [*_HEAD_FIELDS, ("flows", FLOW, (instrument_count,)), ("books", BOOK, (instrument_count,))]
    return np.dtype(fields, align=True)


def make_features_state(settings: FeatureSettings, instruments: Sequence[Instrument]) -> np.ndarray:
    """features_dtype(largest index + 1) of shape (1,), with empty books and no tick sizes.

    Raises ValueError without instruments, or for an index beyond MAX_INSTRUMENTS.
    """
    if not instruments:
        raise ValueError("features: no instruments")
    count = max(item.index for item in instruments) + 1
    if count > MAX_INSTRUMENTS:
        raise ValueError(f"features: instrument index {count - 1} is beyond {MAX_INSTRUMENTS - 1}")
    state = np.zeros(1, features_dtype(count))
    state["instrument_count"] = count
    state["trade_flow_ns"] = settings.trade_flow_ms * NS_PER_MS
    state["sample_interval_ns"] = settings.sample_interval_ms * NS_PER_MS
    state["return_intervals"] = settings.return_intervals
    state["decay_rate"] = settings.sample_interval_ms / settings.volatility_ms
    state["decay"] = exp(-settings.sample_interval_ms / settings.volatility_ms)
    for item in instruments:
        state["flows"][0]["price_scale"][item.index] = 2.0 * 10.0**item.price_exp
        state["flows"][0]["depth"][item.index] = item.book_depth
    state["books"][0] = make_books(count)
    return state
