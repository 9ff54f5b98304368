"""Lists of instruments that cannot be: each is refused with the error that its reader documents, at once.

A list is read anew while orders are out; an error of another kind ended the polls for good.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from engine.instruments import Dialect, Instrument
from engine.listed import checked, unit_exponent
from procs.venues.binance_usdm.endpoints import VenueUnreachable
from procs.venues.binance_usdm.rate_limits import limits_of
from procs.venues.kraken_spot.instruments import instruments_from_asset_pairs, instruments_from_channel
from procs.venues.market import market_of
from tools.soak.body_targets import BODIES

DEEP = b"[" * 200_000
HUGE = b"9" * 30


def list_again(dialect: Dialect, symbol: str) -> Callable[[bytes], Any]:
    def read(body: bytes) -> Any:
        session: Any = SimpleNamespace(get=lambda *_, **__: SimpleNamespace(status_code=200, content=body))
        return market_of(dialect).list_again(session, "", [symbol])

    return read


READERS: dict[str, tuple[Callable[[bytes], Any], type[Exception]]] = {
    "LISTING_BINANCE_SPOT": (list_again(Dialect.BINANCE_SPOT, "NKNUSDT"), VenueUnreachable),
    "LISTING_BINANCE_USDM": (list_again(Dialect.BINANCE_USDM, "BTCUSDT"), VenueUnreachable),
    "LISTING_KRAKEN_SPOT": (list_again(Dialect.KRAKEN_SPOT_V2, "BTC/CHF"), VenueUnreachable),
    "LISTING_KRAKEN_SPOT_V1": (lambda body: instruments_from_asset_pairs(body, ("XBT/CHF",)), ValueError),
    "LISTING_KRAKEN_CHANNEL": (lambda body: instruments_from_channel(body, ("BTC/CHF",)), ValueError),
    "LISTING_KRAKEN_FUTURES": (list_again(Dialect.KRAKEN_FUTURES, "PI_ETHUSD"), VenueUnreachable),
}
CASES = [
    ("LISTING_KRAKEN_SPOT", b'"lot_decimals":8', b'"lot_decimals":88'),
    ("LISTING_KRAKEN_SPOT", b'"pair_decimals":1', b'"pair_decimals":1e300'),
    ("LISTING_KRAKEN_SPOT", b'"lot_multiplier":1', b'"lot_multiplier":1e300'),
    ("LISTING_KRAKEN_SPOT", b'"tick_size":"0.1"', b'"tick_size":"-0.1"'),
    ("LISTING_KRAKEN_SPOT_V1", b'"pair_decimals":1', b'"pair_decimals":-1'),
    ("LISTING_KRAKEN_CHANNEL", b'"qty_precision":8', b'"qty_precision":null'),
    ("LISTING_KRAKEN_CHANNEL", b'"price_precision":1', b'"price_precision":111'),
    ("LISTING_KRAKEN_CHANNEL", b'{"channel"', DEEP + b'{"channel"'),
    ("LISTING_KRAKEN_FUTURES", b'"contractValueTradePrecision":0', b'"contractValueTradePrecision":-99'),
    ("LISTING_KRAKEN_FUTURES", b'"contractValueTradePrecision":0', b'"contractValueTradePrecision":-' + HUGE),
    ("LISTING_KRAKEN_FUTURES", b'"tickSize":0.05', b'"tickSize":5e-' + HUGE),
    ("LISTING_KRAKEN_FUTURES", b'{"result"', DEEP + b'{"result"'),
    ("LISTING_BINANCE_USDM", b'"quantityPrecision":3', b'"quantityPrecision":33'),
    ("LISTING_BINANCE_USDM", b'"tickSize":"0.10"', b'"tickSize":"-0.10"'),
    ("LISTING_BINANCE_SPOT", b'"stepSize":"0.001"', b'"stepSize":"0.' + b"0" * 30 + b'"'),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "old", "new"), CASES, ids=range(len(CASES)))
def test_a_list_that_cannot_be_is_refused(name: str, old: bytes, new: bytes) -> None:
    read, error = READERS[name]
    body = BODIES[name].seeds[0].encode()
    assert len(read(body)) == 1
    assert body.count(old) == 1
    with pytest.raises(error):
        read(body.replace(old, new))


def test_names_that_are_none_are_passed_over() -> None:
    read, _ = READERS["LISTING_KRAKEN_SPOT"]
    body = BODIES["LISTING_KRAKEN_SPOT"].seeds[0].encode()
    assert read(body.replace(b'"wsname":"XBT/CHF","pair', b'"wsname":7,"pair')) == {}


def test_a_contract_whose_name_says_nothing_is_refused() -> None:
    body = BODIES["LISTING_KRAKEN_FUTURES"].seeds[0].encode().replace(b"pi_ethusd", b"ethusd")
    with pytest.raises(VenueUnreachable, match="ETHUSD: neither"):
        list_again(Dialect.KRAKEN_FUTURES, "ETHUSD")(body)


ENDLESS = {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": float("inf"), "limit": 5}
NAMELESS = {"rateLimitType": "REQUEST_WEIGHT", "interval": [[]], "intervalNum": 10, "limit": 30}


@pytest.mark.parametrize("limits", [None, 5, "abc", [ENDLESS], [NAMELESS], [None], [{"rateLimitType": []}]])
def test_rate_limits_that_cannot_be_are_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match="exchangeInfo"):
        limits_of({"rateLimits": limits})


@pytest.mark.parametrize("number", [[], {}, None, "1", 99, 1.5])
def test_an_answer_with_a_strange_number_is_an_answer(number: Any) -> None:
    refusal = {"error": "no", "method": "subscribe", "success": False, "symbol": "BTC/CHF", "req_id": number}
    frame = orjson.dumps(refusal)
    answer = market_of(Dialect.KRAKEN_SPOT_V2).answer(frame)
    assert answer is not None and not answer.accepted and answer.wanted == ()


def test_units_and_numbers_that_the_engine_holds() -> None:
    assert [unit_exponent(value) for value in (0, "8", 18)] == [0, 8, 18]
    for value in (-1, 19, None, [], float("inf"), float("nan"), "x", "1.5"):
        with pytest.raises(ValueError):
            unit_exponent(value)
    terms = {"index": 0, "symbol": "X", "base": "X", "quote": "Y", "price_exp": 0, "size_exp": 0}
    assert checked(Instrument(**terms, tick_size=1, lot_size=2**63 - 1, min_notional=0)).tick_size == 1
    for tick, lot, least in ((-1, 1, 0), (1, 2**63, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="64 bits"):
            checked(Instrument(**terms, tick_size=tick, lot_size=lot, min_notional=least))
