"""Checksums and checked books: CRC-32 against zlib, Kraken's rule against the text of the numbers, verdicts."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.book.book import book_top
from engine.instruments import MAX_INSTRUMENTS, Dialect
from engine.integrity.checked_book import MAX_DEPTH, check_records, make_checked_books
from engine.integrity.crc32 import CRC_START, crc32, crc_end
from engine.integrity.kraken_checksum import CANNOT_PRINT, crc_printed, kraken_checksum
from engine.integrity.wire_checksum import pack_checksum, unpack_checksum
from engine.reasons import Reason
from engine.records import MARKET, Flag, Kind, Side
from engine.stage import as_bytes
from tests.kraken_oracle import TextBook, instrument

PRICE_DECIMALS, SIZE_DECIMALS = 5, 8


@given(st.binary(max_size=300))
def test_crc32_is_that_of_zlib(data: bytes) -> None:
    assert crc32(data) == zlib.crc32(data)


@given(st.integers(0, 10**9), st.integers(0, 9), st.integers(0, 9))
def test_printed_numbers_are_those_of_the_text(value: int, exp: int, more: int) -> None:
    """`value` units of 10^-exp, printed with `more` decimals beyond those, without point and leading zeros."""
    text = f"{value * 10**more}".encode() if value else b""
    assert crc_end(crc_printed(CRC_START, value, exp, exp + more)) == zlib.crc32(text)
    assert crc_end(crc_printed(CRC_START, value * 10**more, exp + more, exp)) == zlib.crc32(f"{value or ''}".encode())


def test_a_number_with_more_decimals_than_are_printed_has_no_checksum() -> None:
    assert crc_printed(CRC_START, 123, 2, 1) == CANNOT_PRINT


@given(st.integers(-1, 2**32 - 1), st.integers(-1, 255), st.integers(-1, 255))
def test_the_word_of_a_checksum(checksum: int, price_decimals: int, size_decimals: int) -> None:
    word = pack_checksum(checksum, price_decimals, size_decimals)
    told = unpack_checksum(word)
    assert 0 <= word < 2**63
    assert told.given == (checksum >= 0) and told.known == (min(price_decimals, size_decimals) >= 0)
    if told.given:
        assert told.checksum == checksum
    if told.known:
        assert (told.price_decimals, told.size_decimals) == (price_decimals, size_decimals)


class Checked:
    """One checked book, and beside it the book of text; prices in 0.1, printed with five decimals."""

    def __init__(self, depth: int) -> None:
        self.item = instrument("XBT/USD", price_exp=1, size_exp=8)
        self.checks, self.books = make_checked_books([self.item], {0: depth})
        self.text = TextBook(depth)

    def group(self, levels: list[tuple[bool, int, int]], snapshot: bool = False, wrong: int = 0) -> int:
        """Apply (is_bid, price, size) to both; `wrong` is added to the checksum. The number of wrong verdicts."""
        if snapshot:
            self.text = TextBook(self.text.depth)
        for is_bid, price, size in levels:
            self.text.apply(is_bid, f"{price // 10}.{price % 10}0000", f"{size // 10**8}.{size % 10**8:08}")
        self.text.cut()
        records = np.zeros(len(levels), MARKET)
        records["kind"] = Kind.LEVEL
        records["flags"] = Flag.SNAPSHOT if snapshot else 0
        records["flags"][0] |= Flag.FIRST
        records["flags"][-1] |= Flag.LAST
        for record, (is_bid, price, size) in zip(records, levels):
            record["side"], record["price"], record["size"] = (Side.BUY if is_bid else Side.SELL), price, size
        checksum = (self.text.checksum() + wrong) % 2**32
        records["aux"][-1] = pack_checksum(checksum, PRICE_DECIMALS, SIZE_DECIMALS)
        return self.take(records)

    def take(self, records: np.ndarray) -> int:
        checks, books = as_bytes(self.checks), as_bytes(self.books)
        return int(check_records(checks, books, as_bytes(records), len(records)))

    def state(self, name: str) -> int:
        return int(self.checks[name][0, 0])

    def levels(self) -> list[list[tuple[int, int]]]:
        prices, sizes = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
        sides = []
        for side in (1, -1):
            found = book_top(self.books, 0, side, 2000, prices, sizes)
            sides.append(list(zip(prices[:found].tolist(), sizes[:found].tolist())))
        return sides


SNAPSHOT = [(True, 1000, 5), (True, 999, 10**8), (True, 998, 7), (False, 1001, 30), (False, 1002, 4 * 10**9)]


def test_a_book_is_valid_from_a_right_snapshot_until_a_wrong_group() -> None:
    book = Checked(10)
    assert (book.state("valid"), book.state("verdict")) == (0, Reason.NO_SNAPSHOT)
    assert book.group(SNAPSHOT, snapshot=True) == 0
    assert (book.state("valid"), book.state("verified")) == (1, 1)
    assert book.group([(True, 1000, 6)]) == 0
    assert (book.state("valid"), book.state("verified")) == (1, 2)
    assert book.group([(True, 1000, 7)], wrong=1) == 1
    assert (book.state("valid"), book.state("verdict")) == (0, Reason.CHECKSUM_MISMATCH)
    assert book.group([(True, 1000, 8)]) == 0, "the best levels are right again, the rest may not be"
    assert book.state("valid") == 0
    assert book.group(SNAPSHOT, snapshot=True) == 0
    assert book.state("valid") == 1
    gap = np.zeros(1, MARKET)
    gap["kind"] = Kind.GAP
    assert book.take(gap) == 0
    assert (book.state("valid"), book.state("verdict")) == (0, Reason.SEQUENCE_GAP)


def test_a_lost_update_shows_in_the_next_checksum() -> None:
    book = Checked(10)
    book.group(SNAPSHOT, snapshot=True)
    book.text.apply(True, "99.90000", "2.00000000")
    assert book.group([(False, 1002, 9)]) == 1
    assert book.state("verdict") == Reason.CHECKSUM_MISMATCH


def test_crossed_and_impossible_books_are_invalid_and_locked_ones_are_not() -> None:
    book = Checked(10)
    book.group(SNAPSHOT, snapshot=True)
    assert book.group([(True, 1001, 5)]) == 0 and book.state("valid") == 1
    assert book.group([(True, 1002, 5)]) == 1
    assert (book.state("valid"), book.state("verdict"), book.state("crossed")) == (0, Reason.CROSSED_BOOK, 1)
    book.group(SNAPSHOT, snapshot=True)
    impossible = np.zeros(1, MARKET)
    impossible["kind"], impossible["side"], impossible["flags"] = Kind.LEVEL, Side.BUY, Flag.FIRST | Flag.LAST
    impossible["price"], impossible["size"] = -5, 1
    assert book.take(impossible) == 1
    assert book.state("verdict") == Reason.BOOK_INCOMPLETE


def test_a_checksum_without_known_decimals_is_not_judged() -> None:
    book = Checked(10)
    records = np.zeros(1, MARKET)
    records["kind"], records["side"], records["price"], records["size"] = Kind.LEVEL, Side.BUY, 5, 5
    records["flags"], records["aux"] = Flag.FIRST | Flag.LAST | Flag.SNAPSHOT, pack_checksum(77, -1, -1)
    assert book.take(records) == 0
    assert (book.state("valid"), book.state("verified")) == (1, 0)


def test_depths_beyond_the_venue_are_refused() -> None:
    with pytest.raises(ValueError, match=r"XBT/USD: depth 1001"):
        make_checked_books([instrument("XBT/USD")], {0: MAX_DEPTH + 1})
    checks, books = make_checked_books([instrument("XBT/USD", index=MAX_INSTRUMENTS - 1)])
    assert checks["depth"].sum() == 0 and len(books) == MAX_INSTRUMENTS


# --- the reach of a snapshot ------------------------------------------------------------------------------------------


class Cut:
    """One checked book of Binance, whose snapshot has so many levels a side: bids 9999 down, asks 10001 up."""

    def __init__(self, bids: int, asks: int, dialect: Dialect = Dialect.BINANCE_SPOT) -> None:
        self.checks, self.books = make_checked_books([replace(instrument("XBT/USD"), dialect=dialect)])
        levels = [(Side.BUY, 9999 - k) for k in range(bids)] + [(Side.SELL, 10001 + k) for k in range(asks)]
        assert self.take([(side, price, 1) for side, price in levels], Flag.SNAPSHOT) == Reason.NONE

    def take(self, levels: list[tuple[Side, int, int]], flags: int = 0) -> Reason:
        """A group; the verdict on the book."""
        records = np.zeros(len(levels), MARKET)
        records["kind"], records["flags"] = Kind.LEVEL, flags
        records["flags"][0] |= Flag.FIRST
        records["flags"][-1] |= Flag.LAST
        for record, level in zip(records, levels):
            record["side"], record["price"], record["size"] = level
        checks, books = as_bytes(self.checks), as_bytes(self.books)
        wrong = check_records(checks, books, as_bytes(records), len(records))
        assert wrong == (self.checks["valid"][0, 0] == 0)
        return Reason(int(self.checks["verdict"][0, 0]))

    def fall(self, bids: int) -> Reason:
        """So many of the best bids are removed."""
        return self.take([(Side.BUY, 9999 - k, 0) for k in range(bids)])


def test_a_book_below_the_reach_of_a_cut_snapshot_is_invalid() -> None:
    """The venue may have a better bid than the best we know of: behind the thousand, and unchanged since."""
    book = Cut(1000, 1000)
    assert book.take([(Side.BUY, 8000, 2)]) == Reason.NONE, "levels beyond the reach are taken"
    assert book.fall(999) == Reason.NONE, "the last level of the snapshot is the touch"
    assert book.fall(1000) == Reason.BEYOND_SNAPSHOT


@pytest.mark.parametrize("levels", [10, 20, 50, 100, 500, 1000, 1001, 5000])
def test_either_side_that_was_cut_has_a_reach(levels: int) -> None:
    lower, upper = Cut(levels, 7), Cut(7, levels)
    asks = [(Side.SELL, 10001 + k, 0) for k in range(levels)]
    assert lower.take(asks[:7]) == Reason.NONE, "the side that was told whole"
    assert upper.fall(7) == Reason.NONE
    assert lower.fall(levels) == Reason.BEYOND_SNAPSHOT, "nothing is left of what was told"
    assert upper.take([*asks, (Side.SELL, 20000, 1)]) == Reason.BEYOND_SNAPSHOT, "only what was told since"


@pytest.mark.parametrize("levels", [1, 4, 6, 99, 101, 999])
def test_a_snapshot_that_no_limit_has_cut_tells_of_all(levels: int) -> None:
    book = Cut(levels, levels)
    assert book.fall(levels) == Reason.NONE
    assert book.take([(Side.BUY, 1000, 1)]) == Reason.NONE


def test_books_that_come_over_the_socket_have_no_reach() -> None:
    book = Cut(1000, 1000, Dialect.KRAKEN_FUTURES)
    assert book.fall(1000) == Reason.NONE


def test_the_next_snapshot_has_a_reach_of_its_own() -> None:
    book = Cut(10, 10)
    assert book.fall(10) == Reason.BEYOND_SNAPSHOT
    shorter = [(Side.BUY, 9000 - k, 1) for k in range(3)] + [(Side.SELL, 9001, 1)]
    assert book.take(shorter, Flag.SNAPSHOT) == Reason.NONE
    assert book.take([(Side.BUY, 9000 - k, 0) for k in range(3)]) == Reason.NONE


LEVEL = st.tuples(st.booleans(), st.integers(1, 120), st.integers(0, 10**12))


@settings(max_examples=60)
@given(
    depth=st.sampled_from([1, 10, 25]),
    groups=st.lists(st.tuples(st.booleans(), st.lists(LEVEL, min_size=1, max_size=30)), max_size=30),
)
def test_any_updates_leave_the_book_of_text(
    depth: int, groups: list[tuple[bool, list[tuple[bool, int, int]]]]
) -> None:
    """Bids 1000 down, asks 1001 up, snapshots in between: levels and checksums are those of the text, cut likewise."""
    book = Checked(depth)
    for snapshot, levels in [(True, [(True, 1, 10)]), *groups]:
        placed = [(is_bid, 1000 - away if is_bid else 1001 + away, size) for is_bid, away, size in levels]
        assert book.group(placed, snapshot) == 0
        assert book.levels() == book.text.levels(book.item)
        assert book.state("valid") == 1


def test_the_comparison_with_the_text_can_fail() -> None:
    book = Checked(1)
    book.group([(True, 990, 1), (True, 980, 1)], snapshot=True)
    book.text.apply(True, "98.00000", "1.00000000")
    assert book.levels() != book.text.levels(book.item)
    scratch = np.zeros(10, np.int64)
    ours = kraken_checksum(book.books, 0, 1, 8, PRICE_DECIMALS, SIZE_DECIMALS, scratch, scratch.copy())
    assert ours != book.text.checksum()
