"""Captures: the two time stamps, what a scan learns of the units, which line is at fault, several symbols."""

from __future__ import annotations

import gzip
import math
import tracemalloc
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Settings
from engine.ingest.kernel import is_snapshot_body
from engine.instruments import MAX_INSTRUMENTS, Dialect
from engine.units import parse_units
from procs.captures import CaptureError, capture_inputs, capture_lines, scan_instruments
from procs.journal.layout import Entry
from procs.replay import open_source, replay_fused
from tests.recordings import USDM_CAPTURES, open_capture, require_capture

NS = 1_700_000_000_123_456_789
SNAPSHOT = b'{"lastUpdateId":7,"E":1,"T":1,"bids":[["100.0","1"]],"asks":[["101.0","1"]]}'


def event(kind: str, symbol: str = "BTCUSDT", **values: object) -> bytes:
    """A frame of a combined stream."""
    data = {"e": kind, "E": 1, "T": 1, "s": symbol, **values}
    return orjson.dumps({"stream": f"{symbol.lower()}@{kind}", "data": data})


def diff(bids: list, asks: list, symbol: str = "BTCUSDT", **values: object) -> bytes:
    return event("depthUpdate", symbol, **({"U": 1, "u": 2, "pu": 0, "b": bids, "a": asks} | values))


def ticker(bid: str, bid_size: str, ask: str, ask_size: str, symbol: str = "BTCUSDT") -> bytes:
    return event("bookTicker", symbol, u=1, b=bid, B=bid_size, a=ask, A=ask_size)


def trade(price: str, size: str, symbol: str = "BTCUSDT") -> bytes:
    return event("trade", symbol, t=1, p=price, q=size, m=True)


def write(path: Path, *frames: bytes, stamp: int = NS) -> Path:
    """A capture with these frames, one nanosecond apart."""
    content = b"".join(b"%d %s\n" % (stamp + number, frame) for number, frame in enumerate(frames))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.raw", "a.raw.gz", "a.txt"])
def test_lines_with_their_numbers_and_times(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b"{}", b'{"a": "b c"}')
    assert list(capture_lines(path)) == [(1, NS, b"{}"), (2, NS + 1, b'{"a": "b c"}')]


def test_microseconds_become_nanoseconds_and_line_ends_go(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(b"1700000000123456 {}\r\n1700000000123457000 {}")
    assert [(number, ts, frame) for number, ts, frame in capture_lines(path)] == [
        (1, 1_700_000_000_123_456_000, b"{}"), (2, 1_700_000_000_123_457_000, b"{}")
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"1700000000123456789", b"1700000000123456789 ", b"1700000000 {}", b"1700000000123 {}",
        b"1700000000.123456 {}", b"-700000000123456789 {}", b" 1700000000123456789 {}", b"17000000001234567x9 {}",
        "\u0661\u0667\u0660\u0660\u0660\u0660\u0660\u0660 {}".encode(),
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(b"%d %s\n%s\n" % (NS, ticker("1.0", "1", "1.1", "1"), line))
    for read in (lambda: list(capture_lines(path)), lambda: scan_instruments(path)):
        with pytest.raises(CaptureError, match=r"a\.raw, line 2: not RECEIVE_TIME FRAME with a time in ns or us"):
            read()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    plain = tmp_path / "a.raw.gz"
    plain.write_bytes(b"1 {}")
    cut = write(tmp_path / "b.raw.gz", *[b"{}"] * 100)
    cut.write_bytes(cut.read_bytes()[:-20])
    flipped = write(tmp_path / "c.raw.gz", *[orjson.dumps({"n": n * 7919}) for n in range(3000)])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = b"\0" * 8
    flipped.write_bytes(content)
    for path in (plain, cut, flipped, tmp_path / "none.raw", tmp_path):
        with pytest.raises(CaptureError) as caught:
            list(capture_lines(path))
        assert str(caught.value).startswith(f"{path}")


def test_units_are_those_that_the_venue_prints(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.raw", ticker("60000.10", "0.002", "60000.30", "0.010"), trade("60000.17", "0.004"),
        diff([["59999.50", "0.006"]], [["60001.00", "0.000"]]),
    )
    (only,) = scan_instruments(path)
    assert (only.index, only.symbol, only.base, only.quote) == (0, "BTCUSDT", "BTCUSDT", "")
    # Quotes lie on 0.20 of 60000.10, so the step is 0.10; a trade's price (of an insurance fund, say) need not.
    assert (only.price_exp, only.size_exp, only.tick_size, only.lot_size) == (2, 3, 10, 2)
    assert (only.min_notional, only.epoch, only.venue) == (0, 0, 0)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([diff([["1.5", "2"]], [])], (1, 0, 15, 2)),
        ([diff([["100", "10"], ["90", "0"]], [])], (0, 0, 10, 10)),
        ([trade("5.25", "0.5")], (2, 1, 1, 5)),
        ([ticker("0", "0", "7", "3")], (0, 0, 7, 3)),
        ([ticker("0.00000001", "1", "0.00000003", "1")], (8, 0, 1, 1)),
        # A bare event, and an old ticker that does not say its kind.
        ([orjson.dumps({"u": 1, "s": "BTCUSDT", "b": "2.50", "B": "1", "a": "2.75", "A": "4"})], (2, 0, 25, 1)),
    ],
)  # fmt: skip
def test_short_captures(tmp_path: Path, frames: list[bytes], expected: tuple) -> None:
    (only,) = scan_instruments(write(tmp_path / "a.raw", *frames))
    assert (only.price_exp, only.size_exp, only.tick_size, only.lot_size) == expected


