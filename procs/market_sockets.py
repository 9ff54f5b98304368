"""The sockets of a market, kept open: whoever takes market data is told of every frame and of every loss.

A socket that opens is sent what its market wants to be asked, and counts as open once everything was accepted: a venue
may refuse a subscription and go on sending heartbeats. What is refused, or not answered in time, and a socket that says
nothing for SILENCE_NS, is given up and opened again, later each time, with jitter, so that not everybody comes back at
once. All callbacks come from the event loop's thread. Known limit: instruments so quiet that their socket says nothing
for SILENCE_NS are connected anew all the time; subscribe something lively beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import picows

from procs.back_off import back_off_s
from procs.venues.market import Market, Request, Socket
from procs.venues.subscriptions import Subscriptions

# A market-data socket that says nothing for so long is taken for dead.
SILENCE_NS = 5_000_000_000
_ANSWER_NS = 10_000_000_000
# A socket that is closed earlier counts as a failure: a venue that lets in and shows out again is not to be stormed.
_STOOD_NS = 5_000_000_000
_WATCH_S = 1.0
_HANDSHAKE_S = 3.0
_LONGEST_ANSWER = 4096  # bytes; what is longer is data


class _Connection(picows.WSListener):
    """One socket for as long as it is open."""

    def __init__(self, owner: MarketSockets, number: int) -> None:
        self._owner = owner
        self._number = number
        self.transport: picows.WSTransport | None = None
        self.subscriptions = Subscriptions()
        self.opened_ns = self.last_frame_ns = owner.now_ns()
        self._asked_ns = self.opened_ns  # when an answer was waited for last

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """The socket is open: ask for what it is there for."""
        self.transport = transport
        self._owner.on_opened(self._number)
        self.send(self._owner.sockets[self._number].requests)
        self._owner.opened(self._number, self)

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
        """Called by the event loop for every frame."""
        self.last_frame_ns = self._owner.now_ns()
        if frame.msg_type == picows.WSMsgType.TEXT:
            data = frame.get_payload_as_bytes()
            if self.subscriptions.pending and len(data) <= _LONGEST_ANSWER:
                self.subscriptions.take(self._owner.market.answer(data))
            self._owner.more = not frame.last_in_buffer
            self._owner.on_frame(self._number, data)
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            transport.disconnect()

    def fault(self, now_ns: int) -> str:
        """Why this socket is of no use, in words; empty while it is."""
        if now_ns - self.last_frame_ns > SILENCE_NS:
            return f"nothing was heard for {SILENCE_NS // 10**9} s"
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
    ) -> None:
        self.market = market
        self.sockets = tuple(sockets)
        self.on_frame = on_frame
        self.on_opened = on_opened
        self.on_sent = on_sent
        self.now_ns = now_ns
        self.more = False  # whether the frame that `on_frame` is told of is followed by others that have arrived
        self.losses = 0
        self.opened_ns = 0  # when a socket was opened last
        self._on_lost = on_lost
        self._say = say
        self._open: dict[int, _Connection] = {}
        self._told = [""] * len(self.sockets)  # the fault that was said last of each, so that it is said once

    @property
    def all_open(self) -> bool:
        """Whether every socket is open and everything that was asked for is accepted."""
        return len(self._open) == len(self.sockets) and all(
            connection.subscriptions.complete() for connection in self._open.values()
        )

    def send(self, requests: Iterable[Request]) -> bool:
        """Send over the first socket, which carries the books; False while it is not open."""
        connection = self._open.get(0)
        if connection is None:
            return False
        connection.send(requests)
        return True

    def opened(self, number: int, connection: _Connection) -> None:
        """Called by a connection when it stands."""
        self._open[number] = connection
        self.opened_ns = self.now_ns()

    def tasks(self) -> set[asyncio.Task[None]]:
        """Start keeping every socket open; the tasks, for the caller to cancel."""
        return {asyncio.create_task(self._keep(number)) for number in range(len(self.sockets))}

    async def _keep(self, number: int) -> None:
        """Keep one socket open."""
        failures = 0
        while True:
            fault = ""
            try:
                transport, connection = await picows.ws_connect(
                    lambda: _Connection(self, number), self.sockets[number].url,
                    websocket_handshake_timeout=_HANDSHAKE_S, enable_auto_ping=True,
                )
                watcher = asyncio.create_task(self._watch(transport, connection))
                try:
                    await transport.wait_disconnected()
                finally:
                    self._open.pop(number, None)
                    watcher.cancel()
                fault = connection.fault(self.now_ns())
                stood_ns = self.now_ns() - connection.opened_ns
                failures = 0 if not fault and stood_ns >= _STOOD_NS else failures + 1
            except (TimeoutError, OSError, picows.WSError) as error:
                fault = type(error).__name__
                failures += 1
            self._tell(number, fault)
            self.losses += 1
            self._on_lost(number)
            await asyncio.sleep(back_off_s(failures))

    async def _watch(self, transport: picows.WSTransport, connection: _Connection) -> None:
        """Close a socket that is open and of no use."""
        while not connection.fault(self.now_ns()):
            await asyncio.sleep(_WATCH_S)
        transport.disconnect()

    def _tell(self, number: int, fault: str) -> None:
        if fault and fault != self._told[number]:
            self._say(f"{self.sockets[number].url.partition('?')[0]}: {fault}")
        self._told[number] = fault
