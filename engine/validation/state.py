"""The state of the validation stage, and what people read from it.

Layout: a head with a place for every instrument there may be, then a book for each that the session has. The books are
the same as those of the features stage, so that a checkpoint copies some 265 KB an instrument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.book.book import make_books
from engine.book.layout import BOOK
from engine.instruments import MAX_INSTRUMENTS, Instrument
from engine.integrity.checked_book import CHECKS, make_checks
from engine.records import MARKET
from engine.stage import STATE_HEAD
from engine.validation.audit import AUDIT, BY_NOTHING, audit_rule, is_proven
from engine.validation.rest_audit import REST_COUNTS, REST_WINDOW
from engine.validation.settings import MEDIAN_PLACES, ValidationSettings

MARK_EXP = 8  # mark and index prices are in units of 10^-8
QUARANTINE_PLACES = 256  # a power of two
TRADE_ID_PLACES = 256  # a power of two

# Phases of a book's integrity.
NO_SNAPSHOT = 0  # nothing to stand on: levels are dropped until a snapshot begins
FILLING = 1  # inside a snapshot
WHOLE = 2  # a whole snapshot and every diff since

INTEGRITY = np.dtype(
    [
        ("known", "<i8"),  # 1: an INSTRUMENT record has been seen
        ("tick", "<i8"),  # price units, of the current epoch
        ("lot", "<i8"),  # size units
        ("epoch", "<i8"),
        ("phase", "<i8"),
        ("announced", "<i8"),  # 1: the last word downstream was BOOK_VALID
        ("first_ns", "<i8"),  # record time of the first record of this instrument
        ("valid_since_ns", "<i8"),  # record time of that BOOK_VALID
        ("valid_ns", "<i8"),  # time valid before that
        ("lost", "<i8"),  # how often a valid book became invalid
        ("resync_wanted", "<i8"),  # how often a new snapshot was needed that ingestion does not know of
        ("reference_price", "<i8"),  # the running median of good trades and quotes, 0: none yet
        ("newest_count", "<i8"),  # prices that it is made of, at most the window
        ("newest_next", "<i8"),  # the place of the oldest, where the next one goes
        ("newest", "<i8", (MEDIAN_PLACES,)),  # in the order of their arrival
        ("ordered", "<i8", (MEDIAN_PLACES,)),  # the same, lowest first
        ("candidate_price", "<i8"),  # the last price refused for its distance
        ("candidate_count", "<i8"),  # how many such in a row agree
        ("mark_unit", "<f8"),  # units of a mark price in one price unit
        ("mark_price", "<i8"),  # the last good one, 0: none yet
        ("index_price", "<i8"),  # the last good one, 0: none yet
        ("mark_candidate", "<i8"),  # the last mark price refused for its distance
        ("index_candidate", "<i8"),  # the index price that came with it
        ("mark_candidate_count", "<i8"),  # how many such in a row agree
        ("trade_ids", "<i8", (TRADE_ID_PLACES,)),  # accepted trade ids by their low bits
    ],
    align=True,
)

_SWITCHES = ("monotonic_time", "unique_trades", "tick_grid", "price_band")
_BOUNDS = (
    "band_fraction", "band_confirmations", "median_window", "funding_rate_max", "price_max", "size_max",
    "audit_disagreements", "stalled_book_ms", "audit_band", "rest_audit_levels", "rest_audit_window_ms",
    "rest_audit_disagreements",
)

_HEAD_FIELDS: list[tuple] = STATE_HEAD + [
    ("instrument_count", "<i8"),  # books
    *((name, "<i8") for name in _SWITCHES),  # 1 or 0, see settings.py
    ("band_fraction", "<f8"),
    ("band_confirmations", "<i8"),
    ("median_window", "<i8"),
    ("funding_rate_max", "<f8"),
    ("price_max", "<i8"),
    ("size_max", "<i8"),
    ("audit_disagreements", "<i8"),
    ("stalled_book_ms", "<i8"),
    ("audit_band", "<f8"),
    ("rest_audit_levels", "<i8"),
    ("rest_audit_window_ms", "<i8"),
    ("rest_audit_disagreements", "<i8"),
    ("quarantine_total", "<i8"),  # records ever quarantined; the next goes to this place, modulo the ring
    ("quarantine", MARKET, (QUARANTINE_PLACES,)),  # the newest, with `reason` filled in
    ("instruments", INTEGRITY, (MAX_INSTRUMENTS,)),
    ("checks", CHECKS),  # verdicts on the books
    ("audits", AUDIT, (MAX_INSTRUMENTS,)),  # by the venue's ticker
    ("rest_audits", REST_COUNTS, (MAX_INSTRUMENTS,)),  # by snapshots of REST
    ("window", REST_WINDOW),  # of the one that is under way
]
VALIDATION_HEAD = np.dtype(_HEAD_FIELDS, align=True)


def validation_dtype(instrument_count: int) -> np.dtype:
    """The state dtype for so many instruments (indexes 0 to instrument_count - 1)."""
    return np.dtype([*_HEAD_FIELDS, ("books", BOOK, (instrument_count,))], align=True)


def make_validation_state(settings: ValidationSettings, instruments: Sequence[Instrument]) -> np.ndarray:
    """validation_dtype(largest index + 1) of shape (1,): every instrument unknown, every book empty.

    Raises ValueError without instruments, for an index beyond MAX_INSTRUMENTS, for a book deeper than a checked book.
    """
    if not instruments:
        raise ValueError("validation: no instruments")
    checks = make_checks(instruments)
    count = max(item.index for item in instruments) + 1
    state = np.zeros(1, validation_dtype(count))
    state["instrument_count"] = count
    for name in _SWITCHES + _BOUNDS:
        state[name] = getattr(settings, name)
    state["checks"] = checks
    state["checks"]["refuse_crossed"] = settings.crossed_books
    state["checks"]["refuse_locked"] = settings.locked_books
    state["checks"]["verify"] = settings.checksums
    if not settings.snapshot_reach:
        state["checks"]["limited"] = 0
    state["books"][0] = make_books(count)
    for item in instruments:
        state["instruments"][0, item.index]["mark_unit"] = 10.0 ** (MARK_EXP - item.price_exp)
        audit = state["audits"][0, item.index]
        audit["proven"] = is_proven(item, settings.checksums)
        audit["rule"] = audit_rule(item, settings.checksums) if settings.ticker_audit else BY_NOTHING
    return state


def quarantined_records(state: np.ndarray) -> np.ndarray:
    """The newest quarantined records (MARKET, at most QUARANTINE_PLACES), oldest first, each with its reason."""
    total = int(state["quarantine_total"][0])
    first = max(0, total - QUARANTINE_PLACES)
    return state["quarantine"][0][np.arange(first, total) % QUARANTINE_PLACES].copy()


def validation_rate(state: np.ndarray) -> float:
    """Part of the records taken that was passed on; 1 before any."""
    taken = int(state["records_in"][0])
    return int(state["processed"][0]) / taken if taken else 1.0


def book_valid_times(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ns with a valid book, ns since the first record) of each instrument, int64[MAX_INSTRUMENTS]."""
    now = int(state["now_ns"][0])
    items = state["instruments"][0]
    open_ns = np.where(items["announced"] != 0, now - items["valid_since_ns"], 0)
    total_ns = np.where(items["first_ns"] != 0, now - items["first_ns"], 0)
    return items["valid_ns"] + open_ns, total_ns


def book_valid_ratio(state: np.ndarray) -> float:
    """Part of the time, over all instruments, that books were valid; 0 before any time has passed."""
    valid_ns, total_ns = book_valid_times(state)
    total = int(total_ns.sum())
    return int(valid_ns.sum()) / total if total else 0.0
