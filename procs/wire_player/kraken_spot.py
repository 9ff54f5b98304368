"""Kraken spot, v1 and v2, as the player speaks them.

Books are kept as the texts of the wire, cut to the subscribed depth after each update: Kraken's checksum is over texts.
A snapshot for a late v1 subscriber holds price, volume and time of every level as they came last; one of v2 carries the
checksum of the last recorded message, which is that of the same book. Of v2 `Depth` of REST tells the same book, sizes
cut to 3 decimals as there, and the list of pairs is accepted as a subscription that has nothing to tell unless frames
of it were recorded.
Source: Kraken Spot WebSockets v1 "book", "subscribe"; v2 "book", "instrument", "Subscribe"; REST "Get Order Book". No
session of v2 is among the recordings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any

import orjson

from procs.venues.kraken_spot.instruments import v1_symbol
from procs.wire_player.kraken import KrakenVenue, loads, texts
from procs.wire_player.listing import asset_pairs
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import Answer, Listener, Reading, last_part

_DEPTH = 10  # where a request names none
_REST_DEPTH = 100
_REST_SIZE = Decimal("0.001")
_LISTING = "instrument"  # the channel that is of all pairs


def _cut(bids: dict[str, Any], asks: dict[str, Any], depth: int) -> None:
    """Forget what is deeper than so many levels."""
    for side, worst in ((bids, min), (asks, max)):
        while len(side) > depth:
            del side[worst(side, key=Decimal)]


class _KrakenSpot(KrakenVenue):
    """What both versions share."""

    listing_name = "AssetPairs"

    def listing(self) -> bytes:
        """See the base."""
        return asset_pairs(self.instruments)


class KrakenSpotV1(_KrakenSpot):
    """Arrays of data, objects of events; see the module."""

    def __init__(self) -> None:
        super().__init__("KRAKEN_SPOT_V1")
        # By stream: channel id, then by side and price text: the whole level.
        self._books: dict[str, tuple[int, dict[str, list[str]], dict[str, list[str]]]] = {}

    def read(self, frame: bytes) -> Reading:
        """See the base."""
        message = loads(frame)
        if isinstance(message, list) and len(message) >= 4 and texts(message[-2:]) == message[-2:]:
            return Reading(What.FRAME, f"{message[-2]} {message[-1]}")
        if isinstance(message, dict) and message.get("event") not in (None, "heartbeat"):
            name, pair = message.get("channelName"), message.get("pair")
            is_accepted = message.get("status") == "subscribed" and isinstance(name, str) and isinstance(pair, str)
            return Reading(What.REPLY, f"{name} {pair}" if is_accepted else "")
        return Reading(What.FRAME, "")

    def greets(self, frame: bytes) -> bool:
        """See the base."""
        message = loads(frame)
        return isinstance(message, dict) and message.get("event") == "systemStatus"

    def keep(self, item: Item) -> None:
        """See the base."""
        channel = item.stream.partition(" ")[0]
        if not channel.startswith("book-"):
            return
        number, *payloads = loads(item.data)[:-2]
        merged = {key: levels for payload in payloads if isinstance(payload, dict) for key, levels in payload.items()}
        if "as" in merged:
            self._books[item.stream] = (
                number, {level[0]: level for level in merged["bs"]}, {level[0]: level for level in merged["as"]}
            )
            return
        book = self._books.get(item.stream)
        if book is None:
            return
        for key, side in (("b", book[1]), ("a", book[2])):
            for level in merged.get(key, ()):
                side.pop(level[0], None)
                if Decimal(level[1]):
                    side[level[0]] = level[:3]  # without the mark of a level that is told again
        _cut(book[1], book[2], int(channel.removeprefix("book-")))

    def late_snapshot(self, stream: str) -> bytes:
        """See the base."""
        book = self._books.get(stream)
        if book is None:
            return b""
        asks = [book[2][price] for price in sorted(book[2], key=Decimal)]
        bids = [book[1][price] for price in sorted(book[1], key=Decimal, reverse=True)]
        return orjson.dumps([book[0], {"as": asks, "bs": bids}, *stream.split(" ", 1)])

    def answer(self, listener: Listener, text: bytes) -> list[bytes]:
        """See the base."""
        request = loads(text)
        request = request if isinstance(request, dict) else {}
        number = {"reqid": request["reqid"]} if "reqid" in request else {}
        event, asked = request.get("event"), request.get("subscription")
        if event == "ping":
            return [orjson.dumps({"event": "pong"} | number)]
        if event not in ("subscribe", "unsubscribe") or not isinstance(asked, dict):
            return [orjson.dumps({"errorMessage": "Malformed request", "event": "error"} | number)]
        name = str(asked.get("name", ""))
        if name == "book":
            name += f"-{asked.get('depth', _DEPTH)}"
        frames: list[bytes] = []
        for pair in texts(request.get("pair")):
            stream = f"{name} {pair}"
            if not self.known(stream):
                frames.append(orjson.dumps(
                    {"errorMessage": f"Not in this recording: {stream}", "event": "subscriptionStatus", "pair": pair,
                     "status": "error", "subscription": asked} | number
                ))
                continue
            recorded = self.acknowledged.get(stream) or orjson.dumps(
                {"channelName": name, "event": "subscriptionStatus", "pair": pair, "status": "subscribed",
                 "subscription": asked}
            )
            if event == "subscribe":
                frames += [orjson.dumps(loads(recorded) | number) if number else recorded, self.late_snapshot(stream)]
                listener.streams.add(stream)
            else:
                frames.append(orjson.dumps(loads(recorded) | {"status": "unsubscribed"} | number))
                listener.streams.discard(stream)
        return [frame for frame in frames if frame]


class KrakenSpotV2(_KrakenSpot):
    """Objects with a channel; see the module."""

    def __init__(self) -> None:
        super().__init__("KRAKEN_SPOT_V2")
        self._depths: dict[str, int] = {}  # of the recorded book, by stream
        self._books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self._last: dict[str, dict[str, Any]] = {}  # checksum and time of the last message, by stream

    def read(self, frame: bytes) -> Reading:
        """See the base."""
        message = loads(frame)
        if not isinstance(message, dict):
            return Reading(What.FRAME, "")
        channel, data = message.get("channel"), message.get("data")
        if channel == _LISTING:
            return Reading(What.FRAME, f"{_LISTING} ")
        if isinstance(channel, str) and channel not in ("status", "heartbeat"):
            first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
            return Reading(What.FRAME, f"{channel} {first['symbol']}" if "symbol" in first else "")
        if channel == "heartbeat":
            return Reading(What.FRAME, "")
        result = message.get("result")
        if message.get("method") == "subscribe" and message.get("success") is True and isinstance(result, dict):
            return Reading(What.REPLY, f"{result.get('channel')} {result.get('symbol', '')}")
        return Reading(What.REPLY, "")

    def greets(self, frame: bytes) -> bool:
        """See the base."""
        message = loads(frame)
        return isinstance(message, dict) and message.get("channel") == "status"

    def learn(self, item: Item) -> None:
        """See the base."""
        super().learn(item)
        if item.what is What.REPLY and item.stream.startswith("book "):
            self._depths.setdefault(item.stream, int(loads(item.data)["result"].get("depth", _DEPTH)))

    def keep(self, item: Item) -> None:
        """See the base."""
        if not item.stream.startswith("book "):
            return
        # Numbers stay texts: a float would lose the zeros that the checksum is over.
        message = json.loads(item.data, parse_float=str, parse_int=str)
        data = message["data"][0]
        if message.get("type") == "snapshot":
            self._books[item.stream] = ({}, {})
        book = self._books.get(item.stream)
        if book is None:
            return
        for key, side in (("bids", book[0]), ("asks", book[1])):
            for level in data.get(key, ()):
                if Decimal(level["qty"]):
                    side[level["price"]] = level["qty"]
                else:
                    side.pop(level["price"], None)
        _cut(book[0], book[1], self._depths.get(item.stream, _DEPTH))
        self._last[item.stream] = data

    def late_snapshot(self, stream: str) -> bytes:
        """See the base."""
        book = self._books.get(stream)
        if book is None:
            return b""
        sides = (
            ",".join(f'{{"price":{price},"qty":{side[price]}}}' for price in sorted(side, key=Decimal, reverse=falls))
            for side, falls in ((book[0], True), (book[1], False))
        )
        last = self._last[stream]
        time = f',"timestamp":"{last["timestamp"]}"' if "timestamp" in last else ""
        text = '{{"channel":"book","type":"snapshot","data":[{{"symbol":{},"bids":[{}],"asks":[{}],"checksum":{}{}}}]}}'
        return text.format(json.dumps(stream.partition(" ")[2]), *sides, last.get("checksum", 0), time).encode()

    def answer(self, listener: Listener, text: bytes) -> list[bytes]:
        """See the base."""
        request = loads(text)
        request = request if isinstance(request, dict) else {}
        number = {"req_id": request["req_id"]} if "req_id" in request else {}
        method, params = request.get("method"), request.get("params")
        if method == "ping":
            return [orjson.dumps({"method": "pong"} | number)]
        if method not in ("subscribe", "unsubscribe") or not isinstance(params, dict):
            return [orjson.dumps({"error": "Malformed request", "success": False} | number)]
        frames: list[bytes] = []
        if params.get("channel") == _LISTING:
            (listener.streams.add if method == "subscribe" else listener.streams.discard)(f"{_LISTING} ")
            result = {"channel": _LISTING, "snapshot": False}
            return [orjson.dumps({"method": method, "result": result, "success": True} | number)]
        for symbol in texts(params.get("symbol")):
            stream = f"{params.get('channel')} {symbol}"
            depth = params.get("depth", _DEPTH)
            if not self.known(stream) or self._depths.get(stream, depth) != depth:
                refusal = {"error": f"Not in this recording: {stream}", "method": method, "success": False}
                frames.append(orjson.dumps(refusal | {"symbol": symbol} | number))
                continue
            recorded: dict[str, Any] = loads(self.acknowledged.get(stream, b"")) or {
                "method": "subscribe", "result": {"channel": params.get("channel"), "symbol": symbol}, "success": True
            }
            frames.append(self._acknowledgement(stream, recorded, method, number))
            if method == "subscribe":
                if params.get("snapshot", True):
                    frames.append(self.late_snapshot(stream))
                listener.streams.add(stream)
            else:
                listener.streams.discard(stream)
        return [frame for frame in frames if frame]

    def rest(self, path: str, query: Mapping[str, str], now_ns: int) -> Answer:
        """See the base; a book as it stands, by the pair's name on v1 with or without its slash."""
        if last_part(path) != "Depth":
            return super().rest(path, query, now_ns)
        pair = query.get("pair", "").replace("/", "")
        book = next((book for stream, book in self._books.items()
                     if v1_symbol(stream.partition(" ")[2]).replace("/", "") == pair), None)  # fmt: skip
        if book is None:
            return Answer(200, b'{"error":["EQuery:Unknown asset pair"]}')
        count, seconds = query.get("count", ""), now_ns // 1_000_000_000
        most = int(count) if count.isascii() and count.isdigit() else _REST_DEPTH
        sides = {
            name: [
                [price, str(Decimal(side[price]).quantize(_REST_SIZE, ROUND_DOWN)), seconds]
                for price in sorted(side, key=Decimal, reverse=falls)[:most]
            ]
            for name, side, falls in (("asks", book[1], False), ("bids", book[0], True))
        }
        return Answer(200, orjson.dumps({"error": [], "result": {pair: sides}}))

    def _acknowledgement(self, stream: str, recorded: dict[str, Any], method: str, number: dict[str, Any]) -> bytes:
        """As recorded where nothing of it is another client's."""
        if method == "subscribe" and recorded.get("req_id") == number.get("req_id") and stream in self.acknowledged:
            return self.acknowledged[stream]
        frame = {key: value for key, value in recorded.items() if key != "req_id"}
        return orjson.dumps(frame | {"method": method} | number)
