"""The sequence rules of spot and of futures: against the venue's own words, the oracle, and a venue that knows.

The last is the strongest: a small venue keeps the book of every update id, a line in between loses, repeats, delays
and reorders, snapshots come late and early; whenever ingestion holds a book to be in sequence, it is the venue's.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.sequence import verdict
from engine.ingest.state import BINANCE_DIALECTS
from engine.instruments import Dialect
from engine.reasons import Reason
from engine.records import Flag, Kind
from tests.ingest_oracle import Session, btcusdt
from tests.test_ingest_sequence import T0, Pair, snapshot, trade

SPOT, USDM, COINM = Dialect.BINANCE_SPOT, Dialect.BINANCE_USDM, Dialect.BINANCE_COINM
ITEMS = (btcusdt(0, "BTCUSDT", dialect=SPOT), btcusdt(3, "ETHUSDT", dialect=SPOT))


def diff(first: int, last: int, symbol: str = "BTCUSDT", levels: int = 1) -> bytes:
    """A spot diff (U, u) whose first price tells its u."""
    bids = [[f"{last % 10_000}.00", "1.000"]] * levels
    return orjson.dumps({"e": "depthUpdate", "E": 5, "s": symbol, "U": first, "u": last, "b": bids, "a": []})


def aggregate(first: int, last: int) -> bytes:
    event = {"e": "aggTrade", "E": 5, "T": 4, "s": "BTCUSDT", "a": 1, "f": first, "l": last, "p": "1.00", "q": "1.000"}
    return orjson.dumps(event | {"m": True})


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        (90, 104, Reason.STALE_DIFF),
        (90, 105, Reason.STALE_DIFF),  # ends where the snapshot ends: spot drops u <= lastUpdateId
        (90, 106, Reason.NONE),
        (106, 110, Reason.NONE),  # U = lastUpdateId + 1
        (107, 110, Reason.SEQUENCE_GAP),
    ],
)
def test_the_first_diff_after_a_spot_snapshot(first: int, last: int, reason: Reason) -> None:
    pair = Pair(ITEMS)
    pair.snapshot(snapshot(105))
    got = pair.frame(diff(first, last))
    if reason == Reason.NONE:
        assert got == [(Kind.LEVEL, last)]
    elif reason == Reason.SEQUENCE_GAP:
        assert got == [(Kind.GAP, 0)] and pair.session.row["pending_frames"] == 1
    else:
        assert got == [] and pair.dropped() == {reason: 1}


def test_spot_diffs_follow_one_another_without_a_hole() -> None:
    pair = Pair(ITEMS)
    pair.snapshot(snapshot(105))
    assert pair.frame(diff(100, 110)) == [(Kind.LEVEL, 110)]
    assert pair.frame(diff(111, 111)) == [(Kind.LEVEL, 111)]
    assert pair.frame(diff(111, 111)) == [] and pair.dropped() == {Reason.DUPLICATE: 1}
    assert pair.frame(diff(113, 114)) == [(Kind.GAP, 0)]
    assert pair.snapshot(snapshot(111)) == [], "U of what waits is 113: fetch again"
    assert pair.dropped() == {Reason.DUPLICATE: 1, Reason.SNAPSHOT_TOO_OLD: 1}
    assert pair.snapshot(snapshot(112)) == [(Kind.LEVEL, 112)] * 2 + [(Kind.LEVEL, 114)]


def test_a_diff_that_overlaps_what_was_applied_is_a_gap() -> None:
    pair = Pair(ITEMS)
    pair.snapshot(snapshot(105))
    pair.frame(diff(100, 110))
    assert pair.frame(diff(109, 112)) == [(Kind.GAP, 0)]


def test_trades_and_their_aggregates_are_never_counted_twice() -> None:
    pair = Pair(ITEMS)
    assert pair.frame(aggregate(5, 8)) == [(Kind.TRADE, 8)]
    assert pair.session.outbox[0]["aux"] == 8
    for number in (5, 6, 7, 8):
        assert pair.frame(trade(number)) == []
    assert pair.frame(trade(9)) == [(Kind.TRADE, 9)]
    assert pair.frame(aggregate(9, 11)) == [], "9 was counted: 10 and 11 come as trades"
    assert pair.frame(trade(10)) == [(Kind.TRADE, 10)]
    assert pair.dropped() == {Reason.DUPLICATE: 5}


def venue_rule(dialect: Dialect, bridged: bool, book: int, first: int, last: int, previous: int) -> str:
    """What the venue's documentation says to do with a diff: drop, apply or refetch."""
    if dialect == SPOT:
        if last <= book:
            return "drop"
        return "apply" if (first == book + 1 if bridged else first <= book + 1 <= last) else "refetch"
    if not bridged:
        return "drop" if last < book else "apply" if first <= book <= last else "refetch"
    return "drop" if last <= book else "apply" if previous == book else "refetch"


