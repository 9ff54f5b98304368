"""A trading client on the embedded venue, or on a server that says what a test tells it to."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import requests

from engine.instruments import Dialect, Instrument
from engine.reasons import Reason
from engine.records import ORDER, OrderAction, ReportKind, TimeInForce
from procs.budget import Budget
from procs.venues.binance_usdm.endpoints import Credentials, Endpoints
from procs.venues.binance_usdm.last_gate import GateShut
from procs.venues.binance_usdm.reports import ClientIds
from procs.venues.binance_usdm.signed import SignedSession
from procs.venues.binance_usdm.trading import TradingClient
from procs.venues.market import market_of
from shm.clock import python_monotonic_ns
from tests.embedded_venue import RunningVenue
from tests.instance_memory import listed_instruments, own_budget, venue_limits

SESSION = "0badcafe"
SECRET, KEY = "c4n4rySecret0123456789", "c4n4ryKey9876543210"
BTC, ETH = listed_instruments()
USDM = market_of(Dialect.BINANCE_USDM)
BY_NAME = {"BTCUSDT": BTC, "ETHUSDT": ETH}
IDS = ClientIds(SESSION)


def fields(record: np.ndarray) -> dict[str, int]:
    """What of a report is not zero, by name; enums by their number."""
    names = record.dtype.names or ()
    return {name: int(record[name][0]) for name in names if name != "spare" and int(record[name][0])}


@dataclass
class Desk:
    """A trading client on the embedded venue, and what it needs to make orders."""

    venue: RunningVenue
    client: TradingClient
    gate: list[GateShut] = field(default_factory=list)  # not empty: shut
    passed: int = 0
    ahead_ns: int = 0  # of the clock that the rate budget goes by
    number: int = 0

    def order(self, action: OrderAction, order_id: int = 0, **values: int) -> np.void:
        record = np.zeros(1, ORDER)
        record["kind"], record["order_id"], record["aux"] = action, order_id, order_id
        for name, value in values.items():
            record[name] = value
        return record[0]

    def touch(self, instrument: Instrument) -> tuple[int, int]:
        ticker = self.venue.get(f"/fapi/v1/ticker/bookTicker?symbol={instrument.symbol}").json()
        return tuple(int(Decimal(ticker[key]).scaleb(instrument.price_exp)) for key in ("bidPrice", "askPrice"))  # type: ignore[return-value]

    def resting(self, instrument: Instrument = BTC) -> np.void:
        """A new buy order far below the market."""
        self.number += 1
        price = self.touch(instrument)[0] * 97 // 100 // instrument.tick_size * instrument.tick_size
        return self.order(
            OrderAction.NEW, self.number, instrument=instrument.index, side=1, price=price, size=10,
            time_in_force=TimeInForce.GTX,
        )

    def taking(self, instrument: Instrument = BTC, side: int = 1, size: int = 3) -> np.void:
        """An order that is filled at once."""
        self.number += 1
        touch = self.touch(instrument)[1 if side > 0 else 0]
        price = touch * (1000 + 3 * side) // 1000 // instrument.tick_size * instrument.tick_size
        return self.order(
            OrderAction.NEW, self.number, instrument=instrument.index, side=side, price=price, size=size,
            time_in_force=TimeInForce.IOC,
        )

    def perform(self, order: np.void) -> list[tuple[ReportKind, int, Reason]]:
        answers = self.client.perform(order)
        return [(ReportKind(int(a["kind"][0])), int(a["order_id"][0]), Reason(int(a["reason"][0]))) for a in answers]

    def open_at_venue(self) -> set[str]:
        return {order["clientOrderId"] for order in self.venue.state()["open_orders"]}


@contextmanager
def desk_on(venue: RunningVenue, name: str) -> Iterator[Desk]:
    """A desk with a session of its own by the name of a test; afterwards nothing rests and no fault is left."""
    session = hashlib.sha256(name.encode()).hexdigest()[:8]

    def before_order() -> None:
        if made.gate:
            raise made.gate[0]
        made.passed += 1

    address = venue.address
    client = TradingClient(
        Endpoints(address.rest_url, address.ws_url), Credentials(address.api_key, address.secret), [BTC, ETH], session,
        before_order, 1000, 1000, Budget.of_own(venue_limits(), lambda: python_monotonic_ns() + made.ahead_ns),
    )
    made = Desk(venue, client)
    yield made
    client.close()
    requests.delete(address.rest_url + "/bot4/faults", timeout=10)
    with SignedKill(address) as kill:
        for instrument in (BTC, ETH):
            kill.call("DELETE", "/fapi/v1/allOpenOrders", symbol=instrument.symbol)


class SignedKill:
    """A hand-signed session as a context."""

    def __init__(self, address: Any) -> None:
        self._session = SignedSession(
            address.rest_url, Credentials(address.api_key, address.secret), own_budget()
        )

    def __enter__(self) -> SignedSession:
        return self._session

    def __exit__(self, *exception: object) -> None:
        self._session.close()


def reconcile(desk: Desk, opening: bool) -> np.void:
    order = desk.order(OrderAction.RECONCILE)
    order["aux"] = int(opening)
    return order


def trade_ids(reports: list[np.ndarray]) -> list[int]:
    return [int(one["trade_id"][0]) for one in reports if one["kind"][0] == ReportKind.FILL]


def venue_fills(desk: Desk, order_ids: list[int]) -> list[dict]:
    texts = {desk.client.ids.text(number) for number in order_ids}
    names = {
        order["orderId"] for instrument in (BTC, ETH) for order in all_orders(desk, instrument)
        if order["clientOrderId"] in texts
    }
    return [fill for fill in desk.venue.state()["fills"] if fill["orderId"] in names]


def all_orders(desk: Desk, instrument: Instrument) -> list[dict]:
    with SignedKill(desk.venue.address) as session:
        answer: list[dict] = session.call("GET", "/fapi/v1/allOrders", symbol=instrument.symbol, limit=1000)
        return answer


Script = Callable[[str, str], tuple[int, bytes]]


class ScriptedServer:
    """Answers what the test says, and keeps what it was asked."""

    def __init__(self, answer: Script) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                path, _, query = self.path.partition("?")
                outer.requests.append((self.command, path, dict(parse_qsl(query)) | dict(parse_qsl(body))))
                status, content = answer(self.command, path)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_PUT = _serve

            def log_message(self, format: str, *arguments: Any) -> None:
                """Keep the terminal quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def client_of(
    server: ScriptedServer, before_order: Callable[[], None] = lambda: None, prefix: str = "",
    budget: Budget | None = None,
) -> TradingClient:
    return TradingClient(
        Endpoints(server.url + prefix, ""), Credentials(KEY, SECRET), [BTC, ETH], SESSION, before_order, 1000, 1000,
        budget or own_budget(),
    )


def new_order(order_id: int = 1) -> np.void:
    order = np.zeros(1, ORDER)
    order["kind"], order["order_id"] = OrderAction.NEW, order_id
    order["side"], order["price"], order["size"] = 1, 100, 5
    return order[0]
