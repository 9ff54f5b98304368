"""Market data of a session in virtual time: what the ingestion process does around its decoder, then the real chain
from records to predictions (procs/fused.py).

Sockets, back-off, silence, snapshots and resyncs are as in procs/ingestion.py, which does the same with asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from engine.config import Settings
from engine.ingest.kernel import CLOCK_GRID_NS
from engine.instruments import Instrument
from procs.back_off import LADDER_S
from procs.decoding import ALL_INSTRUMENTS
from procs.embedded.venue import Reply
from procs.fused import BATCH, FusedPath
from procs.market_sockets import SILENCE_NS
from procs.table import Role
from procs.venues.binance import SNAPSHOT_LEVELS
from procs.venues.market import market_of
from procs.virtual.sockets import Socket, connect
from procs.virtual.wire import MS, Wire

_TIMER_NS = 20 * MS
_WATCH_NS = 1_000 * MS
_HANDSHAKE_NS = 3_000 * MS
_REQUEST_NS = 5_000 * MS


def _back_off_ns(failures: int) -> int:
    return int(LADDER_S[min(failures, len(LADDER_S) - 1)] * 1e9)


class _MarketSocket:
    """Keeps one of the feed's sockets open."""

    def __init__(self, feed: Feed, url: str):
        self.feed = feed
        self.failures = 0
        self.socket: Socket | None = None
        self.root = url.split("/")[3]
        self.streams = url.partition("streams=")[2].split("/")

    def connect(self) -> None:
        """Try to open it."""
        connect(self.feed.wire, self, self.root, self.streams, True, _HANDSHAKE_NS, self._opened)

    def _opened(self, socket: Socket | None) -> None:
        self.socket = socket
        if socket is None:
            self.failures += 1
            self._again()
        else:
            self.failures = 0

    def on_frame(self, data: bytes) -> None:
        """A frame has come."""
        self.feed.on_frame(data)

    def on_lost(self) -> None:
        """The connection has broken."""
        self.socket = None
        self._again()

    def watch(self) -> None:
        """Let go of a socket that is open and says nothing."""
        if self.socket is not None and self.feed.wire.loop.now_ns - self.socket.heard_ns > SILENCE_NS:
            self.socket.close()
            self.on_lost()

    def _again(self) -> None:
        self.feed.on_lost(ALL_INSTRUMENTS)
        self.feed.losses += 1
        self.feed.wire.loop.after(_back_off_ns(self.failures), self.connect)


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
        sockets = market_of(instruments[0].dialect).sockets("ws://venue", instruments, settings.feed)
        self._sockets = [_MarketSocket(self, socket.url) for socket in sockets]
        self._fetching: set[int] = set()
        self._failures = [0] * len(self._instruments)
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
                if wanted[index] and index not in self._fetching:
                    self._fetch(index)

    def _fetch(self, index: int) -> None:
        """Ask for a snapshot; a failure is retried later, further apart each time."""
        self._fetching.add(index)
        losses = self.losses
        answered: list[bool] = []

        def done(reply: Reply | None) -> None:
            if answered:
                return
            answered.append(True)
            if self.losses != losses:
                self._fetching.discard(index)
            elif reply is None or reply.status != 200:
                self._failures[index] += 1
                self.wire.loop.after(_back_off_ns(self._failures[index]), partial(self._fetching.discard, index))
            else:
                self._failures[index] = 0
                self._fetching.discard(index)
                self._pass(self.path.decoder.snapshot(index, reply.body, self.wire.loop.now_ns))

        symbol = self._instruments[index].symbol
        self.wire.send_paid("GET", f"/fapi/v1/depth?symbol={symbol}&limit={SNAPSHOT_LEVELS}", None, done)
        self.wire.loop.after(_REQUEST_NS, lambda: done(None))
