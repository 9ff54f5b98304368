"""The life of an order: states, events, and the one table that says which event leads where.

Purpose: every change of an order's state is a look-up in TRANSITIONS; what the table does not allow is counted
and not applied.
Rules behind the table:
- A fill is a fact. It beats a cancel: a late one on a CANCELLED or EXPIRED order counts, and completes it when
  nothing is left.
- UNKNOWN is left only by an answer that says where the order stands. A partial fill says that it exists, not
  that it still rests, so it stays UNKNOWN.
- An order thought REJECTED that shows signs of life becomes UNKNOWN: asking again is always safe.
- Answers cross on their way, so late confirmations of something already known change nothing and are legal.
- REJECTED or DENIED for an order that the venue has acknowledged can only speak of its cancel: CANCEL_REFUSED.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class OrderStatus(IntEnum):
    """Where an order stands."""

    EMPTY = 0  # a slot that never held an order
    PENDING_NEW = 1  # sent, no answer yet
    LIVE = 2
    PARTIALLY_FILLED = 3  # live, with fills
    PENDING_CANCEL = 4  # cancel sent, no answer yet
    UNKNOWN = 5  # may or may not exist: counts in full, is asked for
    FILLED = 6
    CANCELLED = 7
    EXPIRED = 8  # ended by a rule of the venue
    REJECTED = 9  # never existed at the venue
    DENIED = 10  # our own last gate did not send it


STATUS_COUNT = len(OrderStatus)
FIRST_TERMINAL = OrderStatus.FILLED.value  # this state and all after it are terminal


class OrderEvent(IntEnum):
    """What can happen to an order."""

    ACCEPTED = 0
    PARTIAL_FILL = 1  # a fill that leaves something
    FULL_FILL = 2  # a fill after which nothing is left
    CANCELLED = 3
    EXPIRED = 4
    REJECTED = 5
    DENIED = 6
    CANCEL_SENT = 7
    CANCEL_REJECTED = 8  # the venue does not know the order to cancel (any more)
    CANCEL_REFUSED = 9  # the cancel did not get through; the order is as before
    UNKNOWN = 10  # a request may or may not have reached the venue, or no answer came in time
    NOT_FOUND = 11  # the venue says once that it never saw the order
    GONE = 12  # ... and has said so again, long enough after the first time


EVENT_COUNT = len(OrderEvent)
ILLEGAL = 255

_S = OrderStatus
_E = OrderEvent
# Answers that may still come after an order is done and then change nothing.
_LATE = {_E.ACCEPTED, _E.UNKNOWN, _E.CANCEL_REJECTED, _E.CANCEL_REFUSED, _E.NOT_FOUND, _E.GONE}
_ENDS = {
    _E.FULL_FILL: _S.FILLED, _E.CANCELLED: _S.CANCELLED, _E.EXPIRED: _S.EXPIRED, _E.UNKNOWN: _S.UNKNOWN,
}
_RULES: dict[OrderStatus, dict[OrderEvent, OrderStatus]] = {
    _S.PENDING_NEW: {
        **_ENDS, _E.ACCEPTED: _S.LIVE, _E.PARTIAL_FILL: _S.PARTIALLY_FILLED, _E.REJECTED: _S.REJECTED,
        _E.DENIED: _S.DENIED,
    },
    _S.LIVE: {
        **_ENDS, _E.ACCEPTED: _S.LIVE, _E.PARTIAL_FILL: _S.PARTIALLY_FILLED, _E.CANCEL_SENT: _S.PENDING_CANCEL,
        _E.CANCEL_REJECTED: _S.UNKNOWN, _E.NOT_FOUND: _S.LIVE,
    },
    _S.PARTIALLY_FILLED: {
        **_ENDS, _E.ACCEPTED: _S.PARTIALLY_FILLED, _E.PARTIAL_FILL: _S.PARTIALLY_FILLED,
        _E.CANCEL_SENT: _S.PENDING_CANCEL, _E.CANCEL_REJECTED: _S.UNKNOWN, _E.NOT_FOUND: _S.PARTIALLY_FILLED,
    },
    _S.PENDING_CANCEL: {
        **_ENDS, _E.ACCEPTED: _S.PENDING_CANCEL, _E.PARTIAL_FILL: _S.PENDING_CANCEL,
        _E.CANCEL_REJECTED: _S.UNKNOWN, _E.CANCEL_REFUSED: _S.LIVE, _E.NOT_FOUND: _S.PENDING_CANCEL,
    },
    _S.UNKNOWN: {
        **_ENDS, _E.ACCEPTED: _S.LIVE, _E.PARTIAL_FILL: _S.UNKNOWN, _E.REJECTED: _S.REJECTED,
        _E.DENIED: _S.DENIED, _E.CANCEL_REJECTED: _S.UNKNOWN, _E.CANCEL_REFUSED: _S.UNKNOWN,
        _E.NOT_FOUND: _S.UNKNOWN, _E.GONE: _S.REJECTED,
    },
    _S.FILLED: dict.fromkeys(_LATE, _S.FILLED),
    _S.CANCELLED: {
        **dict.fromkeys(_LATE, _S.CANCELLED), _E.CANCELLED: _S.CANCELLED, _E.EXPIRED: _S.CANCELLED,
        _E.PARTIAL_FILL: _S.CANCELLED, _E.FULL_FILL: _S.FILLED,
    },
    _S.EXPIRED: {
        **dict.fromkeys(_LATE, _S.EXPIRED), _E.CANCELLED: _S.EXPIRED, _E.EXPIRED: _S.EXPIRED,
        _E.PARTIAL_FILL: _S.EXPIRED, _E.FULL_FILL: _S.FILLED,
    },
    _S.REJECTED: {
        **dict.fromkeys(_LATE, _S.REJECTED), _E.REJECTED: _S.REJECTED, _E.ACCEPTED: _S.UNKNOWN,
        _E.PARTIAL_FILL: _S.UNKNOWN, _E.FULL_FILL: _S.FILLED, _E.CANCELLED: _S.CANCELLED,
        _E.EXPIRED: _S.EXPIRED,
    },
    _S.DENIED: {_E.DENIED: _S.DENIED, _E.UNKNOWN: _S.DENIED, _E.NOT_FOUND: _S.DENIED, _E.GONE: _S.DENIED},
}

# Next status by [status, event]; ILLEGAL where there is none. LIVE stands for "open": an order with fills that
# is told LIVE is PARTIALLY_FILLED (engine.execution.orders.apply_event).
TRANSITIONS = np.full((STATUS_COUNT, EVENT_COUNT), ILLEGAL, np.uint8)
for _status, _row in _RULES.items():
    for _event, _next in _row.items():
        TRANSITIONS[_status, _event] = _next
