"""Market data of a session in virtual time: what the ingestion process does around its decoder, then the real chain
from records to predictions (procs/fused.py).

Sockets, back-off, silence, snapshots and resyncs are as in procs/ingestion.py, which does the same with asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.config import Settings
from engine.ingest.kernel import CLOCK_GRID_NS
from engine.instruments import Instrument
from engine.integrity.checked_book import SNAPSHOT_LEVELS
from procs.back_off import Pace
from procs.book_requests import BookRequests
from procs.decoding import ALL_INSTRUMENTS
from procs.embedded.venue import Reply
from procs.fused import BATCH, FusedPath
from procs.table import Role
from procs.venues.market import market_of
from procs.virtual.sockets import Socket, connect
from procs.virtual.wire import MS, Wire

_TIMER_NS = 20 * MS
_WATCH_NS = 1_000 * MS
_HANDSHAKE_NS = 3_000 * MS
_REQUEST_NS = 5_000 * MS


def _no_jitter() -> float:
    """A session in virtual time is the same each time."""
    return 1.0


class _MarketSocket:
    """Keeps one of the feed's sockets open."""

    def __init__(self, feed: Feed, number: int, url: str):
        self.feed = feed
        self.number = number
        self._opened_ns = 0
        self.socket: Socket | None = None
        self.root = url.split("/")[3]
        self.streams = url.partition("streams=")[2].split("/")

    def connect(self) -> None:
        """Try to open it, as soon as that is allowed."""
        loop = self.feed.wire.loop
        if wait_ns := self.feed.pace.wait_ns(self.number, loop.now_ns):
            loop.after(wait_ns, self.connect)
            return
        self.feed.pace.tried(loop.now_ns)
        connect(self.feed.wire, self, self.root, self.streams, True, _HANDSHAKE_NS, self._opened)

    def _opened(self, socket: Socket | None) -> None:
        self.socket = socket
        self._opened_ns = self.feed.wire.loop.now_ns
        if socket is None:
            self._again(0)

    def on_frame(self, data: bytes) -> None:
        """A frame has come."""
        self.feed.on_frame(data)

    def on_lost(self) -> None:
        """The connection has broken."""
        heard_ns = self.socket.heard_ns if self.socket is not None else self._opened_ns
        self.socket = None
        self._again(heard_ns - self._opened_ns)

    def watch(self) -> None:
        """Let go of a socket that is open, says nothing, and answers no ping."""
        silence_ns = int(self.feed.connection_rule.silence_s * 1e9)
        if self.socket is not None and self.socket.silent and (
            self.feed.wire.loop.now_ns - self.socket.heard_ns > silence_ns
        ):
            self.socket.close()
            self.on_lost()

    def _again(self, useful_ns: int) -> None:
        self.feed.on_lost(ALL_INSTRUMENTS)
        self.feed.losses += 1
        self.feed.pace.ended(self.number, self.feed.wire.loop.now_ns, useful_ns)
        self.connect()


class Feed:
    """See the module. `deliver` gets PREDICTION records, which it must copy."""

    def __init__(
        self, wire: Wire, settings: Settings, instruments: Sequence[Instrument],
        deliver: Callable[[np.ndarray], None],
    ):
        self.wire = wire
        self.path = FusedPath(settings, instruments, open_loop=False)
        self.losses = 0
        self._deliver = deliver
        self._instruments = tuple(instruments)
        market = market_of(instruments[0].dialect)
        sockets = market.sockets("ws://venue", [item.symbol for item in instruments], settings.feed)
        self.connection_rule = market.connection_rule
        self.pace = Pace(market.connection_rule, len(sockets), _no_jitter)
        self._sockets = [_MarketSocket(self, number, socket.url) for number, socket in enumerate(sockets)]
        self._requests = BookRequests(len(self._instruments), jitter=_no_jitter)
        validation, features = self.path.states[Role.VALIDATION], self.path.states[Role.FEATURES]
        self._resync_counters = (
            validation["instruments"]["resync_wanted"][0], features["flows"]["resync_wanted"][0]
        )
        self._resyncs_seen = [0] * len(self._instruments)

    def start(self) -> None:
        """Announce the instruments and connect."""
        self._pass(self.path.decoder.start(self.wire.loop.now_ns))
        for socket in self._sockets:
            socket.connect()
        self.wire.loop.every(_TIMER_NS, self._on_timer)
        self.wire.loop.every(_WATCH_NS, self._watch)

    def _pass(self, decoded: int) -> None:
        for first in range(0, decoded, BATCH):
            found = self.path.predict(first, min(BATCH, decoded - first))
            if found:
                self._deliver(self.path.predictions[:found])

    def on_frame(self, data: bytes) -> None:
        """A frame came off a socket."""
        self._pass(self.path.decoder.frame(data, self.wire.loop.now_ns))

    def on_lost(self, index: int) -> None:
        """Data of an instrument, or of all, were lost."""
        self._pass(self.path.decoder.lost(index, self.wire.loop.now_ns))

    def _watch(self) -> None:
        for socket in self._sockets:
            socket.watch()

    def _on_timer(self) -> None:
        now, decoder = self.wire.loop.now_ns, self.path.decoder
        if now // CLOCK_GRID_NS > int(decoder.state["now_ns"][0]) // CLOCK_GRID_NS:
            self._pass(decoder.timer(now))
        for index in range(len(self._instruments)):
            asked = sum(int(counter[index]) for counter in self._resync_counters)
            if asked > self._resyncs_seen[index]:
                self._resyncs_seen[index] = asked
                self.on_lost(index)
        wanted = decoder.state["snapshot_wanted"][0]
        if all(socket.socket is not None for socket in self._sockets):
            for index in range(len(self._instruments)):
                if wanted[index] and self._requests.due(index, now):
                    self._fetch(index)

    def _fetch(self, index: int) -> None:
        """Ask for a snapshot; where that does not help, the next one waits, longer each time."""
        self._requests.asked(index, self.wire.loop.now_ns)
        losses = self.losses
        answered: list[bool] = []

        def done(reply: Reply | None) -> None:
            if answered:
                return
            answered.append(True)
            now, decoder = self.wire.loop.now_ns, self.path.decoder
            if self.losses != losses:
                self._requests.forgotten(index)
                return
            if reply is not None and reply.status == 200:
                self._pass(decoder.snapshot(index, reply.body, now))
            if decoder.state["snapshot_wanted"][0, index]:
                self._requests.failed(index, now)
            else:
                self._requests.helped(index, now)

        symbol = self._instruments[index].symbol
        self.wire.send_paid("GET", f"/fapi/v1/depth?symbol={symbol}&limit={SNAPSHOT_LEVELS}", None, done)
        self.wire.loop.after(_REQUEST_NS, lambda: done(None))
