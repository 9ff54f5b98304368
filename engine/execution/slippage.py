"""What the last fills cost against the mid at which their orders were decided: for the panic monitors.

A fill at the mid has slippage 0, one that paid more or got less a positive one, one at our own resting price usually a
negative one. FILLS_SEEN fills are kept, the newest at (count - 1) modulo FILLS_SEEN. A fill of an order that the table
does not hold any more has no reference and is not kept; it is counted among the orphans.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel

FILLS_SEEN = 64

SLIPPAGE = np.dtype([("at_ns", "<i8"), ("instrument", "<i8"), ("share", "<f8")], align=True)  # share of the mid
SLIPPAGES = np.dtype([("count", "<i8"), ("fills", SLIPPAGE, (FILLS_SEEN,))], align=True)


@kernel()
def note_slippage(state: np.record, order: np.record, price: int) -> None:
    """Keep what a fill of this order at `price` (price units) cost against the mid of its decision."""
    if order.reference <= 0:
        return
    slippages = state.slippages
    fill = slippages.fills[slippages.count % FILLS_SEEN]
    fill.at_ns = state.now_ns
    fill.instrument = order.instrument
    fill.share = float(order.side) * (2.0 * float(price) - float(order.reference)) / float(order.reference)
    slippages.count += 1
