"""Reason codes: every refusal, drop and denial is counted under one of these names."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why something was refused. The number is the index into the counter arrays of a stage's state."""

    NONE = 0
    # decoding
    BAD_JSON = 1  # not the JSON that the venue documents, at the place where it broke
    UNKNOWN_STREAM = 2  # a frame of a kind that nobody asked for
    UNKNOWN_SYMBOL = 3
    BAD_NUMBER = 4  # a number with more digits than the instrument has, or none at all
    FRAME_TOO_LARGE = 5  # more levels than the decoder has room for
    RING_FULL = 6  # no room downstream: the frame was dropped
    # sequence
    STALE_DIFF = 8  # a diff that the snapshot already contains
    SEQUENCE_GAP = 9
    DUPLICATE = 10  # a trade or diff seen before
    SNAPSHOT_TOO_OLD = 11  # older than the first buffered diff
    PENDING_OVERFLOW = 12  # too many diffs while waiting for a snapshot
    NEW_EPOCH = 13  # tick, lot or filters of the instrument changed: its book begins anew
    BELOW_THRESHOLD = 14  # a liquidation smaller than what is to be passed on
    # validation
    PRICE_RANGE = 16  # zero, negative or beyond the plausible band around the reference price
    SIZE_RANGE = 17  # negative or absurd
    OFF_TICK = 18
    TIME_BACKWARDS = 19  # receive time went backwards
    NO_INSTRUMENT = 20  # data before the INSTRUMENT record
    CROSSED_BOOK = 21
    BAD_SIDE = 22  # neither buyer nor seller
    NO_SNAPSHOT = 23  # a level that has no whole snapshot to stand on
    # features
    BOOK_INCOMPLETE = 24  # the book had to forget levels that it now needs
    BEYOND_SNAPSHOT = 25  # the touch is worse than the last level of a snapshot that was cut by the venue's limit
    STALLED_BOOK = 26  # the venue's ticker goes on, the stream of the book does not
    RATE_RANGE = 27  # a funding rate beyond what is plausible
    # the risk gate of execution
    ORDER_VALUE = 32
    POSITION_LIMIT = 33
    PRICE_COLLAR = 34
    MESSAGE_RATE = 35
    STALE_DATA = 36
    NOT_TRADING = 37  # mode, trip or quiescence forbids new orders
    TOO_MANY_ORDERS = 38
    BACKLOG = 39  # what was sent or reported is not being taken fast enough
    # the last gate of a gateway
    DENIED_EMERGENCY = 40
    DENIED_LATE = 41
    DENIED_MODE = 43  # REDUCE and PAUSE let out what only reduces
    DENIED_RATE_BUDGET = 42  # what is left of the venue's rate limits is kept for cancels
    DENIED_INTENT = 51  # the request was not what execution had decided: an emergency
    # the venue
    VENUE_REJECTED = 44
    WOULD_TAKE = 45  # post-only order that would have matched
    INSUFFICIENT_MARGIN = 46
    UNKNOWN_ORDER = 47
    RATE_LIMITED = 48
    VENUE_UNREACHABLE = 49
    VENUE_ERROR = 50  # 5xx or an answer that cannot be understood
    # books of venues that send a checksum
    CHECKSUM_MISMATCH = 56  # the venue's checksum is not that of our book
    EMPTY_SNAPSHOT = 57  # a snapshot without any level: no record could say that the book is empty
    LOCKED_BOOK = 58  # best bid = best ask
    AUDIT_MISMATCH = 59  # the venue's ticker disagrees with our book, again and again
    # strategies
    STRATEGY_FAULT = 60  # it raised an error or wanted what is no price or size: its quotes are taken back
    SELF_TRADE = 61  # it would have taken an order of our own
    ENDED_PROCESS = 63  # a target that the process of a strategy had left when it ended
    # market data again
    REST_MISMATCH = 62  # REST snapshots disagree with our book, again and again


REASON_COUNT = 64
