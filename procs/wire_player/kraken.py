"""What Kraken's three feeds have in common: greetings, recorded acknowledgements, books told on subscription.

A stream is `CHANNEL SYMBOL`. A subscription to what was recorded is acknowledged with the recorded frame (with the
number of the request, where the client gave one), anything else is refused. Who subscribes a book after its recorded
snapshot has been played gets one of the book as it stands.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import orjson

from procs.wire_player.sequence import Item, What
from procs.wire_player.venue import Answer, Listener, PlayedVenue, last_part


def loads(frame: bytes) -> Any:
    """The value of a frame; None for what is no JSON."""
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError:
        return None


def texts(value: Any) -> list[str]:
    """A list of strings, as a request should have it; what is no string is left out."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


class KrakenVenue(PlayedVenue):
    """See the module."""

    listing_name = ""  # of the endpoint that lists instruments

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._greeting = b""
        self.acknowledged: dict[str, bytes] = {}  # by stream: the recorded acknowledgement

    def learn(self, item: Item) -> None:
        """See the base."""
        super().learn(item)
        if item.what is What.REPLY and item.stream:
            self.acknowledged.setdefault(item.stream, item.data)
        elif item.what is What.REPLY and not self._greeting and self.greets(item.data):
            self._greeting = item.data

    def symbol_of(self, stream: str) -> str:
        """See the base."""
        return stream.partition(" ")[2]

    @abstractmethod
    def greets(self, frame: bytes) -> bool:
        """True for the frame that a new connection hears first."""

    def greeting(self) -> bytes:
        """See the base: the first one that was recorded."""
        return self._greeting

    def see(self, item: Item) -> None:
        """See the base. A frame that makes no sense changes no book; the clients get it as it is."""
        if item.what is What.FRAME:
            with contextlib.suppress(LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
                self.keep(item)

    @abstractmethod
    def keep(self, item: Item) -> None:
        """Follow the books."""

    def open(self, path: str, query: Mapping[str, str]) -> Listener | None:
        """See the base. Any path will do: a recording is of one feed."""
        return Listener()

    def known(self, stream: str) -> bool:
        """True where the recording holds a stream or its acknowledgement."""
        return stream in self.acknowledged or stream in self.streams

    @abstractmethod
    def late_snapshot(self, stream: str) -> bytes:
        """A snapshot of a book as it stands; empty where there is none to be told (yet)."""

    @abstractmethod
    def listing(self) -> bytes:
        """The venue's list of the recording's instruments, as far as a capture knows them."""

    def rest(self, path: str, query: Mapping[str, str], now_ns: int) -> Answer:
        """See the base: what was recorded under the same name, else the list of what a capture says it is of."""
        name = last_part(path)
        body = self._bodies.get(name)
        if body is None and name == self.listing_name and self.instruments:
            body = self.listing()
        if body is None:
            return Answer(404, b'{"error":["EGeneral:Unknown method"]}')
        return Answer(200, body)
