"""Kraken's books through decoder and validation: every recorded checksum, every flipped digit, any groups at all.

What is right is said by the book of text (tests/kraken_oracle.py), which shares no code with the kernels.
"""

from __future__ import annotations

import copy
import dataclasses
import heapq
import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.book import book_top
from engine.features.settings import FeatureSettings
from engine.features.state import make_features_state
from engine.features.step import FEATURES
from engine.instruments import Dialect, Instrument
from engine.integrity.wire_checksum import pack_checksum, unpack_checksum
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind, Side
from engine.validation.settings import ValidationSettings
from engine.validation.state import make_validation_state
from engine.validation.step import VALIDATION
from procs.venues.kraken_futures.instruments import instruments_from_rest
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs
from tests.kraken_oracle import (
    FUTURES_CAPTURE,
    FUTURES_LISTING,
    PRODUCTS,
    V1_CAPTURES,
    V1_LISTING,
    V1_PAIRS,
    Session,
    TextBook,
    instrument,
    received,
    rest_body,
)
from tests.market_records import run_stage

DEPTH = 1000
WRONG_BOOKS = (Reason.CHECKSUM_MISMATCH, Reason.CROSSED_BOOK, Reason.LOCKED_BOOK)


class Path:
    """A decoder and validation behind it."""

    def __init__(self, items: list[Instrument], dialect: Dialect) -> None:
        self.items = items
        self.session = Session(items, dialect)
        self.state = make_validation_state(ValidationSettings(), items)
        self.kinds: Counter[Kind] = Counter()
        self._validate(self.session.start(1))

    def _validate(self, count: int) -> np.ndarray:
        assert count >= 0
        out = run_stage(VALIDATION, self.state, self.session.outbox[:count])
        assert not out["aux"][out["kind"] == Kind.LEVEL].any()
        self.kinds.update(Kind(kind) for kind in out["kind"].tolist())
        return out

    def frame(self, frame: bytes, recv_ts_ns: int) -> np.ndarray:
        """What validation passes on of one frame."""
        return self._validate(self.session.frame(frame, recv_ts_ns))

    @property
    def checks(self) -> np.void:
        return self.state["checks"][0]

    def save(self) -> tuple[np.ndarray, np.ndarray]:
        return self.session.state.copy(), self.state.copy()

    def restore(self, saved: tuple[np.ndarray, np.ndarray]) -> None:
        self.session.state[:], self.state[:] = saved

    def levels(self, index: int) -> list[list[tuple[int, int]]]:
        """[bids, asks] of the integrity book, best first."""
        return levels_of(self.state, index)


def levels_of(state: np.ndarray, index: int) -> list[list[tuple[int, int]]]:
    prices, sizes = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
    sides = []
    for side in (Side.BUY, Side.SELL):
        found = book_top(state["books"][0], index, int(side), 2000, prices, sizes)
        sides.append(list(zip(prices[:found].tolist(), sizes[:found].tolist())))
    return sides


def spot_path() -> Path:
    items = instruments_from_asset_pairs(rest_body(V1_LISTING), V1_PAIRS)
    return Path([dataclasses.replace(item, book_depth=DEPTH) for item in items], Dialect.KRAKEN_SPOT_V1)


def apply_text(book: TextBook, message: list[Any]) -> str | None:
    """Apply a book message of v1 to a book of text, cut it; the checksum that the message carries."""
    checksum = None
    for part in message[1:-2]:
        for key, levels in part.items():
            if key == "c":
                checksum = levels
                continue
            for price, size, *_ in levels:
                book.apply(key[0] == "b", price, size)
    book.cut()
    return checksum


def test_every_recorded_checksum_is_verified_and_no_book_is_ever_wrong() -> None:
    path = spot_path()
    texts = {symbol: TextBook(DEPTH) for symbol in V1_PAIRS}
    checksums = 0
    # Three connections of the same half minute, in the order in which their frames came.
    for recv_ts_ns, frame in heapq.merge(*map(received, V1_CAPTURES)):
        out = path.frame(frame, recv_ts_ns)
        message = json.loads(frame)
        if isinstance(message, list) and message[-2].startswith("book-"):
            checksums += apply_text(texts[message[-1]], message) is not None
            assert out["kind"][-1] == (Kind.BOOK_VALID if "as" in message[1] else Kind.LEVEL)
    row = path.state[0]
    assert checksums == int(path.checks["verified"].sum()) == 4269
    assert not path.checks["mismatched"].any() and not path.checks["crossed"].any() and not path.checks["locked"].any()
    assert not row["quarantined"].any() and not row["dropped"].any()
    assert row["records_in"] == row["processed"]
    assert path.kinds[Kind.BOOK_VALID] == len(path.items) and path.kinds[Kind.BOOK_INVALID] == 0
    assert path.checks["valid"][: len(path.items)].all()
    for item in path.items:
        assert path.levels(item.index) == texts[item.symbol].levels(item)