@settings(max_examples=3_000)
@given(
    dialect=st.sampled_from(BINANCE_DIALECTS), bridged=st.booleans(), book=st.integers(20, 60),
    previous=st.integers(10, 70), skip=st.integers(1, 6), length=st.integers(0, 12),
)  # fmt: skip
def test_a_verdict_is_the_venue_s_own(
    dialect: Dialect, bridged: bool, book: int, previous: int, skip: int, length: int
) -> None:
    first = previous + (1 if dialect == SPOT else skip)
    last = first + length
    judged = Reason(verdict(dialect, int(bridged), book, first, last, previous))
    found = {
        Reason.NONE: "apply", Reason.STALE_DIFF: "drop", Reason.DUPLICATE: "drop", Reason.SEQUENCE_GAP: "refetch",
    }[judged]  # fmt: skip
    expected = venue_rule(dialect, bridged, book, first, last, previous)
    if found != expected:
        # The one liberty: a first futures diff that begins after the snapshot, with nothing of this book in between.
        assert dialect != SPOT and not bridged and previous <= book < first
        assert (expected, found) == ("refetch", "apply")
    assert (judged == Reason.STALE_DIFF) <= (not bridged) and (judged == Reason.DUPLICATE) <= bridged


@settings(max_examples=250)
@given(data=st.data())
def test_random_spot_sessions_equal_the_oracle(data: st.DataObject) -> None:
    """Two books over a line that loses, repeats and delays, with snapshots of any age."""
    pair = Pair(ITEMS)
    last = {"BTCUSDT": 10, "ETHUSDT": 10}
    sent: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 40))):
        symbol = data.draw(st.sampled_from(["BTCUSDT", "ETHUSDT"]))
        instrument = 0 if symbol == "BTCUSDT" else 3
        step = data.draw(st.sampled_from([0, 1, 3_000_000, 25_000_000, -40_000_000]))
        action = data.draw(st.sampled_from("ddddddrrsssxlaT"))
        if action in "dx":  # a diff that the venue makes: delivered, or lost
            first = last[symbol] + 1
            last[symbol] = first + data.draw(st.integers(0, 3))
            frame = diff(first, last[symbol], symbol, data.draw(st.integers(0, 3)))
            if action == "d":
                sent.append(frame)
                pair.frame(frame, step)
        elif action == "r" and sent:
            pair.frame(sent[-data.draw(st.integers(1, min(4, len(sent))))], step)
        elif action == "s":
            pair.snapshot(snapshot(max(1, last[symbol] - data.draw(st.integers(-2, 12)))), instrument, step)
        elif action == "l":
            pair.lost(data.draw(st.sampled_from([-1, 0, 3])), 0, step)
        elif action == "a":
            first = data.draw(st.integers(0, 30))
            pair.frame(aggregate(first, first + data.draw(st.integers(0, 4))), step)
        elif action == "T":
            pair.timer(step)


