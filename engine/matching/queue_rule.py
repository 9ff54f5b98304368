"""The queue rule: where an order of ours stands behind sizes that were recorded without it. Pure functions of integers.

An order joins behind everything that is displayed at its price. From then on, at that price:

    trade       eats what is ahead of the order first; what is left of it reaches the order
    less shown  what trades do not explain was cancelled. Nobody says where in the queue: by the careful rule behind us
                as long as there is anything behind us, by the even rule in proportion to what stands ahead and behind
    more shown  joins behind us

Never is more ahead than is displayed. Trades and sizes come over two feeds, so a size may be shown before the trade
that explains it is told. `credit` is what the order advanced by sizes alone: a trade that the displayed sizes are not
older than is taken out of it before it moves the order again. So no trade moves an order twice, whichever came first.
Sizes in size units, all at least 0.
"""

from __future__ import annotations

from engine.kernel import kernel
from engine.units import mul_div

CAREFUL, EVEN = 0, 1  # what is thought of cancelled sizes


@kernel()
def after_trade(ahead: int, credit: int, size: int, is_shown: bool) -> tuple[int, int, int]:
    """(ahead, credit, what of it reaches the order) after a trade of `size` at the order's price.

    is_shown: the displayed sizes are not older than the trade, and so without what it took.
    """
    known = min(size, credit) if is_shown else 0
    eaten = min(size - known, ahead)
    return ahead - eaten, credit - known if is_shown else 0, size - known - eaten


@kernel()
def after_level(ahead: int, credit: int, traded: int, before: int, after: int, rule: int) -> tuple[int, int]:
    """(ahead, credit) after the displayed size at the order's price has become `after`.

    traded: what was traded there and is not shown yet; rule: CAREFUL or EVEN.
    """
    left = ahead
    cancelled = before - after - traded
    if rule == EVEN and cancelled > 0:
        standing = before - traded  # what it was cancelled from
        left -= mul_div(min(ahead, standing), cancelled, standing)
    left = min(left, after)
    return left, credit + ahead - left
