"""How an order book lies in memory: one fixed record an instrument, both sides alike.

Each side works in *ranks*: rank = price for bids and -price for asks, so that better is always higher and one
code serves both sides. Side index 0 is the bid side, 1 the ask side.

    window      WINDOW_TICKS sizes by tick; rank of index n = base + n * tick. A set bit in `words` marks a
                level, a set bit in `summary` a word that is not empty. After every move the best level stands
                at three quarters of it, so most of the window lies behind the touch, where the levels are.
    far table   an open-addressing hash of the levels that the window cannot hold: far from the touch, or off
                the tick grid (a venue keeps levels of an old tick size until they are cancelled or filled).
    horizon     when the far table is full its worse half is forgotten; below this rank nothing is known.

265 KB an instrument. 2^13 ticks a side, three quarters of them behind the touch, hold what a shared window of
2^14 ticks would hold at twice the memory; on a recorded BTCUSDT session about one update in sixteen falls
outside.
"""

from __future__ import annotations

import numpy as np

WINDOW_BITS = 13
WINDOW_TICKS = 1 << WINDOW_BITS
WINDOW_WORDS = WINDOW_TICKS // 64
SUMMARY_WORDS = WINDOW_WORDS // 64
BEST_INDEX = WINDOW_TICKS * 3 // 4  # where a move puts the best level
LOW_INDEX = WINDOW_TICKS // 4  # the best level below this: the window moves after it

FAR_BITS = 12
FAR_SLOTS = 1 << FAR_BITS
FAR_LIMIT = FAR_SLOTS * 7 // 8  # levels a side; beyond, probing gets long and the worse half is forgotten

MAX_TOP = 32  # most levels that one extraction can give
NO_RANK = -(1 << 62)  # below every rank

BOOK = np.dtype(
    [
        ("tick", "<i8"),  # price units; 0: no INSTRUMENT record yet
        ("faults", "<i8"),  # what made this book wrong since it was last cleared; 0: it can be trusted
        ("forgotten", "<i8"),  # far levels not kept, ever
        ("moves", "<i8"),  # times that a window moved, ever
        ("placed", "<i8", (2,)),  # 1: base is set
        ("base", "<i8", (2,)),  # rank of window index 0, on the tick grid
        ("best", "<i8", (2,)),  # window index of the best level in the window, -1: window empty
        ("near_count", "<i8", (2,)),  # levels in the window
        ("far_count", "<i8", (2,)),  # levels in the far table
        ("far_best", "<i8", (2,)),  # best rank in the far table, NO_RANK: none
        ("horizon", "<i8", (2,)),  # ranks below are unknown, NO_RANK: all is known
        ("sizes", "<i8", (2, WINDOW_TICKS)),  # size units, 0: no level
        ("words", "<u8", (2, WINDOW_WORDS)),
        ("summary", "<u8", (2, SUMMARY_WORDS)),
        ("far_ranks", "<i8", (2, FAR_SLOTS)),
        ("far_sizes", "<i8", (2, FAR_SLOTS)),  # 0: the slot is free
        ("top_prices", "<i8", (MAX_TOP,)),  # scratch of book_depth
        ("top_sizes", "<i8", (MAX_TOP,)),
    ],
    align=True,
)
