"""The state of the validation stage, and what people read from it."""

from __future__ import annotations

import numpy as np

from engine.instruments import MAX_INSTRUMENTS
from engine.records import MARKET
from engine.stage import STATE_HEAD
from engine.validation.settings import ValidationSettings

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
        ("resync_wanted", "<i8"),  # how often a new snapshot was needed that ingestion does not know of
        ("reference_price", "<i8"),  # the last good trade or quote, 0: none yet
        ("candidate_price", "<i8"),  # the last price refused for its distance
        ("candidate_count", "<i8"),  # how many such in a row agree
        ("trade_ids", "<i8", (TRADE_ID_PLACES,)),  # accepted trade ids by their low bits
    ],
    align=True,
)

VALIDATION_STATE = np.dtype(
    STATE_HEAD
    + [
        ("band_fraction", "<f8"),
        ("band_confirmations", "<i8"),
        ("price_max", "<i8"),
        ("size_max", "<i8"),
        ("quarantine_total", "<i8"),  # records ever quarantined; the next goes to this place, modulo the ring
        ("quarantine", MARKET, (QUARANTINE_PLACES,)),  # the newest, with `reason` filled in
        ("instruments", INTEGRITY, (MAX_INSTRUMENTS,)),
    ],
    align=True,
)


def make_validation_state(settings: ValidationSettings) -> np.ndarray:
    """VALIDATION_STATE of shape (1,) with every instrument unknown."""
    state = np.zeros(1, VALIDATION_STATE)
    for name in ("band_fraction", "band_confirmations", "price_max", "size_max"):
        state[name] = getattr(settings, name)
    return state


def quarantined_records(state: np.ndarray) -> np.ndarray:
    """The newest quarantined records (MARKET, at most QUARANTINE_PLACES), oldest first, each with its reason."""
    total = int(state["quarantine_total"][0])
    first = max(0, total - QUARANTINE_PLACES)
    return state["quarantine"][0][np.arange(first, total) % QUARANTINE_PLACES].copy()


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
