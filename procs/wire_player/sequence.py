"""What a recording is made of: things with a time, a connection and an ordinal, in the order in which they came."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class What(Enum):
    """What an item is."""

    FRAME = "frame"  # market data or a heartbeat, received
    REPLY = "reply"  # received too: a greeting, or the answer to a request
    SNAPSHOT = "snapshot"  # the body of a REST depth snapshot
    REFUSED = "refused"  # the body of an HTTP 429 in the place of a snapshot; made by a fault
    DISCONNECT = "disconnect"  # the connection breaks; recorded, or made by a fault
    CONNECT = "connect"  # it can be made again


class Item(NamedTuple):
    """One thing of a recording, or one that a fault has made."""

    ts_ns: int  # Unix time of its receipt
    connection: int  # which of the recorded connections, from 0
    what: What
    data: bytes  # as it was on the wire; empty for what is no message
    ordinal: int  # from 1 (0: read only for the books, not played), of the recorded thing that this is or comes of
    stream: str  # what has to be subscribed for it, "" for everybody's; of a snapshot: the symbol
    start: int = 0  # where in data the event begins, behind the envelope that names the stream
