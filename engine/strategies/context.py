"""What a strategy is called with, beside the view of the instrument (engine/risk/market_view.py) and its quotes."""

from __future__ import annotations

import numpy as np

EVENT = np.dtype(
    [
        ("kind", "<i8"),  # Kind: PREDICTION or CLOCK; of the relay TARGET too
        ("now_ns", "<i8"),  # record time, ns since the epoch: the largest receive time seen
        ("ingest_id", "<i8"),  # of the last frame seen
        ("instrument", "<i8"),  # index
    ],
    align=True,
)

OWN = np.dtype(
    [
        ("position", "<i8"),  # of this strategy, size units, signed
        ("account_position", "<i8"),  # of all strategies together, which is what the gate limits
        ("open_buy", "<i8"),  # open orders of the instrument that are not behind this strategy's quotes, size units
        ("open_sell", "<i8"),
        ("max_position_value", "<i8"),  # the gate's, 1e-8 quote
        ("max_order_value", "<i8"),
        ("fills", "<i8"),  # how many fills this strategy had in the instrument
        ("fair_price", "<f8"),  # for the strategy to write, if it has one: price units with fraction
    ],
    align=True,
)
