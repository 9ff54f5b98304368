"""What the player has to know of a venue: which stream a frame belongs to, what requests are answered, how books are
kept. A venue learns from a first pass over the recording (`learn`), then sees every item as it is played (`see`), as it
was recorded: what faults do to it happens on the way to the clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from engine.instruments import Instrument
from procs.captures import CaptureError
from procs.wire_player.sequence import Item, What

Sides = tuple[dict[str, str], dict[str, str]]  # bids, asks


class Reading(NamedTuple):
    """What a received frame is."""

    what: What
    stream: str  # "" for everybody's
    start: int = 0  # of the event in the frame


class Answer(NamedTuple):
    """An HTTP answer. A body of None: there will be one once the player has a book of `symbol`."""

    status: int
    body: bytes | None
    symbol: str = ""
    stale: bytes | None = None  # an older body that a fault may give in its place


class Listener:
    """One client: what it has subscribed, and in which form it wants it."""

    def __init__(self, root: str = "", is_combined: bool = False) -> None:
        self.root = root
        self.is_combined = is_combined
        self.streams: set[str] = set()
        self.listen_key = ""  # of the user data stream that it listens to
        self.events: frozenset[str] = frozenset()  # wanted of that; empty: all

    def wrapped(self, stream: str, event: bytes) -> bytes:
        """A bare event of Binance in the form that this client wants."""
        return b'{"stream":"%s","data":%s}' % (stream.encode(), event) if self.is_combined else event


class PlayedVenue(ABC):
    """One venue, for one recording."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instruments: tuple[Instrument, ...] = ()  # where the recording says, or shows, what they are
        self.streams: dict[str, int] = {}  # as clients subscribe them: on which recorded connection
        self._bodies: dict[str, bytes] = {}  # recorded REST answers other than depth, by path

    # the first pass

    @abstractmethod
    def read(self, frame: bytes) -> Reading:
        """What a received frame is. Whatever cannot be understood is everybody's frame."""

    def learn(self, item: Item) -> None:
        """An item of the recording, in the first pass."""
        if item.what is What.FRAME and item.stream:
            self.streams.setdefault(self.subscribed_as(item.stream), item.connection)

    def learn_body(self, path: str, body: bytes) -> None:
        """A recorded REST answer other than a depth snapshot; the first of a path counts."""
        self._bodies.setdefault(path, body)

    @abstractmethod
    def symbol_of(self, stream: str) -> str:
        """The symbol that a stream is of; empty for none in particular."""

    def has_body(self, name: str) -> bool:
        """Whether an answer of this endpoint was recorded."""
        return name in self._bodies

    def subscribed_as(self, stream: str) -> str:
        """How a stream of the recording is called among subscriptions."""
        return stream

    # playing

    @abstractmethod
    def see(self, item: Item) -> None:
        """An item of the recording is about to be played."""

    @abstractmethod
    def open(self, path: str, query: Mapping[str, str]) -> Listener | None:
        """A client connects; None where there is no such socket."""

    def greeting(self) -> bytes:
        """What a client hears first; empty for nothing."""
        return b""

    @abstractmethod
    def answer(self, listener: Listener, text: bytes) -> list[bytes]:
        """The frames that answer what a client sent; its subscriptions are changed."""

    def is_on(self, listener: Listener, connection: int) -> bool:
        """True when a client listens to anything of a recorded connection."""
        return any(self.streams.get(name) == connection for name in listener.streams)

    def hears(self, listener: Listener, item: Item) -> bool:
        """True when an item is for a client."""
        if not item.stream:
            return self.is_on(listener, item.connection)
        return self.subscribed_as(item.stream) in listener.streams

    def wire(self, listener: Listener, item: Item) -> bytes:
        """The bytes of a frame for a client."""
        return item.data

    # REST

    @abstractmethod
    def rest(self, path: str, query: Mapping[str, str], now_ns: int) -> Answer:
        """The answer to GET. now_ns: the time of the recording."""


def last_part(path: str) -> str:
    """What of a path names the endpoint."""
    return path.rstrip("/").rpartition("/")[2]


def no_symbol(where: str) -> CaptureError:
    """A depth snapshot that cannot be given to a book."""
    return CaptureError(f"{where}: a snapshot names no symbol, and the capture holds several")
