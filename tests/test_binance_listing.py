"""exchangeInfo of the three Binance markets as recorded, every symbol against Decimal; units that leave room."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.binance_listing import SIZE_ROOM, coin_contract_value, instrument_from_binance, listed_from_binance
from engine.instruments import Dialect, Instrument
from engine.units import INT64_MAX
from tests.recordings import require_capture, rest_bodies

LISTS = {
    Dialect.BINANCE_SPOT: ("ws/binance-spot/cf_20211011_rest_instruments.txt.gz", 1_695),
    Dialect.BINANCE_USDM: ("ws/binance-usdm/cf_20210722_rest_instruments.txt.gz", 122),
    Dialect.BINANCE_COINM: ("ws/binance-coinm/cf_20210721_rest_instruments.txt.gz", 36),
}


@cache
def recorded(dialect: Dialect) -> list[dict[str, Any]]:
    """The entries of the recorded list of a market."""
    ((_, _, body),) = rest_bodies(require_capture(LISTS[dialect][0]))
    entries: list[dict[str, Any]] = orjson.loads(body)["symbols"]
    assert len(entries) == LISTS[dialect][1]
    return entries


def entry_of(dialect: Dialect, symbol: str) -> dict[str, Any]:
    return next(entry for entry in recorded(dialect) if entry["symbol"] == symbol)


@pytest.mark.recordings
@pytest.mark.parametrize("dialect", LISTS)
def test_every_recorded_symbol_keeps_its_exact_tick_lot_and_limits(dialect: Dialect) -> None:
    for number, entry in enumerate(recorded(dialect)):
        listed = listed_from_binance(entry, number, dialect, venue=2)
        item = listed.instrument
        filters = {each["filterType"]: each for each in entry["filters"]}
        price, size = (lambda value, exp=exp: Decimal(value).scaleb(-exp) for exp in (item.price_exp, item.size_exp))
        assert price(item.tick_size) == Decimal(filters["PRICE_FILTER"]["tickSize"]) > 0
        assert size(item.lot_size) == Decimal(filters["LOT_SIZE"]["stepSize"]) > 0
        assert price(listed.min_price) == Decimal(filters["PRICE_FILTER"]["minPrice"])
        assert price(listed.max_price) == Decimal(filters["PRICE_FILTER"]["maxPrice"])
        least, most = Decimal(filters["LOT_SIZE"]["minQty"]), Decimal(filters["LOT_SIZE"]["maxQty"])
        unit = size(1)
        assert least <= size(listed.min_size) < least + unit and most - unit < size(listed.max_size) <= most
        market = Decimal(filters["MARKET_LOT_SIZE"]["maxQty"]) if "MARKET_LOT_SIZE" in filters else Decimal(0)
        assert market - unit < size(listed.max_market_size) <= market or market == listed.max_market_size == 0
        value = filters.get("MIN_NOTIONAL", {})
        assert Decimal(item.min_notional).scaleb(-8) == Decimal(value.get("minNotional") or value.get("notional") or 0)
        assert (item.index, item.symbol, item.venue, item.dialect) == (number, entry["symbol"], 2, dialect)
        assert (item.base, item.quote) == (entry["baseAsset"], entry["quoteAsset"])
        assert listed.max_size <= SIZE_ROOM or size(item.lot_size) == unit * item.lot_size
        assert listed.trading == ((entry.get("status") or entry["contractStatus"]) == "TRADING")
        assert item.record()["price"][0] == item.tick_size
        assert max(listed.max_price, listed.max_size) <= INT64_MAX


@pytest.mark.recordings
def test_what_differs_between_the_markets() -> None:
    btc = instrument_from_binance(entry_of(Dialect.BINANCE_SPOT, "BTCUSDT"), 0, Dialect.BINANCE_SPOT)
    assert (btc.price_exp, btc.size_exp, btc.tick_size, btc.lot_size) == (8, 8, 1_000_000, 1_000)
    assert (btc.min_notional, btc.contract_value) == (10 * 10**8, 0)
    coin = instrument_from_binance(entry_of(Dialect.BINANCE_COINM, "BTCUSD_PERP"), 0, Dialect.BINANCE_COINM)
    assert (coin.price_exp, coin.size_exp, coin.tick_size, coin.lot_size) == (1, 0, 1, 1)
    assert (coin.base, coin.quote, coin.min_notional, coin.contract_value) == ("BTC", "USD", 0, 100 * 10**8)
    usdm = instrument_from_binance(entry_of(Dialect.BINANCE_USDM, "BTCUSDT"), 0)
    assert (usdm.price_exp, usdm.size_exp, usdm.tick_size, usdm.lot_size) == (2, 3, 1, 1)
    assert (usdm.dialect, usdm.contract_value) == (Dialect.BINANCE_USDM, 0)


@pytest.mark.recordings
def test_the_status_tells_who_takes_orders() -> None:
    trading = {
        dialect: sum(listed_from_binance(entry, 0, dialect).trading for entry in recorded(dialect)) for dialect in LISTS
    }
    assert trading == {Dialect.BINANCE_SPOT: 1_262, Dialect.BINANCE_USDM: 121, Dialect.BINANCE_COINM: 36}


@pytest.mark.recordings
def test_the_stated_contract_value_is_the_listed_one() -> None:
    for entry in recorded(Dialect.BINANCE_COINM):
        item = instrument_from_binance(entry, 0, Dialect.BINANCE_COINM)
        assert item.contract_value == coin_contract_value(entry["pair"])


def spot(tick: str, lot: str, largest: str) -> dict[str, Any]:
    return {
        "symbol": "XUSDT", "status": "TRADING", "baseAsset": "X", "quoteAsset": "USDT",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": largest, "stepSize": lot},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lot", "largest", "size_exp"),
    [
        ("0.00001000", "9000.00000000", 8),
        ("1.00000000", "11258999.00000000", 8),  # 2^50 units of 1e-8 are 11,258,999.07
        ("1.00000000", "11259000.00000000", 7),
        ("1.00000000", "92141578907.00000000", 4),
        ("0.01000000", "46116860414.00000000", 4),
        ("0.00000100", "92141578907.00000000", 6),  # never coarser than the lot
        ("1.00", "46116860414.00", 2),
        ("1", "100", 0),
    ],
)
def test_sizes_have_all_decimals_of_the_wire_that_leave_room(lot: str, largest: str, size_exp: int) -> None:
    listed = listed_from_binance(spot("0.01000000", lot, largest), 0, Dialect.BINANCE_SPOT)
    item = listed.instrument
    assert (item.price_exp, item.size_exp, item.min_notional) == (8, size_exp, 5 * 10**8)
    assert Decimal(item.lot_size).scaleb(-size_exp) == Decimal(lot)
    assert listed.max_size == Decimal(largest).scaleb(size_exp)


@settings(max_examples=300)
@given(wire=st.integers(0, 8), lot=st.integers(0, 8), largest=st.integers(1, 9 * 10**10))
def test_the_size_unit_is_the_finest_with_room(wire: int, lot: int, largest: int) -> None:
    lot = min(lot, wire)
    text = f"{Decimal(1).scaleb(-lot):.{wire}f}"
    item = instrument_from_binance(spot("0.01", text, f"{largest:.{wire}f}"), 0, Dialect.BINANCE_SPOT)
    fits = [exp for exp in range(wire + 1) if largest * 10**exp <= SIZE_ROOM]
    assert item.size_exp == max(lot, max(fits, default=0))


@pytest.mark.parametrize("key", ["filters", "baseAsset", "quoteAsset", "status"])
def test_a_missing_key_is_named(key: str) -> None:
    entry = spot("0.01", "0.1", "10.0")
    del entry[key]
    with pytest.raises(ValueError, match=rf"exchangeInfo of XUSDT: {key} is missing"):
        listed_from_binance(entry, 0, Dialect.BINANCE_SPOT)


def test_what_cannot_be_is_refused_with_the_symbol() -> None:
    for change in ({"filters": [{}]}, {"filters": 5}, {"filters": [{"filterType": "PRICE_FILTER"}]}):
        with pytest.raises(ValueError, match="exchangeInfo of XUSDT: "):
            listed_from_binance(spot("0.01", "0.1", "10.0") | change, 0, Dialect.BINANCE_SPOT)
    for tick in ("a penny", "", "1e-99"):
        with pytest.raises(ValueError, match="exchangeInfo of XUSDT: "):
            listed_from_binance(spot(tick, "0.1", "10.0"), 0, Dialect.BINANCE_SPOT)
    with pytest.raises(ValueError, match="exchangeInfo of XUSDT: pricePrecision is missing"):
        listed_from_binance(spot("0.01", "0.1", "10.0"), 0, Dialect.BINANCE_COINM)


def test_an_instrument_survives_the_session_file() -> None:
    item = instrument_from_binance(spot("0.01", "0.1", "10.0"), 3, Dialect.BINANCE_SPOT)
    assert Instrument(**orjson.loads(orjson.dumps(item.as_dict()))) == item
    old = {key: value for key, value in item.as_dict().items() if key not in ("dialect", "contract_value")}
    assert Instrument(**old).dialect == Dialect.BINANCE_USDM, "sessions of before know USD-M only"