def test_a_venue_without_checksums_has_no_wrong_book_either() -> None:
    path = Path(list(instruments_from_rest(rest_body(FUTURES_LISTING), PRODUCTS)), Dialect.KRAKEN_FUTURES)
    for recv_ts_ns, frame in received(FUTURES_CAPTURE):
        path.frame(frame, recv_ts_ns)
    assert not path.checks["verified"].any() and not path.checks["crossed"].any()
    assert path.kinds[Kind.BOOK_VALID] == len(path.items) and path.kinds[Kind.BOOK_INVALID] == 0
    assert path.kinds[Kind.LEVEL] > 7014
    assert not path.state[0]["quarantined"].any()


def flipped(message: list[Any], source: random.Random) -> list[Any]:
    """The message with one digit of a price, a size or the checksum changed."""
    changed = copy.deepcopy(message)
    parts = [(part, key) for part in changed[1:-2] for key in part]
    part, key = source.choice(parts)
    holder, at = (part, key) if key == "c" else (source.choice(part[key]), source.randrange(2))
    text = holder[at]
    place = source.choice([i for i, digit in enumerate(text) if digit.isdigit()])
    digit = source.choice([digit for digit in "0123456789" if digit != text[place]])
    holder[at] = f"{text[:place]}{digit}{text[place + 1 :]}"
    return changed


def test_one_flipped_digit_makes_the_book_invalid_until_a_new_snapshot() -> None:
    """150 recorded updates, each with one digit changed.

    Where the book of text says that the checksum does not agree any more, BOOK_INVALID comes with that very group, and
    nothing of the book after it, whatever follows, until a snapshot. Where the digit lies behind the best ten levels
    the checksum cannot tell; most do not.
    """
    path, source = spot_path(), random.Random(11)
    items = {item.symbol: item for item in path.items}
    texts = {symbol: TextBook(DEPTH) for symbol in V1_PAIRS}
    snapshots: dict[str, bytes] = {}
    frames = [(at, frame, json.loads(frame)) for at, frame in received(V1_CAPTURES[2])]
    chosen = set(source.sample(range(200, len(frames) - 400), 150))
    found: Counter[bool] = Counter()
    for number, (recv_ts_ns, frame, message) in enumerate(frames):
        if not isinstance(message, list):
            continue
        symbol = message[-1]
        item, text = items[symbol], texts[symbol]
        if "as" in message[1]:
            snapshots[symbol] = frame
        elif number in chosen:
            wrong = flipped(message, source)
            seen = copy.deepcopy(text)
            told = apply_text(seen, wrong)
            assert told is not None
            sides = [max(seen.bids), min(seen.asks)]
            detectable = seen.checksum() != int(told) or sides[0] >= sides[1]
            saved = path.save()
            if path.session.frame(json.dumps(wrong).encode(), recv_ts_ns) >= 0:  # else the decoder refused it
                path.restore(saved)
                out = path.frame(json.dumps(wrong).encode(), recv_ts_ns)
                mine = out[out["instrument"] == item.index]
                invalid = mine[mine["kind"] == Kind.BOOK_INVALID]
                assert (len(invalid) == 1) == detectable, (number, wrong)
                found[detectable] += 1
                if detectable:
                    assert Reason(int(invalid["reason"][0])) in WRONG_BOOKS
                    assert path.state["instruments"][0]["resync_wanted"][item.index] == 1
                    for later_ns, later, _ in frames[number + 1 : number + 40]:
                        out = path.frame(later, later_ns)
                        assert not (out["instrument"][out["kind"] != Kind.CLOCK] == item.index).any()
                    out = path.frame(snapshots[symbol], later_ns)
                    assert out["kind"][-1] == Kind.BOOK_VALID and out["instrument"][-1] == item.index
            path.restore(saved)
        path.frame(frame, recv_ts_ns)
        apply_text(text, message)
    assert found[True] > 80, found


# --- any groups at all ----------------------------------------------------------------------------------------------

