"""The records that cross rings: one place, explicit little-endian layouts, units in the comments.

Every record is a multiple of 64 bytes and opens with the same 64-byte head, so that the causing ingest id, the
receive time, the kind and the instrument sit at the same offset in all of them. `align=True` because numba types
a packed dtype differently. The record's own sequence is the ring cursor and is not stored.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np


class Kind(IntEnum):
    """What a record says. Market kinds flow from ingestion to execution; commands enter at execution."""

    NONE = 0  # no record
    LEVEL = 1  # one price level of an L2 book: price, size (0 removes), side; aux of a LAST one: the book's checksum,
    # packed as in engine/integrity/wire_checksum.py, where the venue sends one
    TRADE = 2  # price, size, side = aggressor side, aux = venue trade id
    QUOTE = 3  # best bid or best offer of the venue's own ticker: price, size, side; a pair is a group
    MARK_PRICE = 4  # price = mark price, size = index price, both in 1e-8 quote units
    FUNDING = 5  # size = next funding time in ms, aux = funding rate in 1e-12
    LIQUIDATION = 6  # price, size, side of the liquidation order
    OPEN_INTEREST = 7  # size = what is open of a contract, counted once for both sides
    AUDIT_LEVEL = 8  # one level of a REST snapshot that a book is held against, never applied to one: as LEVEL;
    # sequence = its update id, 0: none; aux = sizes agree that differ by less than this. It ends in validation
    CLOCK = 16  # recv_ts_ns is a grid point that time has passed
    GAP = 17  # data of this instrument were lost; aux = first ingest id lost, or 0
    INSTRUMENT = 18  # price = tick size, size = lot size, aux = minimum notional in 1e-8, sequence = epoch
    BOOK_VALID = 19  # from here on the book of this instrument is right; aux = 1: nothing proves it, it is audited
    BOOK_INVALID = 20  # from here on it is not; aux = reason code
    STATUS = 21  # whether the venue takes orders for this instrument: aux = Status
    AUDIT = 22  # REST is about to be asked for a snapshot to hold the book against; it ends in validation
    VECTOR = 32  # a feature vector
    PREDICTION = 33  # a feature vector with the model's outputs
    TRIP = 48  # the emergency word has changed: aux = its value, 0 when it was reset
    MODE = 49  # aux = new control mode
    QUIESCE = 50  # no more entries, cancel everything that rests
    RECONCILE = 51  # ask the venue for balances, positions, open orders; aux = 1 adopts them as opening state
    STALE = 52  # market data are not to be trusted until the next BOOK_VALID
    BACKLOG = 54  # rings beside execution fill up: aux = 0 no, 1 half (no entries), 2 nearly full (no quotes)
    PARAMETER = 55  # instrument = index of a strategy, size = number of its parameter, aux = the new value's 64 bits
    READINESS = 53  # aux = one bit for each process that is not ready; no entries while any is set
    TARGET = 56  # what a strategy in a process of its own wants (the record of that name)
    ABSENT = 57  # instrument = index of a strategy whose process has ended, aux = how many lives of it have


# Kinds that every stage passes on, in order, to execution.
CONTROL_KINDS = (
    Kind.MARK_PRICE, Kind.FUNDING, Kind.CLOCK, Kind.GAP, Kind.INSTRUMENT, Kind.BOOK_VALID, Kind.BOOK_INVALID,
    Kind.STATUS,
)


class Status(IntEnum):
    """Whether an instrument takes orders. New ones are sent to a TRADING one alone, cancels to any."""

    HALTED = 0  # nothing is traded; also what a word means that we do not know
    TRADING = 1  # everything
    CANCEL_ONLY = 2  # orders can be cancelled
    POST_ONLY = 3  # no order is matched
    LIMIT_ONLY = 4  # no market orders
    REDUCE_ONLY = 5  # positions can be closed
    CLOSED = 6  # in delivery or settlement, or not listed any more
    MISFIT = 7  # its tick or lot became finer than the units that this session counts in


class Flag(IntFlag):
    """Flags of a market record."""

    SNAPSHOT = 1  # part of a snapshot: a FIRST one clears the book
    FIRST = 2  # first of its group (one frame, one instrument)
    LAST = 4  # last of its group: features and signals are emitted only here
    MAKER = 8  # report: our order was the resting one
    REDUCE_ONLY = 16  # order
    FROM_REST = 32  # report: learnt by asking, not from the private stream
    CLOSE = 64  # order intent that cancels


class Side(IntEnum):
    """BUY is +1 and SELL is -1, so that signed size = side * size."""

    SELL = -1  # asks; a trade whose seller took
    NONE = 0  # the kind has no side
    BUY = 1  # bids; a trade whose buyer took


_HEAD: list[tuple] = [
    ("ingest_id", "<i8"),  # ordinal of the frame of this session that caused the record, from 1
    ("recv_ts_ns", "<i8"),  # receive time, ns since the epoch on the session clock
    ("exch_ts_ns", "<i8"),  # venue time, ns since the epoch on the venue's clock (0: none given)
    ("sequence", "<i8"),  # venue sequence (Binance: u; trade: t)
    ("price", "<i8"),  # units of 10^-price_exp of the instrument
    ("size", "<i8"),  # units of 10^-size_exp of the instrument
    ("aux", "<i8"),  # by kind
    ("kind", "u1"),  # Kind
    ("venue", "u1"),  # venue index
    ("side", "i1"),  # Side
    ("flags", "u1"),  # Flag
    ("instrument", "<u2"),  # instrument index
    ("reason", "<u2"),  # Reason, where the kind has one
]

FEATURE_COUNT = 8
OUTPUT_COUNT = 2

MARKET = np.dtype(_HEAD, align=True)

_TOUCH: list[tuple] = [
    ("bid_price", "<i8"),  # best bid, units of 10^-price_exp (0: side empty)
    ("bid_size", "<i8"),  # units of 10^-size_exp
    ("ask_price", "<i8"),  # best offer, as the best bid
    ("ask_size", "<i8"),  # units of 10^-size_exp
    ("book_recv_ts_ns", "<i8"),  # receive time of the last event of this book
    ("spare0", "<i8"),
    ("spare1", "<i8"),
    ("spare2", "<i8"),
    ("vector", "<f8", (FEATURE_COUNT,)),  # features, see engine/features/vector.py
]

FEATURE = np.dtype(_HEAD + _TOUCH, align=True)

PREDICTION = np.dtype(
    _HEAD
    + _TOUCH
    + [
        ("output", "<f4", (OUTPUT_COUNT,)),  # model outputs, see models/card
        ("model_version", "<i8"),  # of the model's card
        ("spare_tail", "u1", (48,)),
    ],
    align=True,
)


class OrderAction(IntEnum):
    """What an order record asks the gateway to do (its `kind`)."""

    NEW = 64  # enter this order
    CANCEL = 65  # cancel the order of this order_id
    CANCEL_ALL = 66  # cancel all that rests
    RECONCILE = 67  # ask the venue for balances, positions and open orders
    QUERY = 68  # ask the venue for this order by its client id


class OrderType(IntEnum):
    """Type of an order."""

    LIMIT = 0  # at its price or better
    MARKET = 1  # at any price


class TimeInForce(IntEnum):
    """How long an order stands; the names are those of the venue."""

    GTC = 0  # good till cancelled
    IOC = 1  # immediate or cancel
    FOK = 2  # fill or kill
    GTX = 3  # good till crossing: post only


ORDER = np.dtype(
    _HEAD  # recv_ts_ns: decision time; aux: client order number of the order meant
    + [
        ("order_id", "<i8"),  # our order number in this session, from 1; the client id is made of it
        ("venue_order_id", "<i8"),  # 0 until known
        ("deadline_ns", "<i8"),  # session clock: later than this the gateway denies it as too old
        ("trips_seen", "<i8"),  # emergency word when decided
        ("strategy", "u1"),  # place of the strategy that decided it
        ("order_type", "u1"),  # OrderType
        ("time_in_force", "u1"),  # TimeInForce
        ("spare", "u1", (29,)),
    ],
    align=True,
)


class ReportKind(IntEnum):
    """What a report record on the fills ring says (its `kind`)."""

    ACCEPTED = 96  # resting or about to be matched: the venue knows it
    REJECTED = 97  # never existed at the venue; reason says why
    FILL = 98  # one execution: price, size, trade_id, fee
    CANCELLED = 99  # done, remainder gone
    EXPIRED = 100  # done by the venue's own rule (IOC remainder, GTX that would take)
    UNKNOWN = 101  # the request may or may not have reached the venue
    DENIED = 102  # our own last gate refused to send it
    CANCEL_REJECTED = 103  # the venue does not know the order to cancel (any more)
    BALANCE = 104  # aux = wallet balance in 1e-8 quote units, exch_ts_ns = newest payment before the session
    POSITION = 105  # size signed, price = entry price, aux = cost in 1e-8 quote (0: not told), trade_id = newest trade
    OPEN_ORDERS = 106  # aux = number of our orders that rest at the venue
    FEES = 107  # aux = sum of the fees of our fills as the venue counts them, in 1e-8 quote units
    RECONCILE_END = 108  # aux = 1 when the answer is whole; flags as in the request
    NOT_FOUND = 109  # a query's answer: the venue has never seen this client id; aux = session time of the question
    CAUGHT_UP = 110  # the private stream is back, and all that it may have missed has been reported
    FUNDING = 111  # aux = paid into the wallet in 1e-8 quote units (negative: out of it), trade_id = number of it
    ADJUSTMENT = 112  # the same for any other change of the wallet that no fill explains


REPORT = np.dtype(
    _HEAD  # ingest_id: ordinal in the gateway's own journal
    + [
        ("order_id", "<i8"),  # ours, as in ORDER; 0 where it is about none
        ("venue_order_id", "<i8"),  # the venue's, 0 where it told none
        ("trade_id", "<i8"),  # the venue's number of the fill, or by kind
        ("cumulative_size", "<i8"),  # as the venue counts it
        ("fee", "<i8"),  # 1e-8 quote units, positive = paid
        ("spare", "u1", (24,)),
    ],
    align=True,
)

TARGET = np.dtype(
    _HEAD  # ingest_id: of the event that it answers; recv_ts_ns: when it was said; aux: number of the process that said
    # it, and sequence: number of the target in that process, both from 1; size: events passed over since the last
    # target of this instrument; reason: STRATEGY_FAULT where the strategy failed
    + [
        ("event_ns", "<i8"),  # record time of the event that it answers: its age counts from there
        ("fills", "<i8"),  # how many fills of its own in this instrument the strategy had seen
        ("fair_price", "<f8"),  # price units with fraction, 0: none
        ("bid_price", "<i8"),  # price units
        ("bid_size", "<i8"),  # size units, 0: no quote wanted
        ("ask_price", "<i8"),  # price units
        ("ask_size", "<i8"),  # size units, 0: no quote wanted
        ("strategy", "u1"),  # place of the strategy
        ("bid_order_type", "u1"),  # OrderType
        ("bid_time_in_force", "u1"),  # TimeInForce
        ("bid_at_once", "u1"),  # 1: one attempt when the record is taken
        ("ask_order_type", "u1"),  # OrderType
        ("ask_time_in_force", "u1"),  # TimeInForce
        ("ask_at_once", "u1"),  # 1: one attempt when the record is taken
        ("spare", "u1"),
    ],
    align=True,
)

# Source of a batch that a stage is stepped with.
SOURCE_MAIN = 0  # the ring of the stage before
SOURCE_FILLS = 1  # execution: reports of a gateway
SOURCE_COMMANDS = 2  # execution: commands and trips (MARKET records)
SOURCE_TARGETS = 3  # execution: targets of the first strategy in a process of its own; the next one's have the next
TARGET_SOURCES = 4  # so many strategies can have one

ALL_RECORDS = {
    "MARKET": MARKET, "FEATURE": FEATURE, "PREDICTION": PREDICTION, "ORDER": ORDER, "REPORT": REPORT, "TARGET": TARGET,
}
