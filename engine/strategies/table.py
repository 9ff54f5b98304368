"""The strategies by index: what a second strategy adds itself to.

A strategy is a kernel that reads the view of one instrument and its own parameters and writes the targets of its
two quotes. Its index enters orders, reports and the decision hash, so an index is never given to another.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

from engine.kernel import kernel
from engine.strategies.maker import MAKER, maker_targets


class Strategy(IntEnum):
    """Index of each strategy."""

    MAKER = 0


STRATEGY_COUNT = len(Strategy)

STRATEGIES = np.dtype([("maker", MAKER)], align=True)  # parameters and own state of every strategy


@kernel()
def run_strategy(
    strategies: np.record,
    strategy: int,
    view: np.record,
    position: int,
    open_buy: int,
    open_sell: int,
    max_position_value: int,
    now_ns: int,
    quotes: np.ndarray,
) -> float:
    """Let one strategy write the targets of its quotes of one instrument; all as in `maker_targets`."""
    if strategy == Strategy.MAKER:
        return maker_targets(
            strategies.maker, view, position, open_buy, open_sell, max_position_value, now_ns, quotes
        )
    return math.nan