class Venue:
    """A book with a memory: what it was at every update id, and the diffs that tell its changes."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.last = 100  # update id of the newest change
        self.told = 100  # u of the newest diff
        self.book: dict[tuple[str, int], int] = {("b", 10): 1, ("a", 90): 1}
        self.changed: dict[tuple[str, int], int] = {}
        self.first = 0
        self.at: dict[int, dict[tuple[str, int], int]] = {100: dict(self.book)}

    def change(self, side: str, price: int, size: int, skip: int) -> None:
        """One level changes; on futures other books have taken `skip` ids since."""
        before = self.last
        self.last += 1 if self.dialect == SPOT else 1 + skip
        for update_id in range(before + 1, self.last):
            self.at[update_id] = self.at[before]
        self.first = self.first or self.last
        self.book[side, price] = self.changed[side, price] = size
        if not size:
            del self.book[side, price]
        self.at[self.last] = dict(self.book)

    def diff(self) -> bytes:
        """The diff of all changes since the last one."""
        levels: dict[str, list[list[str]]] = {"b": [], "a": []}
        for (side, price), size in self.changed.items():
            levels[side].append([f"{price}.00", f"{size}.000"])
        event: dict[str, Any] = {"e": "depthUpdate", "E": 1, "s": "BTCUSDT", "U": self.first, "u": self.last}
        if self.dialect != SPOT:
            event |= {"T": 1, "pu": self.told} | ({"ps": "BTCUSD"} if self.dialect == COINM else {})
        self.told, self.first, self.changed = self.last, 0, {}
        return orjson.dumps(event | levels)

    def snapshot(self, update_id: int) -> bytes:
        held = sorted(self.at[update_id].items())
        sides = {side: [[f"{price}.00", f"{size}.000"] for (s, price), size in held if s == side] for side in "ba"}
        return orjson.dumps({"lastUpdateId": update_id, "bids": sides["b"], "asks": sides["a"]})


class Reader:
    """Ingestion, and a plain book made of the records that it writes."""

    def __init__(self, dialect: Dialect) -> None:
        self.session = Session([btcusdt(dialect=dialect)])
        self.book: dict[tuple[str, int], int] = {}
        self.calls = 0

    def _take(self, count: int) -> None:
        assert count >= 0
        for row in self.session.outbox[:count]:
            if row["kind"] == Kind.LEVEL:
                if row["flags"] & Flag.SNAPSHOT and row["flags"] & Flag.FIRST:
                    self.book.clear()
                key = ("b" if row["side"] > 0 else "a", int(row["price"]) // 100)
                self.book[key] = int(row["size"]) // 1000
                if not self.book[key]:
                    del self.book[key]

    def frame(self, frame: bytes) -> None:
        self.calls += 1
        self._take(self.session.frame(frame, T0, self.calls))

    def snapshot(self, body: bytes) -> None:
        self.calls += 1
        self._take(self.session.snapshot(0, body, T0, self.calls))

    @property
    def in_sequence(self) -> bool:
        return not self.session.row["snapshot_wanted"][0]


@pytest.mark.parametrize("dialect", BINANCE_DIALECTS)
@settings(max_examples=300)
@given(data=st.data())
def test_a_book_in_sequence_is_the_venue_s_whatever_the_line_does(dialect: Dialect, data: st.DataObject) -> None:
    venue, reader = Venue(dialect), Reader(dialect)
    line: list[bytes] = []  # diffs on their way
    gone: list[bytes] = []  # delivered: any may come again
    late: list[bytes] = []  # snapshots on their way
    seen_right = False

    def check() -> None:
        nonlocal seen_right
        if reader.in_sequence:
            assert reader.book == venue.at[int(reader.session.row["last_update_id"][0])]
            seen_right = True
        assert reader.session.balances()

    for _ in range(data.draw(st.integers(5, 50))):
        action = data.draw(st.sampled_from("ccccddddooorxsSl"))
        if action == "c":
            side = data.draw(st.sampled_from("ba"))
            price = data.draw(st.integers(1, 6)) + (50 if side == "a" else 0)
            size = data.draw(st.integers(0, 3))
            if (side, price) in venue.book or size:
                venue.change(side, price, size, data.draw(st.integers(0, 4)))
        elif action == "d" and venue.changed:
            line.append(venue.diff())
        elif action in "or" and line:  # in order, or another one first
            frame = line.pop(0 if action == "o" else data.draw(st.integers(0, len(line) - 1)))
            gone.append(frame)
            reader.frame(frame)
        elif action == "x" and line:
            line.pop(0)
        elif action == "l" and gone:
            reader.frame(data.draw(st.sampled_from(gone[-4:])))
        elif action == "s":
            late.append(venue.snapshot(data.draw(st.integers(max(100, venue.last - 8), venue.last))))
        elif action == "S" and late:
            reader.snapshot(late.pop(data.draw(st.integers(0, len(late) - 1))))
        check()

    # A good line at last: whatever has happened, one fresh snapshot and the next diffs make it right, and keep it so.
    for price in (1, 2, 3):
        venue.change("b", price, 5, 1)
        frame = venue.diff()
        if price == 1:
            reader.snapshot(venue.snapshot(venue.last))
            check()
        reader.frame(frame)
        check()
        assert reader.in_sequence
    assert seen_right and reader.book == venue.book
