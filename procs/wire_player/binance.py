"""Binance as the player speaks it: spot, USD-M and COIN-M futures, one class for the three.

Sockets: .../ws, .../ws/STREAM, .../stream?streams=A/B, SUBSCRIBE and its relatives; USD-M under /public, /market or
neither. Bare events on /ws, {"stream", "data"} on /stream: the bytes of the event are the recorded ones in both. REST:
depth, exchangeInfo, time, ping under any version.
Source: Binance spot, USD-M and COIN-M futures, "WebSocket market streams", "Market data endpoints"; for the roots the
notice "Base URL Split & Migration".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from engine.binance_listing import instrument_from_binance
from engine.ingest.kernel import is_snapshot_body
from engine.instruments import Dialect, Instrument
from engine.units import MONEY_EXP, format_units
from procs.wire_player.binance_book import PlayedBook
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import Answer, Listener, PlayedVenue, Reading, last_part

_ENVELOPE = re.compile(rb'\{"stream":"([^"\\]{1,100})","data":(?=[{\[])')
_SPEED = re.compile(r"@[0-9]+m?s$")
_PUBLIC = ("depth", "bookTicker", "trade", "rpiDepth")  # kinds under /public; all others are under /market
_EVENT_STREAMS = {"depthUpdate": "depth", "markPriceUpdate": "markPrice", "kline": "kline_{}"}
_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "USD")
_LEVELS = 1000  # of a snapshot, where none is asked for
_LIMITS = [
    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400},
    {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1200},
    {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300},
]


@lru_cache(maxsize=4096)
def without_speed(stream: str) -> str:
    """A stream's name without its update speed."""
    return _SPEED.sub("", stream)


def _event_stream(event: Any) -> str:
    """The stream that a bare event came from, without its speed; empty where it does not say."""
    if not isinstance(event, dict) or not isinstance(event.get("s"), str):
        return ""
    kind = event.get("e", "bookTicker" if "B" in event and "A" in event else "")
    if not isinstance(kind, str) or not kind:
        return ""
    name = _EVENT_STREAMS.get(kind, kind)
    if "{}" in name:
        candle = event.get("k")
        name = name.format(candle.get("i", "") if isinstance(candle, dict) else "")
    return f"{event['s'].lower()}@{name}"


