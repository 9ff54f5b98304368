"""The sockets of a market, kept open: whoever takes market data is told of every frame and of every loss.

A socket that opens is sent what its market wants to be asked, and counts as open once everything was accepted: a venue
may refuse a subscription and go on sending heartbeats. What is refused, or not answered in time, and a socket that is
dead by the rule of its market (`connection_rule`), is given up and opened again, later each time (procs/back_off.py).

A message may come in fragments (RFC 6455, 5.4) and is passed on whole. Data that are no whole message, since it is too
long, the connection ended within it or its fragments are out of place, are passed on as they came, to be refused and
kept by whoever decodes: what was received is accepted or in quarantine. So are binary messages, which no venue sends.

Of each socket there may be several copies, to be open at once with the same subscription. Then an arbiter
(procs/arbiter.py) passes on the first copy of every frame, in the order of the venue's own numbers, and data are lost
only when the last copy that was in service is. All callbacks come from the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import picows

from procs.arbiter import Arbiter
from procs.back_off import Pace
from procs.venues.binance_usdm.signed import tls_context
from procs.venues.market import Market, Request, Socket
from procs.venues.subscriptions import Subscriptions

_ANSWER_NS = 10_000_000_000
_WATCH_S = 1.0
_LATE_S = 0.01
_HANDSHAKE_S = 3.0
_LONGEST_ANSWER = 4096  # bytes; what is longer is data
# Bytes. The longest that venues send are listings, below one MiB; a segment of the journal takes twice this.
LONGEST_MESSAGE = 8 << 20
_NS = 1_000_000_000
BOOKS = 0  # the number of the socket that carries the books
_DATA = (picows.WSMsgType.TEXT, picows.WSMsgType.BINARY, picows.WSMsgType.CONTINUATION)


class _Connection(picows.WSListener):
    """One socket for as long as it is open."""

    def __init__(self, owner: MarketSockets, number: int, copy: int = 0) -> None:
        self._owner = owner
        self._number = number
        self._copy = copy
        self.transport: picows.WSTransport | None = None
        self.subscriptions = Subscriptions()
        self.opened_ns = self.heard_ns = self.last_frame_ns = owner.now_ns()
        self._asked_ns = self.opened_ns  # when an answer was waited for last
        self._begun: bytearray | None = None  # a message whose last fragment has not come
        self._broken = ""  # what was wrong with a message; nothing is taken after it

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """The socket is open: ask for what it is there for."""
        self.transport = transport
        self._owner.opened(self._number, self._copy, self)
        self.send(self._owner.sockets[self._number].requests)

    def send(self, requests: Iterable[Request]) -> None:
        """Send requests and remember which answers must come."""
        assert self.transport is not None
        for request in requests:
            if request.wanted:
                self._asked_ns = self._owner.now_ns()
            self.subscriptions.ask(request.wanted)
            self._owner.on_sent(self._number, request.frame)
            self.transport.send(picows.WSMsgType.TEXT, request.frame)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Called by the event loop for every frame; the answer to a ping only says that the socket is alive."""
        self.heard_ns = self._owner.now_ns()
        kind = frame.msg_type
        if self._broken:
            return
        # An arbiter may drop the last one of those that have arrived, and nobody would hear of the others.
        self._owner.more = not frame.last_in_buffer and not self._owner.arbiters
        if kind == picows.WSMsgType.TEXT and frame.fin and self._begun is None:
            self._take(frame.get_payload_as_bytes())
        elif kind in _DATA:
            self._take_piece(kind == picows.WSMsgType.CONTINUATION, frame.fin, frame.get_payload_as_bytes())
            if self._broken:
                transport.send_close(picows.WSCloseCode.PROTOCOL_ERROR, self._broken)
                transport.disconnect()
        elif kind == picows.WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Nothing more comes: what a message had begun with is all there is of it."""
        if self._begun is not None:
            self._break("the connection ended within a message")

    def _take(self, data: bytes) -> None:
        """A message."""
        self.last_frame_ns = self.heard_ns
        if self.subscriptions.pending and len(data) <= _LONGEST_ANSWER:
            self.subscriptions.take(self._owner.market.answer(data))
        self._owner.came(self._number, self._copy, data)

    def _take_piece(self, goes_on: bool, is_last: bool, data: bytes) -> None:
        """A fragment, or a whole message that is not text; goes_on: it is no first one."""
        if goes_on != (self._begun is not None):
            self._break("a message goes on that has not begun" if goes_on else "a message begins within another", data)
            return
        begun = self._begun = self._begun if self._begun is not None else bytearray()
        if len(begun) + len(data) > LONGEST_MESSAGE:
            self._break(f"a message is longer than {LONGEST_MESSAGE} bytes", data)
            return
        begun += data
        if is_last:
            self._begun = None
            self._take(bytes(begun))

    def _break(self, why: str, data: bytes = b"") -> None:
        """No message comes of what has begun, nor of `data`: pass both on to be refused, and take nothing more."""
        self._broken = why
        self._owner.broken_messages += 1
        begun, self._begun = self._begun or b"", None
        for part in (bytes(begun), data):
            if part:
                self._owner.came(self._number, self._copy, part)

    @property
    def in_service(self) -> bool:
        """Whether everything that was asked for is accepted and something has come."""
        return self.subscriptions.complete() and self.last_frame_ns > self.opened_ns

    def fault(self, now_ns: int) -> str:
        """Why this socket is of no use, in words; empty while it is."""
        rule = self._owner.market.connection_rule
        if self._broken:
            return self._broken
        if now_ns - self.heard_ns > rule.silence_s * _NS:
            return f"nothing was heard for {rule.silence_s:.0f} s"
        if now_ns - self.last_frame_ns > rule.quiet_s * _NS:
            return f"no data for {rule.quiet_s:.0f} s"
        asked = self.subscriptions
        if refused := [*(f"{item.channel} of {item.symbol}: {why}" for item, why in asked.refused.items())]:
            return f"refused: {', '.join(refused)}"
        if asked.unexplained:
            return f"refused: {', '.join(asked.unexplained)}"
        if asked.pending and now_ns - self._asked_ns > _ANSWER_NS:
            return f"{len(asked.pending)} subscriptions were not answered"
        return ""


class MarketSockets:
    """See the module. `tasks` keep the sockets open for as long as they run.

    on_frame(number of the socket, bytes); on_lost(number): the socket was closed, or could not be opened.
    on_opened(number): it is open, and nothing was sent or received yet; on_sent(number, bytes): they are about to be.
    make_arbiter: of a socket of which there are `copies`; called once a socket.
    """

    def __init__(
        self,
        market: Market,
        sockets: Sequence[Socket],
        on_frame: Callable[[int, bytes], None],
        on_lost: Callable[[int], None],
        now_ns: Callable[[], int],
        say: Callable[[str], None],
        on_opened: Callable[[int], None] = lambda number: None,
        on_sent: Callable[[int, bytes], None] = lambda number, data: None,
        copies: int = 1,
        make_arbiter: Callable[[], Arbiter] | None = None,
    ) -> None:
        """Raises ValueError for several copies without somebody who arbitrates between them."""
        if copies > 1 and make_arbiter is None:
            raise ValueError("several copies of a socket need an arbiter")
        self.market = market
        self.sockets = tuple(sockets)
        self.copies = copies
        self.on_frame = on_frame
        self.on_sent = on_sent
        self.now_ns = now_ns
        self.more = False  # whether the frame that `on_frame` is told of is followed by others that have arrived
        self.losses = 0  # of data
        self.copy_losses = 0  # of a copy while another one was in service
        self.broken_messages = 0  # see the module; each ends its connection
        self.arbiters = [make_arbiter() for _ in sockets] if copies > 1 and make_arbiter is not None else []
        self._on_opened = on_opened
        self._on_lost = on_lost
        self._say = say
        self._pace = Pace(market.connection_rule, len(self.sockets) * copies)
        self._open: dict[tuple[int, int], _Connection] = {}
        self._told = [""] * len(self.sockets)  # the fault that was said last of each, so that it is said once

    @property
    def open_count(self) -> int:
        """Sockets that are open, every copy counted."""
        return len(self._open)

    @property
    def counts(self) -> list[int]:
        """What procs/feed_counts.py names of sockets, in that order."""
        arbitrated = [sum(counts) for counts in zip(*(arbiter.counts for arbiter in self.arbiters), strict=True)]
        return [
            self.open_count, self.losses, self.copy_losses, *(arbitrated or [0, 0, 0, 0]), self.broken_messages,
        ]

    @property
    def all_open(self) -> bool:
        """Whether a copy of every socket is open with everything that was asked for accepted."""
        return all(self.is_open(number) for number in range(len(self.sockets)))

    def is_open(self, number: int) -> bool:
        """Whether a copy of a socket is open with everything that was asked for accepted."""
        return any(connection.subscriptions.complete() for connection in self._copies(number))

    def _copies(self, number: int) -> list[_Connection]:
        """The copies of a socket that are open."""
        return [connection for (place, _), connection in self._open.items() if place == number]

    def send(self, requests: Iterable[Request]) -> bool:
        """Send over a copy of the socket that carries the books; False while none is open."""
        connections = self._copies(BOOKS)
        if not connections:
            return False
        connections[0].send(requests)
        return True

    def opened(self, number: int, copy: int, connection: _Connection) -> None:
        """Called by a connection when it stands."""
        is_first = not self._copies(number)
        self._open[number, copy] = connection
        if self.arbiters:
            self.arbiters[number].opened(copy)
        if is_first:
            self._on_opened(number)

    def came(self, number: int, copy: int, data: bytes) -> None:
        """Called by a connection for every frame of text."""
        if not self.arbiters:
            self.on_frame(number, data)
            return
        for frame in self.arbiters[number].take(copy, data, self.now_ns()):
            self.on_frame(number, frame)

    def tasks(self) -> set[asyncio.Task[None]]:
        """Start keeping every socket open; the tasks, for the caller to cancel."""
        keeping = {
            asyncio.create_task(self._keep(number, copy))
            for number in range(len(self.sockets)) for copy in range(self.copies)
        }
        return keeping | {asyncio.create_task(self._pass_on_late())} if self.arbiters else keeping

    async def _keep(self, number: int, copy: int) -> None:
        """Keep one copy of a socket open."""
        slot, url = number * self.copies + copy, self.sockets[number].url
        while True:
            while wait_ns := self._pace.wait_ns(slot, self.now_ns()):
                await asyncio.sleep(wait_ns / _NS)
            self._pace.tried(self.now_ns())
            fault, useful_ns = "", 0
            try:
                transport, connection = await picows.ws_connect(
                    lambda: _Connection(self, number, copy), url, websocket_handshake_timeout=_HANDSHAKE_S,
                    max_frame_size=LONGEST_MESSAGE, ssl_context=tls_context() if url.startswith("wss:") else None,
                )
                watcher = asyncio.create_task(self._watch(transport, connection))
                try:
                    await transport.wait_disconnected()
                finally:
                    self._open.pop((number, copy), None)
                    watcher.cancel()
                fault = connection.fault(self.now_ns())
                useful_ns = connection.last_frame_ns - connection.opened_ns
            except picows.WSProtocolError as error:
                self.broken_messages += 1
                fault = str(error)
            except (TimeoutError, OSError, picows.WSError) as error:
                fault = type(error).__name__
            self._pace.ended(slot, self.now_ns(), useful_ns)
            self._tell(number, fault)
            self._lost(number, copy)

    def _lost(self, number: int, copy: int) -> None:
        """A copy is not open: that is a loss of data unless another one is in service."""
        if any(connection.in_service for connection in self._copies(number)):
            self.copy_losses += 1
            for frame in self.arbiters[number].lost(copy):
                self.on_frame(number, frame)
            return
        self.losses += 1
        self._on_lost(number)
        still_open = [other for place, other in self._open if place == number]
        if self.arbiters:
            self.arbiters[number].begin_again()
            for other in still_open:
                self.arbiters[number].opened(other)
        if still_open:  # a copy that had brought nothing yet: with it begins what comes
            self._on_opened(number)

    async def _pass_on_late(self) -> None:
        """Pass on what an arbiter has held back for long enough."""
        while True:
            await asyncio.sleep(_LATE_S)
            for number, arbiter in enumerate(self.arbiters):
                for frame in arbiter.late(self.now_ns()):
                    self.on_frame(number, frame)

    async def _watch(self, transport: picows.WSTransport, connection: _Connection) -> None:
        """Ask a socket that says nothing whether it is there, and close one that is of no use."""
        ping_ns = int(self.market.connection_rule.ping_s * _NS)
        while not connection.fault(now_ns := self.now_ns()):
            if ping_ns and now_ns - connection.heard_ns > ping_ns:
                transport.send_ping()
            await asyncio.sleep(_WATCH_S)
        transport.disconnect()

    def _tell(self, number: int, fault: str) -> None:
        if fault and fault != self._told[number]:
            self._say(f"{self.sockets[number].url.partition('?')[0]}: {fault}")
        self._told[number] = fault
