"""Public data, signatures, and that no secret is in any text."""

from __future__ import annotations

import logging

import ccxt
import orjson
import pytest
import requests

from engine.instruments import Instrument
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints, VenueUnreachable
from procs.venues.binance_usdm.rest import listen_key
from procs.venues.binance_usdm.signed import SignedSession
from procs.venues.binance_usdm.stock_client import make_exchange
from tests.embedded_venue import RunningVenue
from tests.instance_memory import own_budget, venue_limits
from tests.trading_desk import (
    BTC,
    ETH,
    KEY,
    SECRET,
    USDM,
    ScriptedServer,
    SignedKill,
    client_of,
    new_order,
)


def test_instruments_and_depth_of_the_embedded_venue(venue: RunningVenue) -> None:
    listing = USDM.fetch_listing(venue.address.rest_url, ["ETHUSDT", "BTCUSDT"])
    assert listing.instruments == (
        Instrument(**(ETH.as_dict() | {"index": 0})), Instrument(**(BTC.as_dict() | {"index": 1}))
    )
    assert [limit.name for limit in listing.rate_limits] == [limit.name for limit in venue_limits()]
    with pytest.raises(ValueError, match="does not list DOGEUSDT"):
        USDM.fetch_listing(venue.address.rest_url, ["DOGEUSDT"])
    with requests.Session() as session:
        assert orjson.loads(USDM.fetch_book(session, venue.address.rest_url, "BTCUSDT"))["bids"]
        with pytest.raises(VenueUnreachable, match="HTTP 400"):
            USDM.fetch_book(session, venue.address.rest_url, "DOGEUSDT")


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"symbols": [5]}', b'{"symbols": 5}'])
def test_an_exchange_info_that_is_none(body: bytes) -> None:
    with (
        ScriptedServer(lambda method, path: (200, body)) as server,
        pytest.raises(VenueUnreachable, match="no exchangeInfo"),
    ):
        USDM.fetch_listing(server.url, ["BTCUSDT"])


def test_a_hand_signed_request_is_taken_by_the_venue(venue: RunningVenue) -> None:
    with SignedKill(venue.address) as session:
        assert isinstance(session.call("GET", "/fapi/v1/openOrders", symbol="BTCUSDT"), list)
        with pytest.raises(VenueUnreachable, match=r"^GET /fapi/v1/openOrders: HTTP 400, code -1121$"):
            session.call("GET", "/fapi/v1/openOrders", symbol="DOGEUSDT")


def test_no_secret_in_any_text(venue: RunningVenue, caplog: pytest.LogCaptureFixture) -> None:
    credentials = Credentials(KEY, SECRET)
    texts: list[str] = [repr(credentials), str(credentials), f"{credentials}"]
    with caplog.at_level(logging.DEBUG):
        bodies: list[tuple[int, bytes]] = [(200, b"x"), (400, b'{"code": -1022, "msg": "bad"}'), (503, b"")]
        for status, body in bodies:
            with ScriptedServer(lambda method, path, s=status, b=body: (s, b)) as server:  # type: ignore[misc]
                client = client_of(server)
                texts += [repr(client), str(client), repr(client._exchange), str(vars(client).keys())]
                for call in (client.catch_up, client.warm_up, lambda c=client: c.history.query(1, 0)):
                    try:
                        call()
                    except Exception as error:
                        texts += [str(error), repr(error)]
                client.perform(new_order())
                session = SignedSession(server.url, credentials, own_budget())
                texts += [repr(session), str(session)]
                for path in ("/fapi/v1/openOrders", "/fapi/v1/allOpenOrders"):
                    try:
                        session.call("GET", path, symbol="BTCUSDT")
                    except VenueUnreachable as error:
                        texts += [str(error), repr(error)]
                try:
                    listen_key(server.url, credentials, own_budget())
                except VenueUnreachable as error:
                    texts += [str(error), repr(error)]
                client.close()
                session.close()
        # Nobody listens there any more.
        lonely = SignedSession(server.url, credentials, own_budget())
        try:
            lonely.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
        except VenueUnreachable as error:
            texts += [str(error), repr(error), repr(error.__cause__)]
        lonely.close()
    assert len(texts) > 30
    for text in [*texts, caplog.text]:
        assert SECRET not in text
        assert KEY not in text


def test_endpoints_of_the_real_venue_are_left_alone() -> None:
    ours = make_exchange(Endpoints("https://fapi.binance.com", ""), Credentials(KEY, SECRET), 1000, 1000).urls["api"]
    assert ours == ccxt.binanceusdm().urls["api"]
    moved = make_exchange(Endpoints("http://127.0.0.1:1/x", ""), Credentials(KEY, SECRET), 1000, 1000).urls["api"]
    assert moved["fapiPrivate"] == "http://127.0.0.1:1/x/fapi/v1"
    assert not [url for url in moved.values() if isinstance(url, str) and "binance.com" in url and "api.binance" in url]