_PRINTED = st.tuples(st.integers(0, 10**10 - 1), st.integers(0, 8), st.integers(0, 10**8 - 1)).map(
    lambda part: f"{part[0]}.{part[2] % 10 ** part[1]:0{part[1]}d}" if part[1] else str(part[0])
)


@given(st.lists(st.tuples(_PRINTED, _PRINTED), min_size=1, max_size=12))
def test_the_step_is_the_greatest_common_divisor_of_all_that_was_quoted(
    tmp_path_factory: pytest.TempPathFactory, levels: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("steps") / "a.raw"
    (only,) = scan_instruments(write(path, *[diff([list(level)], []) for level in levels]))
    for exp, step, texts in (
        (only.price_exp, only.tick_size, [price for price, _ in levels]),
        (only.size_exp, only.lot_size, [size for _, size in levels]),
    ):
        assert exp == max(len(text.partition(".")[2]) for text in texts)
        assert step == (math.gcd(*(parse_units(text, exp) for text in texts)) or 1)


def test_memory_does_not_grow_with_the_length_of_a_capture(tmp_path: Path) -> None:
    """Every trade has a size of its own."""
    peaks = []
    for count in (2_000, 20_000):
        path = write(tmp_path / "a.raw", *(trade("60000.00", f"{1 + number * 1e-8:.8f}") for number in range(count)))
        tracemalloc.start()
        (only,) = scan_instruments(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (only.size_exp, only.lot_size) == (8, 1)
    assert peaks[1] < peaks[0] + 16 * 1024, peaks


BROKEN = [
    b"{", b"[]", b"5", b"null", b'{"data": 5}', b'{"data": {"s": 5}}', b'{"data": {"s": "BTCUSDT"}}',
    diff([["sixty", "1"]], []), diff([["1.0"]], []), diff([[1.0, 2.0]], []), diff([["1.0", None]], []),
    diff([["-1.0", "1"]], []), diff([["1e3", "1"]], []), diff([["1.123456789", "1"]], []),
    diff([["12345678901", "1"]], []), diff([["NaN", "1"]], []), diff([["", "1"]], []), diff([["1.", "1"]], []),
    event("depthUpdate"), event("bookTicker", b="1.0"), event("trade", p="x", q="1"),
    event("trade", "S" * 33, p="1.23456", q="1"),
    event("markPriceUpdate", p="1", r="0.1"), event("forceOrder", o={}),
]  # fmt: skip


@pytest.mark.parametrize("frame", BROKEN, ids=repr)
def test_a_broken_frame_teaches_nothing_and_does_not_stop_the_scan(tmp_path: Path, frame: bytes) -> None:
    path = write(tmp_path / "a.raw", frame, ticker("60000.10", "0.002", "60000.20", "0.001"), frame)
    (only,) = scan_instruments(path)
    assert (only.symbol, only.price_exp, only.size_exp, only.tick_size) == ("BTCUSDT", 2, 3, 10)


@pytest.mark.parametrize("frame", BROKEN, ids=repr)
def test_a_broken_frame_is_refused_and_counted_when_it_is_replayed(tmp_path: Path, frame: bytes) -> None:
    good = ticker("60000.10", "0.002", "60000.20", "0.001")
    summary = replay_fused(open_source(write(tmp_path / "a.raw", good, frame, good), Settings()), None)
    stage = summary["stages"]["ingestion"]
    assert summary["market"]["frames"] == 3 == stage["in"]
    assert stage["in"] == (
        stage["processed"] + sum(stage["quarantined"].values()) + sum(stage["dropped"].values()) + stage["in_flight"]
    )
    assert summary["unaccounted"] == 0


def test_a_capture_without_market_data_says_where_it_looked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", b"{}", event("depthUpdate"), event("trade"))
    with pytest.raises(CaptureError, match=r"a\.raw, line 2: no market data of Binance"):
        scan_instruments(path)
    with pytest.raises(CaptureError, match="holds no market data"):
        scan_instruments(write(tmp_path / "b.raw", b"{}", SNAPSHOT))


def test_several_symbols_in_the_order_of_their_first_frame(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.raw", trade("10.0", "1", "ETHUSDT"), ticker("5.00", "1.0", "5.25", "1.0"),
        ticker("9.5", "2", "10.0", "2", "ETHUSDT"),
    )
    eth, btc = scan_instruments(path)
    assert (eth.index, eth.symbol, eth.price_exp, eth.tick_size, eth.lot_size) == (0, "ETHUSDT", 1, 5, 1)
    assert (btc.index, btc.symbol, btc.price_exp, btc.tick_size, btc.lot_size) == (1, "BTCUSDT", 2, 25, 10)


def test_more_symbols_than_a_shard_has_places(tmp_path: Path) -> None:
    frames = [trade("1", "1", f"S{number}") for number in range(MAX_INSTRUMENTS + 1)]
    with pytest.raises(CaptureError, match="market data of 17 symbols; allowed are 1 to 16"):
        scan_instruments(write(tmp_path / "a.raw", *frames))
    assert len(scan_instruments(write(tmp_path / "b.raw", *frames[:-1]))) == MAX_INSTRUMENTS


def test_inputs_are_the_start_and_every_line(tmp_path: Path) -> None:
    frames = [ticker("1", "1", "2", "1"), SNAPSHOT, b"{", trade("1", "1")]
    path = write(tmp_path / "a.raw", *frames)
    start, *rest = capture_inputs(path, scan_instruments(path))
    assert (start.kind, start.ts_ns, start.payload) == (Entry.START, NS, b"")
    assert [entry.kind for entry in rest] == [Entry.FRAME, Entry.SNAPSHOT, Entry.FRAME, Entry.FRAME]
    assert [entry.payload for entry in rest] == frames
    assert [entry.ordinal for entry in rest] == [1, 2, 3, 4]
    assert [entry.ts_ns for entry in rest] == [NS, NS + 1, NS + 2, NS + 3]
    assert rest[1].source == 0


def test_a_snapshot_that_could_be_of_several_symbols_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", trade("1", "1"), trade("1", "1", "ETHUSDT"), SNAPSHOT)
    with pytest.raises(CaptureError, match=r"a\.raw, line 3: a snapshot names no symbol, and the capture holds sev"):
        list(capture_inputs(path, scan_instruments(path)))


SPOT, USDM, COINM = Dialect.BINANCE_SPOT, Dialect.BINANCE_USDM, Dialect.BINANCE_COINM


def spot_diff(symbol: str = "BTCUSDT") -> bytes:
    return orjson.dumps({"e": "depthUpdate", "E": 1, "s": symbol, "U": 1, "u": 2, "b": [["1.00", "1"]], "a": []})


def spot_ticker() -> bytes:
    return orjson.dumps({"u": 1, "s": "BTCUSDT", "b": "2.50", "B": "1", "a": "2.75", "A": "4"})


@pytest.mark.parametrize(
    ("frames", "dialect"),
    [
        ([diff([["1.0", "1"]], [])], USDM),
        ([spot_diff()], SPOT),
        ([diff([["1.0", "1"]], [], "BTCUSD_PERP", ps="BTCUSD")], COINM),
        ([spot_ticker()], SPOT),
        ([ticker("1", "1", "2", "1")], USDM),
        ([event("bookTicker", "ETHUSD_PERP", u=1, b="1", B="1", a="2", A="1", ps="ETHUSD")], COINM),
        ([trade("1", "1")], USDM),
        ([event("trade", t=1, p="1", q="1", m=True, M=True)], SPOT),
        ([event("aggTrade", f=1, l=1, p="1", q="1", m=True, M=True)], SPOT),
        # A diff is a better witness than a ticker or a trade, and most diffs than a broken one.
        ([spot_ticker(), diff([["1.0", "1"]], [])], USDM),
        ([trade("1", "1"), spot_diff()], SPOT),
        ([spot_diff(), *[diff([["1.0", "1"]], [])] * 2], USDM),
        # The trades of one symbol say nothing against the diffs of another.
        ([trade("1", "1", "ETHUSD_PERP"), diff([["1.0", "1"]], [], "BTCUSD_PERP", ps="BTCUSD")], COINM),
    ],
)  # fmt: skip
def test_the_market_of_a_capture(tmp_path: Path, frames: list[bytes], dialect: Dialect) -> None:
    assert {item.dialect for item in scan_instruments(write(tmp_path / "a.raw", *frames))} == {dialect}


def test_the_contracts_of_coin_margined_pairs(tmp_path: Path) -> None:
    names = {"BTCUSD_PERP": "BTCUSD", "BTCUSD_240927": "BTCUSD", "ETHUSD_PERP": "ETHUSD"}
    path = write(tmp_path / "a.raw", *[diff([["1.0", "1"]], [], name, ps=pair) for name, pair in names.items()])
    assert [item.contract_value // 10**8 for item in scan_instruments(path)] == [100, 100, 10]


def test_symbols_of_two_markets_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.raw", diff([["1.0", "1"]], []), spot_diff("ETHUSDT"))
    with pytest.raises(CaptureError, match=r"a\.raw: symbols of several markets, .*: BINANCE_USDM, BINANCE_SPOT"):
        scan_instruments(path)


def test_a_snapshot_that_names_its_symbol_is_given_to_it(tmp_path: Path) -> None:
    frames = [diff([["1.0", "1"]], [], name, ps=name[:6]) for name in ("BTCUSD_PERP", "ETHUSD_PERP")]
    path = write(tmp_path / "a.raw", *frames, SNAPSHOT[:-1] + b',"symbol":"ETHUSD_PERP"}')
    entries = list(capture_inputs(path, scan_instruments(path)))
    assert [(entry.kind, entry.source) for entry in entries[-2:]] == [(Entry.FRAME, 0), (Entry.SNAPSHOT, 1)]
    for ending in (b',"symbol":"LTCUSD_PERP"}', b"", b',"symbol":5}'):
        path = write(tmp_path / "b.raw", *frames, SNAPSHOT[:-1] + ending)
        with pytest.raises(CaptureError, match=r"b\.raw, line 3: a snapshot names no symbol"):
            list(capture_inputs(path, scan_instruments(path)))


@pytest.mark.recordings
@pytest.mark.parametrize("relative", USDM_CAPTURES)
def test_recordings_line_by_line(relative: str) -> None:
    path = require_capture(relative)
    (only,) = scan_instruments(path)
    symbol = Path(relative).name.split("_")[0].upper()
    tick = 1 if symbol == "ETHUSDT" else 10
    assert (only.symbol, only.price_exp, only.size_exp, only.tick_size, only.lot_size) == (symbol, 2, 3, tick, 1)
    entries = capture_inputs(path, (only,))
    assert next(entries).kind == Entry.START
    kinds: Counter[int] = Counter()
    for (ts_ns, frame), entry in zip(open_capture(path), entries, strict=True):
        assert (entry.ts_ns, entry.payload) == (ts_ns, frame)
        kinds[entry.kind] += 1
        assert (entry.kind == Entry.SNAPSHOT) == is_snapshot_body(frame)
    assert kinds[Entry.SNAPSHOT] == 1 and kinds[Entry.FRAME] > 13_000
