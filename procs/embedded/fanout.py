"""Who hears what: the listeners of the embedded venue by stream, and what faults do to frames on their way.

No sockets and no clocks: a listener is anything that takes frames. Listeners hear in the order in which they came, so
that a session in virtual time is the same each time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from engine.matching.wire import Frame, combined
from procs.embedded.faults import Faults


def root_of(path: str) -> str:
    """The root that a WebSocket path is under: public, market, private, or "" for the old one."""
    return next((part for part in path.split("/") if part in ("public", "market", "private")), "")


class Listener(ABC):
    """One client that listens. root: public, market, private, or "" for the old root.

    A silenced one stays connected and is sent nothing ever again: what a client sees of a host that has vanished.
    """

    def __init__(self, root: str, is_combined: bool):
        self.root = root
        self.is_combined = is_combined
        self.streams: set[str] = set()
        self.events: frozenset[str] = frozenset()  # user events wanted; empty: all
        self.subscription: int | None = None  # of spot's user data, whose events are wrapped with it
        self.subscriptions = 0  # so many there have been
        self.silent = False

    @abstractmethod
    def send(self, frame: bytes) -> None:
        """Take one text frame."""

    @abstractmethod
    def cut(self) -> None:
        """Drop the connection without a goodbye."""


SocketAnswer = Callable[[Listener, str | bytes], dict[str, Any]]  # to a request that came over a socket


@dataclass(frozen=True)
class Held:
    """A frame that a fault holds back."""

    due_ms: int
    stream: str
    event: str  # of the user stream; empty: market data
    payload: bytes
    is_fill: bool
    reordered: bool  # goes out as soon as the next one of its stream and kind has


class Fanout:
    """All listeners. `now_ms` is the venue's time as its last turn had it."""

    def __init__(self, faults: Faults):
        self._faults = faults
        self._by_stream: dict[str, dict[Listener, None]] = {}  # used as ordered sets
        self.connections: dict[Listener, None] = {}
        self.listen_key = ""  # the live one, which is the name of the user stream; empty: none
        self.now_ms = 0
        self._held: list[Held] = []
        self.counters = {"connections": 0, "frames_sent": 0, "slow_clients": 0, "disconnected": 0}

    def wanted(self, stream: str) -> bool:
        """Whether anybody listens to a stream."""
        return stream in self._by_stream

    def publish(self, frames: Iterable[Frame]) -> None:
        """Send market frames to whoever listens, as the faults in force let them through."""
        for stream, payload in frames:
            if stream in self._by_stream:
                symbol, _, kind = stream.partition("@")
                fault = self._faults.frame("depth", symbol.upper()) if kind.startswith("depth") else None
                self._pass(stream, "", payload, False, fault)

    def publish_user(self, event: dict[str, Any], is_fill: bool = False) -> None:
        """Send a user data event to every connection that gave the live listen key and wants the event."""
        if self.listen_key in self._by_stream:
            fault = self._faults.frame("user", is_fill=is_fill)
            self._pass(self.listen_key, event["e"], orjson.dumps(event), is_fill, fault)

    def release(self) -> None:
        """Send what faults held back long enough."""
        for held in [held for held in self._held if held.due_ms <= self.now_ms]:
            self._held.remove(held)
            self._send(held.stream, held.event, held.payload)

    def _pass(
        self, stream: str, event: str, payload: bytes, is_fill: bool, fault: tuple[str, int] | None
    ) -> None:
        fate, delay_ms = fault or ("", 0)
        if fate == "drop":
            return
        if fate in ("delay", "reorder"):
            self._held.append(Held(self.now_ms + delay_ms, stream, event, payload, is_fill, fate == "reorder"))
            return
        self._send(stream, event, payload)
        if fate == "duplicate":
            self._send(stream, event, payload)
        for held in list(self._held):
            if held.reordered and (held.stream, held.event, held.is_fill) == (stream, event, is_fill):
                self._held.remove(held)
                self._send(held.stream, held.event, held.payload)

    def _send(self, stream: str, event: str, payload: bytes) -> None:
        wrapped = b""
        for listener in list(self._by_stream.get(stream, ())):
            if event and listener.events and event not in listener.events:
                continue
            if event and listener.subscription is not None:
                listener.send(b'{"subscriptionId":%d,"event":%s}' % (listener.subscription, payload))
            elif listener.is_combined:
                wrapped = wrapped or combined(stream, payload)
                listener.send(wrapped)
            else:
                listener.send(payload)
            self.counters["frames_sent"] += 1

    def join(self, listener: Listener, streams: Iterable[str]) -> None:
        """A new connection that listens to these streams."""
        self.connections[listener] = None
        self.counters["connections"] += 1
        self.subscribe(listener, streams)

    def leave(self, listener: Listener) -> None:
        """A connection has ended."""
        self.connections.pop(listener, None)
        self.unsubscribe(listener, listener.streams)

    def subscribe(self, listener: Listener, streams: Iterable[str]) -> None:
        """Send these streams to a connection from now on."""
        for stream in streams:
            listener.streams.add(stream)
            self._by_stream.setdefault(stream, {})[listener] = None

    def unsubscribe(self, listener: Listener, streams: Iterable[str]) -> None:
        """Stop sending these streams to a connection."""
        for stream in list(streams):
            listener.streams.discard(stream)
            listeners = self._by_stream.get(stream)
            if listeners is not None:
                listeners.pop(listener, None)
                if not listeners:
                    del self._by_stream[stream]

    def chosen(self, place: str) -> list[Listener]:
        """Connections of a place: "private" those with a listen key or under /private, "public", "market", "all"."""
        return [
            item for item in self.connections
            if place in ("all", item.root) or (place == "private" and self.listen_key in item.streams)
            or (place == "public" and item.root == "" and self.listen_key not in item.streams)
        ]

    def disconnect(self, place: str) -> int:
        """Cut the connections of a place; returns how many."""
        chosen = self.chosen(place)
        for listener in chosen:
            listener.cut()
        self.counters["disconnected"] += len(chosen)
        return len(chosen)

    def silence(self, place: str) -> int:
        """Let the connections of a place fall silent for good; returns how many."""
        chosen = self.chosen(place)
        for listener in chosen:
            listener.silent = True
        return len(chosen)
