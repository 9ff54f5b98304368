"""Quotes: where a strategy says what it wants, and where execution says what became of it.

One QUOTE stands for one (strategy, instrument, side). The strategy writes the target_* fields, `not_before_ns`,
`at_once` and `fault`, best through engine/strategies/api.py; execution writes the rest and makes the market agree:
cancel first, the new order only after the old one is done. At most one order lives behind a quote, so a strategy has at
most 2 orders an instrument. A target with `at_once` is tried in the event that set it and then forgotten.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

QUOTE = np.dtype(
    [
        ("target_price", "<i8"),  # price units
        ("target_size", "<i8"),  # size units; 0: no quote wanted
        ("not_before_ns", "<i8"),  # no new order for this quote earlier than this
        ("order_id", "<i8"),  # order behind the quote, 0 none
        ("order_price", "<i8"),  # its price
        ("attempt_ns", "<i8"),  # when the last new order was decided, sent or denied
        ("target_order_type", "u1"),  # OrderType
        ("target_time_in_force", "u1"),  # TimeInForce
        ("working", "u1"),  # Working
        ("at_once", "u1"),  # 1: one attempt, then the target is forgotten
        ("fault", "u1"),  # 1: what was wanted is no price or no size
    ],
    align=True,
)

BID = 0  # index of the buying side in a pair of quotes
ASK = 1

# The pair as a strategy gets it.
QUOTES = np.dtype([("bid", QUOTE), ("ask", QUOTE)], align=True)


class Working(IntEnum):
    """What stands behind a quote."""

    NONE = 0  # no order, or one that is done
    RESTING = 1  # the venue has it
    IN_TRANSIT = 2  # being sent, being cancelled, unknown, or owing us fills: wait
