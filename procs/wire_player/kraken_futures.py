"""Kraken Futures as the player speaks it: one feed and product a stream.

A snapshot for a late subscriber of a book carries the sequence number of the last recorded message, so the next update
follows on it. Late subscribers of other feeds hear what comes from then on.
Source: Kraken Futures WebSocket API, "Book", "Subscribe / Unsubscribe".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from procs.wire_player.kraken import KrakenVenue, loads, texts
from procs.wire_player.listing import contracts
from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import Listener, Reading


@dataclass
class _Book:
    sequence: int
    timestamp: int
    sides: dict[str, dict[float, float]] = field(default_factory=lambda: {"buy": {}, "sell": {}})


def _levels(side: dict[float, float], falling: bool) -> list[dict[str, float]]:
    return [{"price": price, "qty": side[price]} for price in sorted(side, reverse=falling)]


class KrakenFutures(KrakenVenue):
    """See the module."""

    listing_name = "instruments"

    def __init__(self) -> None:
        super().__init__("KRAKEN_FUTURES")
        self._books: dict[str, _Book] = {}

    def read(self, frame: bytes) -> Reading:
        """See the base."""
        message = loads(frame)
        if not isinstance(message, dict):
            return Reading(What.FRAME, "")
        feed = message.get("feed")
        if message.get("event") is not None:
            products = texts(message.get("product_ids"))
            is_accepted = message["event"] == "subscribed" and isinstance(feed, str) and len(products) == 1
            return Reading(What.REPLY, f"{feed} {products[0]}" if is_accepted else "")
        product = message.get("product_id")
        if not isinstance(feed, str) or not isinstance(product, str):
            return Reading(What.FRAME, "")
        return Reading(What.FRAME, f"{feed.removesuffix('_snapshot')} {product}")

    def listing(self) -> bytes:
        """See the base."""
        return contracts(self.instruments)

    def greets(self, frame: bytes) -> bool:
        """See the base."""
        message = loads(frame)
        return isinstance(message, dict) and message.get("event") == "info"

    def keep(self, item: Item) -> None:
        """See the base."""
        if not item.stream.startswith("book "):
            return
        message = orjson.loads(item.data)
        if message["feed"] == "book_snapshot":
            book = _Book(message["seq"], message["timestamp"])
            for side, levels in (("buy", message["bids"]), ("sell", message["asks"])):
                book.sides[side] = {level["price"]: level["qty"] for level in levels}
            self._books[item.stream] = book
            return
        known = self._books.get(item.stream)
        if known is None:
            return
        known.sequence, known.timestamp = message["seq"], message["timestamp"]
        if message["qty"]:
            known.sides[message["side"]][message["price"]] = message["qty"]
        else:
            known.sides[message["side"]].pop(message["price"], None)

    def late_snapshot(self, stream: str) -> bytes:
        """See the base."""
        book = self._books.get(stream)
        if book is None:
            return b""
        return orjson.dumps(
            {
                "feed": "book_snapshot", "product_id": stream.partition(" ")[2], "timestamp": book.timestamp,
                "seq": book.sequence, "tickSize": None, "bids": _levels(book.sides["buy"], True),
                "asks": _levels(book.sides["sell"], False),
            }
        )

    def answer(self, listener: Listener, text: bytes) -> list[bytes]:
        """See the base."""
        request: Any = loads(text)
        if not isinstance(request, dict) or request.get("event") not in ("subscribe", "unsubscribe"):
            return [b'{"event":"error","message":"Invalid request"}']
        feed = str(request.get("feed", ""))
        frames: list[bytes] = []
        for product in (name.upper() for name in texts(request.get("product_ids"))):
            stream = f"{feed} {product}"
            if not self.known(stream):
                frames.append(orjson.dumps({"event": "error", "message": f"Not in this recording: {stream}"}))
            elif request["event"] == "subscribe":
                form = {"event": "subscribed", "feed": feed, "product_ids": [product]}
                frames += [self.acknowledged.get(stream) or orjson.dumps(form), self.late_snapshot(stream)]
                listener.streams.add(stream)
            else:
                frames.append(orjson.dumps({"event": "unsubscribed", "feed": feed, "product_ids": [product]}))
                listener.streams.discard(stream)
        return [frame for frame in frames if frame]
