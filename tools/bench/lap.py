"""The source of `bench ingest`: a recording of Binance USD-M that goes round, served as the venue on loopback.

A lap is the recording from its snapshot to its end and back: its last diffs lead the book to where the snapshot had it,
in changes that never cross it, so that the first diff follows on them. What a receiver compares (the ids of diffs,
tickers and trades) rises from lap to lap, in the same digits; nothing else of a frame changes. The frames lie one
behind the other as they go over the socket, so sending costs next to nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import orjson

from engine.ingest.kernel import is_snapshot_body
from procs.journal.reader import JournalEntry
from shm.clock import sleep
from tools.bench.report import BenchError

# What both ends see, int64 words: written by the source, but for ORDER.
PORT, FRAMES, LEVELS, SNAPSHOTS, BROKEN, ORDER = range(6)
SEND, STOP, END = range(3)  # values of ORDER; at STOP the source sends nothing more, at END it goes

_CHUNK_BYTES = 1 << 17
_MOST_LEVELS = 400  # in a diff that leads back
_ROOM = 1000  # ids between the last diff and the first of the next lap
_IDS = {
    b"depthUpdate": re.compile(rb'"U":(\d+),"u":(\d+),"pu":(\d+)'),
    b"bookTicker": re.compile(rb'"u":(\d+)'),
    b"trade": re.compile(rb'"t":(\d+)'),
}
_KIND = re.compile(rb'"e":"(\w+)"')
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LOOK_S = 0.002
_SETTLED_S = 0.3  # from the snapshot to the first frame: until the receiver has it

Sides = tuple[dict[str, str], dict[str, str]]


def wire(payload: bytes) -> bytes:
    """A text frame as a server sends it."""
    if len(payload) < 126:
        return bytes((0x81, len(payload))) + payload
    if len(payload) < 1 << 16:
        return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload
    return b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload


def apply(book: Sides, bids: list[list[str]], asks: list[list[str]]) -> None:
    """Apply levels to a book of text."""
    for side, levels in zip(book, (bids, asks), strict=True):
        for price, size in levels:
            if float(size):
                side[price] = size
            else:
                side.pop(price, None)


class Lap:
    """See the module.

    snapshot  body of the depth snapshot with which the first lap begins
    frames    payloads of a lap, those of the first one
    levels    int64 by frame: levels of a diff, else 0
    """

    def __init__(self, entries: list[JournalEntry]) -> None:
        """entries: the inputs of a capture with one symbol and one snapshot. Raises BenchError."""
        payloads = [entry.payload for entry in entries if entry.payload]
        self.snapshot = next((one for one in payloads if is_snapshot_body(one)), b"")
        if not self.snapshot:
            raise BenchError("the recording has no snapshot to begin with")
        begin = orjson.loads(self.snapshot)
        told = [(one, kind[1]) for one in payloads if (kind := _KIND.search(one[:80])) and kind[1] in _IDS]
        diffs = {place: orjson.loads(one)["data"] for place, (one, kind) in enumerate(told) if kind == b"depthUpdate"}
        first = next(place for place, diff in diffs.items() if diff["u"] >= begin["lastUpdateId"])
        diffs = {place: diff for place, diff in diffs.items() if place >= first}
        self.frames = [one for one, _ in told[first:]]
        last = diffs[max(diffs)]
        self._shifts = {b"depthUpdate": last["u"] - diffs[first]["pu"] + _ROOM}
        self._shifts[b"bookTicker"] = self._shifts[b"depthUpdate"]
        trades = [int(_IDS[kind].search(one)[1]) for one, kind in told[first:] if kind == b"trade"]  # type: ignore[index]
        self._shifts[b"trade"] = max(trades) - min(trades) + 1 if trades else 0
        counts = dict.fromkeys(range(len(self.frames)), 0)
        counts |= {place - first: len(diff["b"]) + len(diff["a"]) for place, diff in diffs.items()}
        book = self.book(0)
        for diff in diffs.values():
            apply(book, diff["b"], diff["a"])
        stream = told[first][0].partition(b'"data"')[0]
        for frame, levels in self._back(book, last, stream):
            counts[len(self.frames)] = levels
            self.frames.append(frame)
        self.levels = np.array([counts[place] for place in range(len(self.frames))], np.int64)
        self._prepare()

    def _back(self, book: Sides, last: dict, stream: bytes) -> Iterator[tuple[bytes, int]]:
        """(frame, levels) of the diffs from a book to that of the snapshot: first what has to go, then what comes."""
        goal = self.book(0)
        gone = [(side, price, "0") for side in (0, 1) for price in book[side] if price not in goal[side]]
        come = [
            (side, price, size)
            for side in (0, 1) for price, size in goal[side].items()
            if book[side].get(price) != size
        ]
        parts = [part[at : at + _MOST_LEVELS] for part in (gone, come) for at in range(0, len(part), _MOST_LEVELS)]
        ids = [*range(last["u"], last["u"] + max(1, len(parts))), last["u"] + _ROOM]
        for (before, now), part in zip(pairwise(ids), parts or [[]], strict=True):
            bids, asks = ([[price, size] for side, price, size in part if side == number] for number in (0, 1))
            data = last | {"U": before + 1, "u": now, "pu": before, "b": bids, "a": asks}
            yield stream + b'"data":' + orjson.dumps(data) + b"}", len(part)

    def _prepare(self) -> None:
        """Lay the frames out as they go over the socket, and find the digits of their ids."""
        wired = [wire(payload) for payload in self.frames]
        self._wire = bytearray(b"".join(wired))
        self._bytes = np.frombuffer(self._wire, np.uint8)
        ends = np.cumsum([len(one) for one in wired])
        by_digits: dict[int, list[tuple[int, int, int]]] = {}
        for payload, end in zip(self.frames, ends.tolist(), strict=True):
            kind = _KIND.search(payload[:80])[1]  # type: ignore[index]
            found = _IDS[kind].search(payload)
            assert found is not None
            for group in range(1, len(found.groups()) + 1):
                digits = found[group]
                place = end - len(payload) + found.start(group)
                by_digits.setdefault(len(digits), []).append((place, int(digits), self._shifts[kind]))
        self._ids = {digits: np.array(rows, np.int64) for digits, rows in by_digits.items()}
        cuts = np.searchsorted(ends, np.arange(_CHUNK_BYTES, ends[-1], _CHUNK_BYTES))
        self._cuts = [0, *(np.unique(cuts) + 1).tolist()]
        if self._cuts[-1] != len(ends):
            self._cuts.append(len(ends))
        self._starts = np.concatenate(([0], ends))

    def book(self, frames: int) -> Sides:
        """The book of text after so many frames of a lap."""
        begin = orjson.loads(self.snapshot)
        book: Sides = ({}, {})
        apply(book, begin["bids"], begin["asks"])
        for payload in self.frames[:frames]:
            if b'"depthUpdate"' in payload[:80]:
                data = orjson.loads(payload)["data"]
                apply(book, data["b"], data["a"])
        return book

    def chunks(self) -> Iterator[tuple[memoryview, int, int]]:
        """(bytes, frames, levels) of lap after lap, for ever; the bytes are overwritten a lap later."""
        view = memoryview(self._wire)
        number = 0
        while True:
            for digits, rows in self._ids.items():
                values = rows[:, 1] + number * rows[:, 2]
                if int(values.max()) >= 10**digits:
                    return  # so many laps that an id needs one digit more
                for place in range(digits - 1, -1, -1):
                    self._bytes[rows[:, 0] + place] = 48 + values % 10
                    values //= 10
            for first, end in pairwise(self._cuts):
                yield view[self._starts[first] : self._starts[end]], end - first, int(self.levels[first:end].sum())
            number += 1


def serve(lap: Lap, words: np.ndarray, ready: Callable[[], None]) -> None:
    """Serve depth snapshots and one combined stream until END is ordered; the stream begins after a snapshot was given.

    Only one snapshot is given: who has lost its book afterwards gets none. BROKEN counts connections that broke.
    """
    begun = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    words[PORT] = listener.getsockname()[1]

    def stream(connection: socket.socket) -> None:
        begun.wait()
        sleep(_SETTLED_S)
        for data, frames, levels in lap.chunks():
            if words[ORDER] != SEND:
                return
            connection.sendall(data)
            words[FRAMES] += frames
            words[LEVELS] += levels

    def handle(connection: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := connection.recv(4096)):
                    return
                head += more
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
            if key is not None:
                accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC).digest())
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                )
                stream(connection)
                while words[ORDER] != END:
                    sleep(_LOOK_S)
                return
            body, status = (lap.snapshot, b"200 OK") if words[SNAPSHOTS] == 0 else (b"{}", b"503 Too Late")
            length = str(len(body)).encode()
            connection.sendall(
                b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: " + length + b"\r\n\r\n" + body
            )
            words[SNAPSHOTS] += body is lap.snapshot
            begun.set()
        except OSError:
            words[BROKEN] += words[ORDER] != END
        finally:
            connection.close()

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    ready()
    while words[ORDER] != END:
        sleep(_LOOK_S)