ITEM = dataclasses.replace(instrument("XBT/USD", price_exp=1, size_exp=8), book_depth=10)
LEVEL = st.tuples(st.booleans(), st.integers(-2, 40), st.integers(0, 10**12))
GROUP = st.tuples(
    st.sampled_from(("update", "update", "update", "snapshot")),
    st.sampled_from(("right", "right", "right", "right", "wrong", "none")),  # its checksum
    st.lists(LEVEL, min_size=1, max_size=20),
)


def group_records(levels: list[tuple[bool, int, int]], snapshot: bool, word: int) -> np.ndarray:
    records = np.zeros(len(levels), MARKET)
    records["kind"] = Kind.LEVEL
    records["recv_ts_ns"] = 1
    records["flags"] = Flag.SNAPSHOT if snapshot else 0
    records["flags"][0] |= Flag.FIRST
    records["flags"][-1] |= Flag.LAST
    for record, (is_bid, price, size) in zip(records, levels):
        record["side"], record["price"], record["size"] = (Side.BUY if is_bid else Side.SELL), price, size
    records["aux"][-1] = word
    return records


@settings(max_examples=150)
@given(groups=st.lists(GROUP, min_size=1, max_size=30))
def test_a_book_is_valid_exactly_while_the_book_of_text_says_so(groups: list[Any]) -> None:
    """Snapshots and updates that may cross, with a right checksum, a wrong one or none: what the text says."""
    state = make_validation_state(ValidationSettings(), [ITEM])
    features = make_features_state(FeatureSettings(), [ITEM])
    run_stage(FEATURES, features, run_stage(VALIDATION, state, ITEM.record()))
    text = TextBook(10)
    valid, checksummed = False, False
    for what, checksum, levels in groups:
        snapshot = what == "snapshot"
        placed = [(is_bid, 1000 - away if is_bid else 1001 + away, size) for is_bid, away, size in levels]
        if snapshot:
            text = TextBook(10)
        for is_bid, price, size in placed:
            text.apply(is_bid, f"{price // 10}.{price % 10}0000", f"{size // 10**8}.{size % 10**8:08}")
        text.cut()
        word = {
            "right": pack_checksum(text.checksum(), 5, 8), "wrong": pack_checksum(text.checksum() ^ 1, 5, 8), "none": 0,
        }[checksum]
        assert unpack_checksum(word).given == (checksum != "none")
        stands = snapshot or valid
        out = run_stage(VALIDATION, state, group_records(placed, snapshot, word))
        if not stands:
            assert len(out) == 0
            continue
        expected = Reason.NONE
        if text.bids and text.asks and max(text.bids) >= min(text.asks):
            expected = Reason.LOCKED_BOOK if max(text.bids) == min(text.asks) else Reason.CROSSED_BOOK
        else:
            missing = checksum == "none" and checksummed and not snapshot
            if checksum == "wrong" or missing:
                expected = Reason.CHECKSUM_MISMATCH
            checksummed = checksummed or checksum != "none"
        valid = expected == Reason.NONE
        kinds = out["kind"].tolist()
        run_stage(FEATURES, features, out)
        assert features["flows"]["valid"][0, 0] == valid
        if valid:
            assert levels_of(features, 0) == text.levels(ITEM), "the book that is decided on is the one that was judged"
            assert kinds == [Kind.LEVEL] * len(levels) + ([Kind.BOOK_VALID] if snapshot else [])
            assert levels_of(state, 0) == text.levels(ITEM)
        else:
            assert kinds == [Kind.LEVEL] * (len(levels) - 1) + [Kind.BOOK_INVALID]
            assert out["reason"][-1] == out["aux"][-1] == expected
        assert state["checks"][0]["valid"][0] == valid


def test_checksums_can_be_switched_off() -> None:
    levels = [(True, 1000, 5), (False, 1001, 7)]
    for chosen, last in ((True, Kind.BOOK_INVALID), (False, Kind.BOOK_VALID)):
        state = make_validation_state(ValidationSettings(checksums=chosen), [ITEM])
        run_stage(VALIDATION, state, ITEM.record())
        out = run_stage(VALIDATION, state, group_records(levels, True, pack_checksum(77, 5, 8)))
        assert out["kind"][-1] == last


def test_a_book_deeper_than_a_checked_book_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 2000"):
        make_validation_state(ValidationSettings(), [dataclasses.replace(ITEM, book_depth=2000)])
