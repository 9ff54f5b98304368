"""The monitors' limits held against recorded markets: healthy ones are no reason to stop, broken ones are.

Books and spreads are taken from the frames by plain json, without any code of the engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator

import pytest

from engine.safety.monitors import InstrumentSample, Monitors, Sample
from engine.safety.panic_settings import PanicSettings
from tests.recordings import open_capture, require_capture

TICK_NS = 50_000_000
SECOND = 1_000_000_000
HEALTHY = (
    "binance-usdm/btcusdt_20240808", "binance-usdm/ethusdt_20240808", "binance-usdm/btcusdt_20230404",
    "binance-coinm/btcusd_perp_20240808", "binance-spot/btcusdt_20240808", "binance-spot/ethusdt_20240808",
)

Quote = tuple[int, str, float, float]  # receive time, "depth", "quote" or another stream's name, bid, ask
Change = Callable[[float, Quote], Quote | None]  # by seconds since the first frame


def quotes_of(name: str) -> Iterator[Quote]:
    """Every frame of a recording: what it is, and the prices where it has some."""
    for received_ns, body in open_capture(require_capture(f"ws/{name}.raw.gz")):
        frame = json.loads(body)
        stream = frame.get("stream", "")
        if "bookTicker" in stream:
            yield received_ns, "quote", float(frame["data"]["b"]), float(frame["data"]["a"])
        else:
            yield received_ns, "depth" if "depth" in stream else stream, math.nan, math.nan


def findings(name: str, change: Change = lambda seconds, quote: quote) -> dict[str, float]:
    """Causes found by the default limits, and when first, in seconds since the first frame. change: what is broken."""
    monitors = Monitors(PanicSettings(), ("X",), "venue", ("orders",), ("market",), (), ())
    found: dict[str, float] = {}
    bid = ask = math.nan
    book_ns = events = frames = 0
    began = tick_ns = 0
    for quote in quotes_of(name):
        began = began or quote[0]
        tick_ns = tick_ns or quote[0]
        while tick_ns < quote[0]:
            item = InstrumentSample("X", book_ns, events, True, bid, ask)
            rings = {"orders": 0.0, "market": 0.0}
            for one in monitors.judge(Sample(tick_ns, True, frames, (item,), (), 0, 0, {}, rings, None, "", {}, 0)):
                found.setdefault(one.cause, (tick_ns - began) / SECOND)
            tick_ns += TICK_NS
        kept = change((quote[0] - began) / SECOND, quote)
        if kept is None:
            continue
        frames += 1
        if kept[1] == "depth":
            book_ns, events = kept[0], events + 1
        elif kept[1] == "quote":
            bid, ask = kept[2:]
    assert frames > 1_000
    return found


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_market_is_no_reason(name: str) -> None:
    assert findings(name) == {}


def test_a_book_that_falls_silent_in_a_living_market_is_found() -> None:
    found = findings(HEALTHY[0], lambda seconds, quote: None if seconds > 100 and quote[1] == "depth" else quote)
    assert set(found) == {"staleness X"}
    assert 100.4 < found["staleness X"] < 102.5  # four times its longest wait of the minute before


def test_a_venue_that_falls_silent_is_found() -> None:
    found = findings(HEALTHY[1], lambda seconds, quote: None if 100 < seconds < 110 else quote)
    assert set(found) == {"staleness X", "staleness venue"}
    assert found["staleness venue"] == pytest.approx(101.6, abs=0.2)


def test_a_spread_that_stays_wide_is_found() -> None:
    def wide(seconds: float, quote: Quote) -> Quote:
        received_ns, kind, bid, ask = quote
        return (received_ns, kind, bid, ask + 4.5 * 0.1) if 200 < seconds < 210 else quote

    found = findings(HEALTHY[0], wide)
    assert set(found) == {"spread X"}
    assert 201.9 < found["spread X"] < 203
