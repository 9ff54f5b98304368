"""The sequence rule, the waiting pool, the CLOCK rule: small sessions by hand, random ones against the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.kernel import CLOCK_GRID_NS
from engine.ingest.state import MAX_LEVELS_PER_FRAME, PENDING_FRAMES, PENDING_LEVELS
from engine.instruments import Instrument
from engine.reasons import Reason
from engine.records import Flag, Kind
from tests.ingest_oracle import Oracle, Session, btcusdt, short_units

T0 = 1_700_000_000_000_000_000
ITEMS = (btcusdt(0, "BTCUSDT"), btcusdt(3, "ETHUSDT"))


def diff(
    previous: int, first: int, last: int, symbol: str = "BTCUSDT", levels: int = 1, time_ms: int = 4
) -> bytes:
    """A diff (pu, U, u) whose first price tells its u."""
    bids = [[f"{last % 10_000}.00", "1.000"]] * levels
    ids = {"U": first, "u": last, "pu": previous}
    return orjson.dumps({"e": "depthUpdate", "E": 5, "T": time_ms, "s": symbol, **ids, "b": bids, "a": []})


def snapshot(update_id: int) -> bytes:
    return orjson.dumps({"lastUpdateId": update_id, "T": 3, "bids": [["1.00", "1.000"]], "asks": [["2.00", "1.000"]]})


def trade(trade_id: int, symbol: str = "BTCUSDT", time_ms: int = 4) -> bytes:
    return orjson.dumps({"e": "trade", "T": time_ms, "s": symbol, "t": trade_id, "p": "1.00", "q": "1.000", "m": True})


class Pair:
    """The kernels and the oracle, fed alike and compared after every call."""

    def __init__(self, items: Sequence[Instrument] = ITEMS) -> None:
        self.session, self.oracle = Session(items), Oracle(items, short_units)
        self.ingest_id = 0
        self.recv = T0
        self.compared = 0

    def _compare(self, n: int) -> list[tuple[Kind, int]]:
        """Assert equality; return (kind, sequence) of the records just written, the CLOCK left out."""
        expected = np.array(self.oracle.out[self.compared :], self.session.outbox.dtype)
        assert n == len(expected)
        np.testing.assert_array_equal(self.session.outbox[:n], expected)
        self.compared += n
        assert self.session.counters() == self.oracle.counters()
        assert self.session.reasons("dropped") == self.oracle.dropped
        assert self.session.balances()
        for index, book in self.oracle.books.items():
            assert self.session.row["snapshot_wanted"][index] == (not book.in_sequence)
        return [(Kind(row["kind"]), int(row["sequence"])) for row in expected if row["kind"] != Kind.CLOCK]

    def frame(self, frame: bytes, step_ns: int = 0) -> list[tuple[Kind, int]]:
        self.ingest_id, self.recv = self.ingest_id + 1, self.recv + step_ns
        self.oracle.frame(frame, self.recv, self.ingest_id)
        return self._compare(self.session.frame(frame, self.recv, self.ingest_id))

    def snapshot(self, body: bytes, instrument: int = 0, step_ns: int = 0) -> list[tuple[Kind, int]]:
        self.ingest_id, self.recv = self.ingest_id + 1, self.recv + step_ns
        self.oracle.snapshot(instrument, body, self.recv, self.ingest_id)
        return self._compare(self.session.snapshot(instrument, body, self.recv, self.ingest_id))

    def lost(self, instrument: int, first_lost: int = 0, step_ns: int = 0) -> list[tuple[Kind, int]]:
        self.recv += step_ns
        self.oracle.lost(instrument, first_lost, self.recv)
        return self._compare(self.session.lost(instrument, first_lost, self.recv))

    def timer(self, step_ns: int) -> list[tuple[Kind, int]]:
        self.recv += step_ns
        self.oracle.tick(self.recv)
        return self._compare(self.session.timer(self.recv))

    def dropped(self) -> dict[Reason, int]:
        return self.session.reasons("dropped")


def test_diffs_wait_for_the_snapshot_and_follow_it() -> None:
    pair = Pair()
    for frame in (diff(90, 91, 100), diff(100, 103, 110), diff(110, 111, 120)):
        assert pair.frame(frame) == []
    assert pair.session.row["pending_frames"] == 3
    assert pair.snapshot(snapshot(105)) == [(Kind.LEVEL, 105)] * 2 + [(Kind.LEVEL, 110), (Kind.LEVEL, 120)]
    assert pair.dropped() == {Reason.STALE_DIFF: 1}
    records = pair.session.records()
    assert set(records["ingest_id"].tolist()) == {4}, "released diffs carry the id of the snapshot"
    assert records["flags"].tolist() == [
        Flag.SNAPSHOT | Flag.FIRST, Flag.SNAPSHOT | Flag.LAST, Flag.FIRST | Flag.LAST, Flag.FIRST | Flag.LAST,
    ]  # fmt: skip
    assert pair.frame(diff(120, 125, 130)) == [(Kind.LEVEL, 130)]


@pytest.mark.parametrize(
    ("previous", "first", "last", "reason"),
    [
        (90, 91, 104, Reason.STALE_DIFF),
        (90, 91, 105, Reason.NONE),  # ends where the snapshot ends: the venue's rule says u < lastUpdateId is stale
        (104, 105, 110, Reason.NONE),
        (105, 108, 110, Reason.NONE),  # begins after the snapshot, follows on what it holds
        (106, 106, 110, Reason.SEQUENCE_GAP),
        (107, 108, 110, Reason.SEQUENCE_GAP),
    ],
)
def test_the_first_diff_after_a_snapshot(previous: int, first: int, last: int, reason: Reason) -> None:
    pair = Pair()
    pair.snapshot(snapshot(105))
    got = pair.frame(diff(previous, first, last))
    if reason == Reason.NONE:
        assert got == [(Kind.LEVEL, last)]
    elif reason == Reason.SEQUENCE_GAP:
        assert got == [(Kind.GAP, 0)] and pair.session.row["pending_frames"] == 1
    else:
        assert got == [] and pair.dropped() == {reason: 1}


def test_a_gap_is_told_once_and_heals_with_a_newer_snapshot() -> None:
    pair = Pair()
    pair.snapshot(snapshot(105))
    pair.frame(diff(100, 101, 110))
    assert pair.frame(diff(120, 121, 130)) == [(Kind.GAP, 0)]
    gap = pair.session.outbox[0]
    assert (gap["reason"], gap["aux"], gap["flags"]) == (Reason.SEQUENCE_GAP, 0, Flag.FIRST | Flag.LAST)
    assert pair.frame(diff(130, 131, 140)) == []
    assert pair.frame(trade(1)) == [(Kind.TRADE, 1)], "trades never wait"
    assert pair.snapshot(snapshot(118)) == []
    assert pair.dropped() == {Reason.SNAPSHOT_TOO_OLD: 1}
    assert pair.snapshot(snapshot(125)) == [(Kind.LEVEL, 125)] * 2 + [(Kind.LEVEL, 130), (Kind.LEVEL, 140)]
    row = pair.session.row
    assert (row["gaps"], row["resyncs"], row["pending_frames"]) == (1, 1, 0)


def test_a_gap_among_waiting_diffs_ends_the_release() -> None:
    pair = Pair()
    for frame in (diff(100, 101, 110), diff(110, 111, 120), diff(125, 126, 130), diff(130, 131, 140)):
        pair.frame(frame)
    got = pair.snapshot(snapshot(105))
    assert got == [(Kind.LEVEL, 105)] * 2 + [(Kind.LEVEL, 110), (Kind.LEVEL, 120), (Kind.GAP, 0)]
    assert pair.session.row["pending_frames"] == 2
    assert pair.snapshot(snapshot(135)) == [(Kind.LEVEL, 135)] * 2 + [(Kind.LEVEL, 140)]


def test_duplicates_are_dropped() -> None:
    pair = Pair()
    pair.snapshot(snapshot(105))
    for frame in (diff(100, 101, 110), diff(110, 111, 120), trade(7), trade(9)):
        assert len(pair.frame(frame)) == 1
    for frame in (diff(100, 101, 110), diff(110, 111, 120), trade(7), trade(8), trade(9)):
        assert pair.frame(frame) == []
    assert pair.dropped() == {Reason.DUPLICATE: 5}
    assert (pair.session.row["trades"], pair.session.row["level_updates"]) == (5, 4), "decoded, applied or not"
    assert pair.frame(trade(0, "ETHUSDT")) == [(Kind.TRADE, 0)], "ids are an instrument's own"


def test_ids_that_stand_still_while_the_venue_s_time_goes_on_are_a_gap() -> None:
    """One u that was read far too large made every later diff a duplicate, and the book stood still and was valid."""
    pair = Pair()
    pair.snapshot(snapshot(105))
    assert pair.frame(diff(100, 101, 900_110, time_ms=50)) == [(Kind.LEVEL, 900_110)]
    assert pair.frame(diff(110, 111, 120, time_ms=1_050)) == [] and pair.dropped() == {Reason.DUPLICATE: 1}
    assert pair.frame(diff(120, 121, 130, time_ms=1_051)) == [(Kind.GAP, 0)]
    assert pair.snapshot(snapshot(125)) == [(Kind.LEVEL, 125)] * 2 + [(Kind.LEVEL, 130)], "ids may start anew"
    assert pair.frame(diff(130, 131, 140, time_ms=1_100)) == [(Kind.LEVEL, 140)]


def test_a_trade_id_that_was_read_wrongly_silences_the_tape_for_a_second_only() -> None:
    pair = Pair()
    assert pair.frame(trade(1_000, time_ms=50)) == [(Kind.TRADE, 1_000)]
    assert pair.frame(trade(91_001, time_ms=60)) == [(Kind.TRADE, 91_001)]
    assert pair.frame(trade(1_002, time_ms=1_060)) == [] and pair.dropped() == {Reason.DUPLICATE: 1}
    assert pair.frame(trade(1_003, time_ms=1_061)) == [(Kind.TRADE, 1_003)]
    assert pair.frame(trade(1_004, time_ms=1_062)) == [(Kind.TRADE, 1_004)], "the ids go on from there"
    assert pair.frame(trade(1_003, time_ms=1_061)) == [], "told before"


def test_a_snapshot_with_an_id_far_ahead_does_not_stand_for_ever() -> None:
    pair = Pair()
    pair.snapshot(snapshot(900_105))
    assert pair.frame(diff(100, 101, 110, time_ms=1_003)) == [] and pair.dropped() == {Reason.STALE_DIFF: 1}
    assert pair.frame(diff(110, 111, 120, time_ms=1_004)) == [(Kind.GAP, 0)]
    assert pair.snapshot(snapshot(115)) == [(Kind.LEVEL, 115)] * 2 + [(Kind.LEVEL, 120)]


def test_a_snapshot_of_a_book_in_sequence() -> None:
    pair = Pair()
    pair.snapshot(snapshot(105))
    pair.frame(diff(100, 101, 110))
    assert pair.snapshot(snapshot(109)) == [], "older than the book"
    assert pair.dropped() == {Reason.SNAPSHOT_TOO_OLD: 1}
    assert pair.frame(diff(110, 111, 120)) == [(Kind.LEVEL, 120)]
    assert pair.snapshot(snapshot(124)) == [(Kind.LEVEL, 124)] * 2
    assert pair.frame(diff(120, 121, 130)) == [(Kind.LEVEL, 130)]
    assert pair.session.row["resyncs"] == 1


def test_lost_data_give_a_gap_for_each_book_in_sequence() -> None:
    pair = Pair()
    pair.snapshot(snapshot(105), 3)
    assert pair.lost(-1, 77) == [(Kind.GAP, 0)]
    gap = pair.session.outbox[0]
    assert (gap["instrument"], gap["aux"], gap["ingest_id"]) == (3, 77, 77)
    assert pair.lost(-1) == [], "waiting already"
    assert pair.snapshot(snapshot(50), 3) == [(Kind.LEVEL, 50)] * 2, "a new connection may count anew"
    pair.snapshot(snapshot(50), 0)
    assert pair.lost(0) == [(Kind.GAP, 0)]
    assert pair.snapshot(snapshot(49), 0) == [], "the same connection may not"
    assert pair.snapshot(snapshot(50), 0) == [(Kind.LEVEL, 50)] * 2


def test_what_waited_on_a_lost_connection_waits_no_more() -> None:
    pair = Pair()
    for frame in (diff(900, 901, 910), diff(910, 911, 920), diff(30, 31, 40, "ETHUSDT")):
        pair.frame(frame)
    assert pair.lost(0) == [] and pair.session.row["pending_frames"] == 3
    assert pair.lost(-1) == [] and pair.dropped() == {Reason.SEQUENCE_GAP: 3}
    pair.frame(diff(4, 5, 8))
    assert pair.snapshot(snapshot(6)) == [(Kind.LEVEL, 6)] * 2 + [(Kind.LEVEL, 8)], "ids that began anew"


def test_a_reconnect_does_not_double_trades() -> None:
    pair = Pair()
    pair.frame(trade(5))
    pair.lost(-1)
    assert pair.frame(trade(5)) == []
    assert pair.frame(trade(6)) == [(Kind.TRADE, 6)]


def test_a_pool_without_room_for_levels_starts_anew() -> None:
    pair = Pair()
    levels = MAX_LEVELS_PER_FRAME
    for number in range(PENDING_LEVELS // levels):
        pair.frame(diff(number * 10, number * 10 + 1, number * 10 + 10, levels=levels))
    assert pair.session.row["pending_levels"] == PENDING_LEVELS
    pair.frame(diff(40, 41, 50, levels=levels))
    assert pair.dropped() == {Reason.PENDING_OVERFLOW: 4}
    assert pair.session.row["pending_frames"] == 1
    assert pair.snapshot(snapshot(15)) == [], "what was dropped makes this snapshot too old"
    assert len(pair.snapshot(snapshot(45))) == 2 + levels


def test_one_book_cannot_drop_what_another_waits_with() -> None:
    pair = Pair()
    levels = MAX_LEVELS_PER_FRAME
    for number in range(PENDING_LEVELS // levels):
        pair.frame(diff(number * 10, number * 10 + 1, number * 10 + 10, levels=levels))
    for number in range(3):
        pair.frame(diff(number * 10, number * 10 + 1, number * 10 + 10, "ETHUSDT"))
    assert pair.dropped() == {Reason.PENDING_OVERFLOW: 3}
    assert pair.session.row["pending_frames"] == 4
    assert len(pair.snapshot(snapshot(5))) == 2 + PENDING_LEVELS, "the largest answer of all"
    pair.frame(diff(40, 41, 50, "ETHUSDT"))
    assert pair.snapshot(snapshot(45), 3) == [(Kind.LEVEL, 45)] * 2 + [(Kind.LEVEL, 50)]


def test_a_pool_without_room_for_frames_starts_anew() -> None:
    session = Session(ITEMS)
    for number in range(PENDING_FRAMES + 5):
        session.frame(diff(number, number + 1, number + 1), T0, number + 1)
    assert session.reasons("dropped") == {Reason.PENDING_OVERFLOW: PENDING_FRAMES}
    assert session.row["pending_frames"] == 5 and session.balances()
    assert session.snapshot(0, snapshot(PENDING_FRAMES + 1), T0, 9_999) == 2 + 5


@settings(max_examples=250)
@given(data=st.data())
def test_random_sessions_equal_the_oracle(data: st.DataObject) -> None:
    """Two books over a line that loses, repeats and delays, with snapshots of any age."""
    pair = Pair()
    last = {"BTCUSDT": 10, "ETHUSDT": 10}
    sent: list[bytes] = []
    trades = 0
    if data.draw(st.booleans()):
        pair.oracle.start(pair.recv)
        assert pair._compare(pair.session.start(pair.recv)) == [(Kind.INSTRUMENT, 7)] * 2
    for _ in range(data.draw(st.integers(1, 40))):
        symbol = data.draw(st.sampled_from(["BTCUSDT", "ETHUSDT"]))
        instrument = 0 if symbol == "BTCUSDT" else 3
        step = data.draw(st.sampled_from([0, 1, 3_000_000, 10_000_000, 25_000_000, -7_000_000, -40_000_000]))
        action = data.draw(st.sampled_from("ddddddrrssstlxT"))
        if action in "dx":  # a diff that the venue makes: delivered, or lost
            previous = last[symbol]
            first = previous + data.draw(st.integers(1, 3))
            last[symbol] = first + data.draw(st.integers(0, 3))
            time_ms = data.draw(st.sampled_from((4, 4, 1_003, 1_004, 1_005, 2_100)))
            frame = diff(previous, first, last[symbol], symbol, data.draw(st.integers(0, 3)), time_ms)
            if action == "d":
                sent.append(frame)
                pair.frame(frame, step)
        elif action == "r" and sent:  # one of the last few again
            pair.frame(sent[-data.draw(st.integers(1, min(4, len(sent))))], step)
        elif action == "s":
            age = data.draw(st.integers(-2, 12))
            pair.snapshot(snapshot(max(1, last[symbol] - age)), instrument, step)
        elif action == "t":
            trades += data.draw(st.integers(-1, 2))
            pair.frame(trade(max(trades, 0), symbol), step)
        elif action == "l":
            pair.lost(data.draw(st.sampled_from([-1, 0, 3])), data.draw(st.sampled_from([0, pair.ingest_id])), step)
        elif action == "T":
            pair.timer(step)


@settings(max_examples=200)
@given(
    start=st.integers(1, 3 * CLOCK_GRID_NS),
    steps=st.lists(
        st.one_of(st.integers(-3 * CLOCK_GRID_NS, 8 * CLOCK_GRID_NS), st.sampled_from([0, 1, CLOCK_GRID_NS])),
        max_size=25,
    ),
    use_timer=st.lists(st.booleans(), min_size=25, max_size=25),
)
def test_clock_records_stand_at_the_last_grid_point_passed(start: int, steps: list[int], use_timer: list[bool]) -> None:
    session = Session(ITEMS)
    session.start(start)
    now, recv = start, start
    for number, step in enumerate(steps, 1):
        recv = max(1, recv + step)
        n = session.timer(recv) if use_timer[number - 1] else session.frame(trade(number), recv, number)
        points = [point for point in range(0, recv + 1, CLOCK_GRID_NS) if now < point <= recv]
        kinds = session.outbox["kind"][:n].tolist()
        assert kinds == [Kind.CLOCK] * bool(points) + [Kind.TRADE] * (not use_timer[number - 1])
        if points:
            clock = session.outbox[0]
            assert (clock["recv_ts_ns"], clock["flags"]) == (points[-1], Flag.FIRST | Flag.LAST)
        now = max(now, recv)
        assert session.row["now_ns"] == now


def test_the_first_time_seen_starts_the_clock() -> None:
    session = Session(ITEMS)
    assert session.timer(T0) == 0
    assert session.timer(T0 + CLOCK_GRID_NS - 1) == 0
    assert session.timer(T0 + CLOCK_GRID_NS) == 1
    assert session.timer(T0 + CLOCK_GRID_NS) == 0


def test_records_carry_ids_that_never_fall() -> None:
    session = Session(ITEMS)
    for number, ingest_id in enumerate((1, 5, 3, 6)):
        session.frame(trade(number), T0 + CLOCK_GRID_NS * ingest_id, ingest_id)
    session.timer(T0 + CLOCK_GRID_NS * 50)
    ids = session.records()["ingest_id"].tolist()
    assert ids == sorted(ids) and ids[-1] == 6


def test_the_comparison_can_fail() -> None:
    """A dropped diff on one side only must be seen."""
    pair = Pair()
    pair.snapshot(snapshot(105))
    pair.oracle.frame(diff(100, 101, 110), T0, 2)
    with pytest.raises(AssertionError):
        pair._compare(pair.session.frame(diff(100, 101, 109), T0, 2))