class BinanceVenue(PlayedVenue):
    """See the module."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect.name)
        self.dialect = dialect
        self.books: dict[str, PlayedBook] = {}

    def read(self, frame: bytes) -> Reading:
        """See the base."""
        match = _ENVELOPE.match(frame)
        if match and frame.endswith(b"}"):
            return Reading(What.FRAME, match[1].decode(errors="replace"), match.end())
        if is_snapshot_body(frame):
            return Reading(What.SNAPSHOT, "")
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            return Reading(What.FRAME, "")
        if isinstance(message, dict) and "result" in message and "id" in message:
            return Reading(What.REPLY, "")
        if isinstance(message, dict) and isinstance(message.get("stream"), str):
            return Reading(What.FRAME, message["stream"])  # printed otherwise than the venue does: goes out whole
        return Reading(What.FRAME, _event_stream(message))

    def learn(self, item: Item) -> None:
        """See the base."""
        super().learn(item)
        if item.what is What.SNAPSHOT:
            self._book(item.stream).has_recorded = True
        elif item.stream and without_speed(item.stream).endswith("@depth"):
            self._book(item.stream.partition("@")[0].upper())

    def _book(self, symbol: str) -> PlayedBook:
        return self.books.setdefault(symbol, PlayedBook(symbol, self.dialect))

    def symbol_of(self, stream: str) -> str:
        """See the base. Names that begin with an exclamation mark are of all symbols."""
        symbol, at, _ = stream.partition("@")
        return symbol.upper() if at and not symbol.startswith("!") else ""

    def listed_instruments(self) -> tuple[Instrument, ...]:
        """The instruments of the recording as the recorded exchangeInfo describes them; none where it does not."""
        symbols = dict.fromkeys(symbol for stream in self.streams if (symbol := self.symbol_of(stream)))
        try:
            listed = {entry["symbol"]: entry for entry in orjson.loads(self._bodies["exchangeInfo"])["symbols"]}
            entries = [listed[symbol] for symbol in symbols if symbol in listed]
            return tuple(instrument_from_binance(entry, index, self.dialect) for index, entry in enumerate(entries))
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
            return ()

    def subscribed_as(self, stream: str) -> str:
        """See the base."""
        return without_speed(stream)

    def see(self, item: Item) -> None:
        """See the base."""
        if item.what is What.SNAPSHOT:
            self._book(item.stream).snapshot(item.data)
        elif item.what is What.FRAME and without_speed(item.stream).endswith("@depth"):
            event = item.data[item.start : len(item.data) - 1] if item.start else item.data
            self._book(item.stream.partition("@")[0].upper()).diff(event)

    def open(self, path: str, query: Mapping[str, str]) -> Listener | None:
        """See the base."""
        parts = [part for part in path.split("/") if part]
        place = next((index for index, part in enumerate(parts) if part in ("ws", "stream")), None)
        if place is None:
            return None
        root = next((part for part in parts[:place] if part in ("public", "market", "private")), "")
        listener = Listener(root, parts[place] == "stream")
        names = parts[place + 1 :] if parts[place] == "ws" else []
        names += [name for name in query.get("streams", "").split("/") if name]
        keys = [name for name in names if "@" not in name and not name.startswith("!")]
        listener.listen_key = query.get("listenKey", "") or (keys[0] if keys else "")
        listener.events = frozenset(name for name in query.get("events", "").split("/") if name)
        listener.streams.update(without_speed(name) for name in names if name not in keys)
        return listener

    def hears(self, listener: Listener, item: Item) -> bool:
        """See the base. On the split roots of USD-M a stream of the other root is silent."""
        if not super().hears(listener, item):
            return False
        if not listener.root or not item.stream or self.dialect != Dialect.BINANCE_USDM:
            return True
        kind = without_speed(item.stream).partition("@")[2]
        return listener.root == ("public" if kind.startswith(_PUBLIC) else "market")

    def wire(self, listener: Listener, item: Item) -> bytes:
        """See the base: the recorded bytes, out of the recorded envelope or in one of our own where need be."""
        if not listener.is_combined and item.start:
            return item.data[item.start : len(item.data) - 1]
        if listener.is_combined and item.stream and not item.start and not item.data.startswith(b'{"stream"'):
            return listener.wrapped(item.stream, item.data)
        return item.data

    def answer(self, listener: Listener, text: bytes) -> list[bytes]:
        """See the base."""
        return [orjson.dumps(self._answer(listener, text))]

    def _answer(self, listener: Listener, text: bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(text)
            method, number, values = request["method"], request.get("id"), request.get("params", [])
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return {"error": {"code": 3, "msg": "Invalid JSON: expected an object with method, params and id"}}
        if not isinstance(values, list):
            return {"error": {"code": 2, "msg": "Invalid request: params must be an array"}, "id": number}
        if method in ("SUBSCRIBE", "UNSUBSCRIBE") and all(isinstance(name, str) for name in values):
            names = {without_speed(name) for name in values}
            listener.streams = listener.streams | names if method == "SUBSCRIBE" else listener.streams - names
            return {"result": None, "id": number}
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": sorted(listener.streams), "id": number}
        if method == "SET_PROPERTY" and len(values) == 2 and values[0] == "combined":
            listener.is_combined = bool(values[1])
            return {"result": None, "id": number}
        if method == "GET_PROPERTY" and values == ["combined"]:
            return {"result": listener.is_combined, "id": number}
        return {"error": {"code": 1, "msg": f"Unknown property or method: {method}"}, "id": number}

    def rest(self, path: str, query: Mapping[str, str], now_ns: int) -> Answer:
        """See the base."""
        name = last_part(path)
        if name == "ping":
            return Answer(200, b"{}")
        if name == "time":
            return Answer(200, orjson.dumps({"serverTime": now_ns // 1_000_000}))
        if name == "exchangeInfo":
            return Answer(200, self._bodies.get(name) or self._exchange_information(now_ns))
        if name != "depth":
            return Answer(404, b'{"code":-5000,"msg":"The player has no such endpoint."}')
        book = self.books.get(query.get("symbol", ""))
        if book is None:
            return Answer(400, b'{"code":-1121,"msg":"Invalid symbol."}')
        limit = query.get("limit", "")
        levels = int(limit) if limit.isdecimal() and len(limit) < 6 else _LEVELS
        return Answer(200, book.body(levels), book.symbol, book.stale())

    def _exchange_information(self, now_ns: int) -> bytes:
        """exchangeInfo from what the frames showed; what they do not show is left out or says nothing."""
        return orjson.dumps(
            {
                "timezone": "UTC", "serverTime": now_ns // 1_000_000, "rateLimits": _LIMITS, "exchangeFilters": [],
                "symbols": [_listed(item) for item in self.instruments],
            }
        )


def _names(symbol: str, pairs: Sequence[str] = _QUOTES) -> tuple[str, str]:
    """(base, quote) of a symbol, as far as it ends in a known quote."""
    for quote in pairs:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return symbol.removesuffix(quote), quote
    return symbol, ""


def with_assets(item: Instrument) -> Instrument:
    """The instrument with its base and quote as a capture says, else as far as the symbol shows them."""
    if item.quote:
        return item
    base, quote = _names(item.symbol.partition("_")[0])
    return dataclasses.replace(item, base=base, quote=quote)


def _listed(item: Instrument) -> dict[str, Any]:
    """One symbol in the words of its market."""
    tick, lot = format_units(item.tick_size, item.price_exp), format_units(item.lot_size, item.size_exp)
    pair = item.symbol.partition("_")[0]
    base, quote = item.base, item.quote
    entry: dict[str, Any] = {
        "symbol": item.symbol, "baseAsset": base, "quoteAsset": quote, "status": "TRADING",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0", "maxPrice": "0", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "0", "stepSize": lot},
        ],
        "orderTypes": ["LIMIT", "MARKET"],
    }
    least = format_units(item.min_notional, MONEY_EXP)
    if item.dialect == Dialect.BINANCE_SPOT:
        if item.min_notional:
            entry["filters"].append({"filterType": "NOTIONAL", "minNotional": least})
        return entry | {"baseAssetPrecision": item.size_exp, "quoteAssetPrecision": item.price_exp}
    if item.min_notional:
        entry["filters"].append({"filterType": "MIN_NOTIONAL", "notional": least})
    entry |= {
        "pair": pair, "contractType": "PERPETUAL", "pricePrecision": item.price_exp,
        "quantityPrecision": item.size_exp, "marginAsset": quote,
    }
    if item.dialect == Dialect.BINANCE_COINM:
        value = item.contract_value
        contract = value // 10**MONEY_EXP if value % 10**MONEY_EXP == 0 else format_units(value, MONEY_EXP)
        entry |= {"contractStatus": entry.pop("status"), "contractSize": contract, "marginAsset": base}
    return entry
