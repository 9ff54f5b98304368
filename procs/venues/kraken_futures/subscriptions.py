"""Requests for market data of Kraken Futures, and the answers to them.

Requests may spell products in lower case; answers and data spell them in upper case, and so do we. The venue answers
each product with a frame of its own. A refusal is an `error` or `alert` event that names neither feed nor product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from procs.venues.subscriptions import Answer, Wanted


def subscribe(feed: str, products: Sequence[str]) -> tuple[bytes, tuple[Wanted, ...]]:
    """(the frame to send, what it asks for): `feed` is book, trade, ticker or ticker_lite."""
    names = [product.upper() for product in products]
    frame = orjson.dumps({"event": "subscribe", "feed": feed, "product_ids": names})
    return frame, tuple(Wanted(feed, name) for name in names)


def answer(frame: bytes) -> Answer | None:
    """What a frame says of a subscription; None for any other frame."""
    try:
        message: Any = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict):
        return None
    if message.get("event") in ("error", "alert"):
        return Answer((), False, str(message.get("message", message["event"])))
    if message.get("event") != "subscribed":
        return None
    products = message.get("product_ids", [])
    feed = message.get("feed")
    if not isinstance(products, list) or not isinstance(feed, str):
        return None
    return Answer(tuple(Wanted(feed, product) for product in products if isinstance(product, str)), True, "")
