"""Requests for market data of Kraken spot, and the answers to them.

v1 answers every pair of a request with a frame of its own; v2 likewise with every symbol. Both refuse one by one.
Depths of a book are 10, 25, 100, 500 and 1000 levels a side. By itself v2 tells a ticker when there was a trade; it is
asked for whenever the best bid or offer changes. Source: Kraken Spot WebSocket v2, "Book", "Ticker (Level 1)".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from procs.venues.subscriptions import Answer, Wanted

BOOK_DEPTHS = (10, 25, 100, 500, 1000)


def _check_depth(depth: int) -> None:
    if depth not in BOOK_DEPTHS:
        raise ValueError(f"a Kraken book has {', '.join(map(str, BOOK_DEPTHS))} levels a side, not {depth}")


def subscribe_v1(channel: str, symbols: Sequence[str], depth: int = 0) -> tuple[bytes, tuple[Wanted, ...]]:
    """(the frame to send, what it asks for): `channel` is book, trade, ticker or spread; symbols as in XBT/USD.

    Raises ValueError for a book of another depth than the venue has.
    """
    subscription: dict[str, Any] = {"name": channel}
    name = channel
    if channel == "book":
        _check_depth(depth)
        subscription["depth"] = depth
        name = f"book-{depth}"
    frame = orjson.dumps({"event": "subscribe", "pair": list(symbols), "subscription": subscription})
    return frame, tuple(Wanted(name, symbol) for symbol in symbols)


def subscribe_v2(
    channel: str, symbols: Sequence[str], request: int, depth: int = 0
) -> tuple[bytes, tuple[Wanted, ...]]:
    """(the frame to send, what it asks for): `channel` is book, trade or ticker; symbols as in BTC/USD.

    request: the number that the answers repeat. Raises ValueError as subscribe_v1.
    """
    params: dict[str, Any] = {"channel": channel, "symbol": list(symbols), "snapshot": True}
    if channel == "book":
        _check_depth(depth)
        params["depth"] = depth
    if channel == "ticker":
        params["event_trigger"] = "bbo"
    frame = orjson.dumps({"method": "subscribe", "params": params, "req_id": request})
    return frame, tuple(Wanted(channel, symbol) for symbol in symbols)


def answer_v1(frame: bytes) -> Answer | None:
    """What a frame says of a subscription; None for any other frame."""
    message = _object(frame)
    if message.get("event") == "error":
        return Answer((), False, str(message.get("errorMessage", "error")))
    if message.get("event") != "subscriptionStatus":
        return None
    subscription = message.get("subscription")
    subscription = subscription if isinstance(subscription, dict) else {}
    channel = message.get("channelName") or subscription.get("name")
    if channel == "book":  # a refusal names no channel with its depth
        channel = f"book-{subscription.get('depth', 10)}"
    pair = message.get("pair")
    wanted = (Wanted(channel, pair),) if isinstance(channel, str) and isinstance(pair, str) else ()
    accepted = message.get("status") == "subscribed"
    return Answer(wanted, accepted, "" if accepted else str(message.get("errorMessage", message.get("status"))))


def answer_v2(frame: bytes, requests: Mapping[int, Sequence[Wanted]]) -> Answer | None:
    """What a frame says of a subscription; None for any other frame.

    requests: what was asked for under each number. A refusal repeats that number, but not always channel and symbol.
    """
    message = _object(frame)
    if "channel" in message or message.get("method") not in (None, "subscribe"):
        return None
    if "success" not in message and "error" not in message:
        return None
    result = message.get("result")
    result = result if isinstance(result, dict) else {}
    channel, symbol = result.get("channel"), result.get("symbol", message.get("symbol"))
    if channel == "instrument":  # it is of all pairs
        wanted: tuple[Wanted, ...] = (Wanted(channel, ""),)
    elif isinstance(channel, str) and isinstance(symbol, str):
        wanted = (Wanted(channel, symbol),)
    else:
        number = message.get("req_id")
        asked = requests.get(number, ()) if isinstance(number, int) else ()
        wanted = tuple(item for item in asked if symbol in (None, item.symbol))
    accepted = message.get("success") is True
    return Answer(wanted, accepted, "" if accepted else str(message.get("error", "refused")))


def _object(frame: bytes) -> dict[str, Any]:
    """The object that a frame is; empty for anything else."""
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return {}
    return message if isinstance(message, dict) else {}
