"""Books of the strategies: to which of them a fill belongs.

A fill of an order belongs to the strategy that wanted it. One that only reduces the account's position (REDUCE), or
whose order is not known here (the kill switch's flattening, an order long forgotten), closes positions of the
strategies, the last ones first; what is left over belongs to the first.
Invariant: what the ledger books is booked here once, so the positions of all books add up to that of the account less
what it was opened with.
"""

from __future__ import annotations

import numpy as np

from engine.kernel import kernel
from engine.risk.gate import value_or_max
from engine.units import mul_div


@kernel()
def _book(state: np.record, strategy: int, record: np.record, size: int, fee: int) -> None:
    """Book `size` of a FILL report, with this share of its fee."""
    book = state.strategies.books[strategy, record.instrument]
    book.position += record.side * size
    book.cash -= record.side * value_or_max(record.price, size, state.views[record.instrument].unit_exp)
    book.fees += fee
    book.fills += 1


@kernel()
def allot_fill(state: np.record, slot: int, record: np.record) -> None:
    """Book a FILL report that the ledger has booked. slot: of its order, -1 where the table does not hold it."""
    left = record.size
    fee = record.fee
    strategy = 0
    if slot >= 0 and state.orders.slots[slot].reduce_only == 0:
        strategy = int(state.orders.slots[slot].strategy)
    else:
        for place in range(state.strategies.count - 1, 0, -1):
            held = state.strategies.books[place, record.instrument].position
            if held * record.side < 0 and left > 0:
                part = min(abs(held), left)
                part_of_fee = int(mul_div(abs(fee), part, left)) * (1 if fee > 0 else -1)
                _book(state, place, record, part, part_of_fee)
                left -= part
                fee -= part_of_fee
    if left > 0:
        _book(state, strategy, record, left, fee)
