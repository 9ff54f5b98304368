"""Ingestion on recorded Binance USD-M sessions: every record, count and drop equals the oracle's."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter

import numpy as np
import orjson
import pytest

from engine.ingest.kernel import is_snapshot_body
from engine.reasons import Reason
from engine.records import Flag, Kind
from tests.ingest_oracle import FIELDS, Oracle, Session, btcusdt, exact_units, short_units
from tests.recordings import USDM_CAPTURES, open_capture, recordings_root, require_capture, rest_bodies

pytestmark = pytest.mark.recordings
SMALL = USDM_CAPTURES[0]
SIDES = ("SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT")


def symbol_of(relative: str) -> str:
    return relative.rsplit("/", 1)[1].split("_", maxsplit=1)[0].upper()


def replay(session: Session | Oracle, frames: list[tuple[int, bytes]]) -> None:
    """Feed a capture of one instrument, its inline snapshot included."""
    session.start(frames[0][0])
    for ingest_id, (recv_ts_ns, frame) in enumerate(frames, 1):
        if is_snapshot_body(frame):
            session.snapshot(0, frame, recv_ts_ns, ingest_id)
        else:
            session.frame(frame, recv_ts_ns, ingest_id)


def count_plainly(frames: list[tuple[int, bytes]]) -> Counter[str]:
    """Frames by kind and levels, by looking at the JSON only."""
    counted: Counter[str] = Counter()
    for _, frame in frames:
        data = orjson.loads(frame)
        data = data.get("data", data)
        counted[data.get("e", "snapshot")] += 1
        if data.get("e") == "depthUpdate":
            counted["levels"] += len(data["b"]) + len(data["a"])
        elif "lastUpdateId" in data:
            counted["snapshot_levels"] += len(data["bids"]) + len(data["asks"])
    return counted


@pytest.mark.parametrize("relative", USDM_CAPTURES)
def test_every_record_and_count_of_a_capture_equals_the_oracle(relative: str) -> None:
    frames = list(open_capture(require_capture(relative)))
    instruments = [btcusdt(symbol=symbol_of(relative))]
    session = Session(instruments)
    # Decimal for all values of the small file, exact integer text for the others
    oracle = Oracle(instruments, exact_units if relative == SMALL else short_units)
    gc.disable()
    try:
        replay(session, frames)
        replay(oracle, frames)
        counted = count_plainly(frames)
        written, expected = session.records(), oracle.records()
    finally:
        gc.enable()

    row = session.row
    assert row["frames"] == len(frames)
    assert row["level_updates"] == counted["levels"]
    assert row["snapshot_levels"] == counted["snapshot_levels"] == 2_000
    assert row["trades"] == counted["trade"]
    assert row["book_tickers"] == counted["bookTicker"]
    assert row["funding"] == row["mark_prices"] == counted["markPriceUpdate"]
    assert row["gaps"] == 0 and row["quarantined"].sum() == 0
    assert session.counters() == oracle.counters()
    assert session.reasons("dropped") == oracle.dropped
    assert session.balances()
    assert len(written) == len(expected) > 80_000
    for name in FIELDS:
        np.testing.assert_array_equal(written[name], expected[name], err_msg=name)


def test_prices_and_sizes_equal_decimal_on_a_sample_of_each_capture() -> None:
    for relative in USDM_CAPTURES:
        frames = [item for item in open_capture(require_capture(relative)) if not is_snapshot_body(item[1])]
        instruments = [btcusdt(symbol=symbol_of(relative))]
        session, oracle = Session(instruments), Oracle(instruments)
        body = b'{"lastUpdateId":1,"bids":[["1.00","1.000"]],"asks":[]}'
        sample = frames[:: len(frames) // 2_000]
        for ingest_id, (recv_ts_ns, frame) in enumerate(sample, 1):
            # a snapshot before each diff, so that each diff is applied whatever was left out before it
            if b"depthUpdate" in frame:
                update_id = orjson.loads(frame)["data"]["U"]
                bridge = body.replace(b'Id":1,', b'Id":%d,' % update_id)
                for side in (session, oracle):
                    side.snapshot(0, bridge, recv_ts_ns, ingest_id)
            for side in (session, oracle):
                side.frame(frame, recv_ts_ns, ingest_id)
        assert session.row["level_updates"] > 1_000
        np.testing.assert_array_equal(session.records(), oracle.records())


def test_a_removed_diff_gives_a_gap_and_nothing_after_it() -> None:
    frames = list(open_capture(require_capture(SMALL)))
    diffs = [place for place, (_, frame) in enumerate(frames) if b"depthUpdate" in frame]
    del frames[diffs[100]]
    instruments = [btcusdt()]
    session, oracle = Session(instruments), Oracle(instruments)
    replay(session, frames)
    replay(oracle, frames)
    assert session.row["gaps"] == 1 == oracle.count["gaps"]
    assert session.row["snapshot_wanted"][0] == 1
    records = session.records()
    np.testing.assert_array_equal(records, oracle.records())
    gap = int(np.flatnonzero(records["kind"] == Kind.GAP)[0])
    assert records["reason"][gap] == Reason.SEQUENCE_GAP
    assert not (records["kind"][gap:] == Kind.LEVEL).any()
    assert session.reasons("dropped") == oracle.dropped
    assert session.row["pending_frames"] > 0 and session.balances()


def test_a_duplicated_capture_is_dropped_frame_by_frame() -> None:
    """Every diff and trade twice, as two connections would give them: the records of tape and book are the same."""
    frames = list(open_capture(require_capture(SMALL)))
    once, twice = Session([btcusdt()]), Session([btcusdt()])
    replay(once, frames)
    doubled = []
    for recv_ts_ns, frame in frames:
        again = b'"trade"' in frame or b"depthUpdate" in frame
        doubled += [(recv_ts_ns, frame)] * (2 if again else 1)
    replay(twice, doubled)
    keep = [Kind.LEVEL, Kind.TRADE]
    one, two = once.records(), twice.records()
    one, two = one[np.isin(one["kind"], keep)].copy(), two[np.isin(two["kind"], keep)].copy()
    one["ingest_id"] = two["ingest_id"] = 0
    np.testing.assert_array_equal(one, two)
    assert twice.reasons("dropped") == {Reason.DUPLICATE: len(doubled) - len(frames)}
    assert twice.row["trades"] == 2 * once.row["trades"]


def test_four_instruments_on_one_connection_equal_the_oracle() -> None:
    """A session of 2021 with real REST snapshots that arrive late, and kline frames that nobody asked for."""
    name = "ws/binance-usdm/cf_20210722_ws_1.txt.gz"
    frames = [(recv, "", frame) for recv, frame in open_capture(require_capture(name))]
    bodies = rest_bodies(recordings_root() / "ws/binance-usdm/cf_20210722_rest_book_0.txt.gz")
    merged = sorted(frames + [item for item in bodies if "/depth?" in item[1]], key=lambda item: item[0])
    instruments = [btcusdt(index, symbol, 5, 0) for index, symbol in zip((0, 3, 4, 15), SIDES, strict=True)]
    session, oracle = Session(instruments), Oracle(instruments)
    strangers = 0
    for ingest_id, (recv_ts_ns, url, frame) in enumerate(merged, 1):
        if url:
            index = next(item.index for item in instruments if f"symbol={item.symbol}&" in url)
            for side in (session, oracle):
                side.snapshot(index, frame, recv_ts_ns, ingest_id)
        elif b"@kline" in frame[:40]:
            strangers += 1
            assert session.frame(frame, recv_ts_ns, ingest_id) == -Reason.UNKNOWN_STREAM
        else:
            for side in (session, oracle):
                side.frame(frame, recv_ts_ns, ingest_id)
    assert session.reasons("quarantined") == {Reason.UNKNOWN_STREAM: strangers} and strangers == 67
    assert session.row["trades"] == 91
    assert session.reasons("dropped") == oracle.dropped
    assert session.balances()
    records, expected = session.records(), oracle.records()
    np.testing.assert_array_equal(records, expected)
    for index in (0, 3, 4, 15):
        assert session.row["snapshot_wanted"][index] == 0
        assert (records["flags"][records["instrument"] == index] & Flag.SNAPSHOT).any()


def test_same_input_gives_the_same_bytes_whatever_the_outbox_held() -> None:
    frames = list(open_capture(require_capture(SMALL)))
    digests = set()
    for filling in (0, 255):
        session = Session([btcusdt()])
        session.outbox.view(np.uint8)[:] = filling
        replay(session, frames)
        digests.add(hashlib.sha256(session.records().tobytes() + session.state.tobytes()).hexdigest())
    assert len(digests) == 1


def test_one_changed_byte_changes_the_bytes() -> None:
    frames = list(open_capture(require_capture(SMALL)))[:2_000]
    place = next(at for at, (_, frame) in enumerate(frames) if b'"trade"' in frame)
    recv_ts_ns, frame = frames[place]
    changed = list(frames)
    changed[place] = (recv_ts_ns, frame.replace(b'"q":"0.002"', b'"q":"0.003"'))
    assert changed != frames
    first, second = Session([btcusdt()]), Session([btcusdt()])
    replay(first, frames)
    replay(second, changed)
    assert (first.records() != second.records()).sum() == 1
