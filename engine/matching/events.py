"""What the book says: one record an event, in the order in which things happened."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class EventKind(IntEnum):
    """What an event record says, and which fields it fills."""

    NONE = 0
    ACCEPTED = 1  # order_id, owner, side, price, size
    FILL = 2  # taker: order_id, owner, side, remaining; maker_*: the resting order; price, size, trade_id
    CANCELLED = 3  # order_id, owner, side, price, remaining = what was taken off the book
    EXPIRED = 4  # an order ends unfilled: order_id, owner, side, remaining; reason SELF_TRADE: prevented a self-trade
    REJECTED = 5  # order_id (0 where none was given), owner, side, reason
    LEVEL = 6  # side, price, size = the level's new total, update_id
    TOUCH = 7  # price, size = best bid; ask_price, ask_size = best ask (0 where empty); update_id
    AMENDED = 8  # order_id, owner, side, price, size = remaining = what is open under the new terms


class Refusal(IntEnum):
    """Why the book or the account refused an order; `reason` of a REJECTED event."""

    NONE = 0
    WOULD_TAKE = 1  # post-only order that would match
    CANNOT_FILL = 2  # fill-or-kill order that cannot be filled whole
    BOOK_FULL = 3  # no room for another resting order or price level
    UNKNOWN_ORDER = 4  # cancel: no such live order of this owner
    BAD_SIZE = 5  # size or price not positive
    INSUFFICIENT_MARGIN = 6
    REDUCE_ONLY = 7  # the order would not reduce the position
    TOO_MANY_ORDERS = 8  # open orders of the account
    DUPLICATE_CLIENT_ID = 9  # client id of an open order
    MIN_NOTIONAL = 10
    SELF_TRADE = 11  # expired rather than matched with an order of the same owner
    NO_CHANGE = 12  # amendment that changes nothing
    TOO_MANY_AMENDMENTS = 13
    WRONG_SIDE = 14  # amendment of a sell order as a buy, or the other way round
    BEYOND_LEVERAGE = 15  # the position would exceed what its leverage allows
    HALTED = 16  # the contract does not trade now
    INSUFFICIENT_BALANCE = 17  # spot: less of the asset is free than the order gives away
    NO_LIQUIDITY = 18  # spot: nothing rests that an order of a value could take


class SelfTrade(IntEnum):
    """What happens when an order meets one of the same owner; the mode of the taking order decides."""

    NONE = 0  # they trade
    EXPIRE_TAKER = 1
    EXPIRE_MAKER = 2
    EXPIRE_BOTH = 3


EVENT = np.dtype(
    [
        ("time_ns", "<i8"),  # given with the command
        ("order_id", "<i8"),
        ("maker_order_id", "<i8"),
        ("price", "<i8"),  # price units
        ("size", "<i8"),  # size units
        ("ask_price", "<i8"),
        ("ask_size", "<i8"),
        ("remaining", "<i8"),  # size units left of order_id after the event
        ("maker_remaining", "<i8"),
        ("update_id", "<i8"),  # of the last level change up to here
        ("trade_id", "<i8"),
        ("owner", "<i4"),  # 0: the flow
        ("maker_owner", "<i4"),
        ("kind", "u1"),  # EventKind
        ("side", "i1"),  # engine.records.Side, of order_id or of the level
        ("reason", "u1"),  # Refusal
        ("symbol", "u1"),  # index of the book
        ("spare", "u1", (4,)),
    ],
    align=True,
)
