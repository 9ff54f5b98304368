"""WebSockets between a session and its venue, in virtual time: frames arrive in order, each after a drawn delay.

A socket that is cut loses what is still on its way; one that was silenced stays open and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from procs.embedded.fanout import Listener
from procs.embedded.venue import Venue
from procs.virtual.loop import Loop
from procs.virtual.wire import MS, Wire

_POLL_NS = 20 * MS


class SocketOwner(Protocol):
    """The client's side."""

    def on_frame(self, data: bytes) -> None:
        """A frame has come."""

    def on_lost(self) -> None:
        """The connection has broken."""


class Socket(Listener):
    """One connection, as the venue and the client see it."""

    def __init__(self, wire: Wire, owner: SocketOwner, root: str, is_combined: bool):
        super().__init__(root, is_combined)
        self._wire = wire
        self._owner = owner
        self._arrived_ns = 0  # no frame arrives before the one before it
        self.closed = False
        self.is_open = False  # the client has seen the handshake
        self.heard_ns = wire.loop.now_ns

    def send(self, frame: bytes) -> None:
        """The venue sends a frame."""
        if not self.silent and not self.closed:
            self._in_order(lambda: self._take(frame))

    def _in_order(self, action: Callable[[], None]) -> None:
        self._arrived_ns = max(self._arrived_ns, self._wire.loop.now_ns + self._wire.latency_ns())
        self._wire.loop.at(self._arrived_ns, action)

    def _take(self, frame: bytes) -> None:
        if not self.closed:
            self.heard_ns = self._wire.loop.now_ns
            self._owner.on_frame(frame)

    def cut(self) -> None:
        """The venue drops the connection; the client notices a little later."""
        if not self.closed:
            self.close()
            if self.is_open:
                self._wire.loop.after(self._wire.latency_ns(), self._owner.on_lost)

    def open(self, done: Callable[[Socket | None], None]) -> None:
        """The venue's side of the handshake is done; frames come after it."""

        def arrive() -> None:
            self.is_open = not self.closed
            done(self if self.is_open else None)

        self._in_order(arrive)

    def close(self) -> None:
        """The client lets go."""
        self.closed = True
        self._wire.venue.hub.leave(self)


def connect(
    wire: Wire, owner: SocketOwner, root: str, streams: Iterable[str], is_combined: bool, patience_ns: int,
    done: Callable[[Socket | None], None], events: frozenset[str] = frozenset(),
) -> None:
    """Open a connection under a root (public, market, private); `done` gets it, or None when that fails."""
    loop: Loop = wire.loop
    venue: Venue = wire.venue
    give_up_ns = loop.now_ns + patience_ns

    def arrive() -> None:
        if venue.faults.lasting("gone"):
            loop.after(wire.latency_ns(), lambda: done(None))
            return
        met = venue.treatment("GET", f"/{root}/ws", root)
        if met.dead_end:
            if loop.now_ns < give_up_ns:
                loop.after(_POLL_NS, lambda: arrive() if venue.faults.half_open(root) else done(None))
            else:
                done(None)
        elif not met.carried_out:
            loop.after(wire.latency_ns(), lambda: done(None))
        else:
            socket = Socket(wire, owner, root, is_combined)
            socket.events = events
            venue.hub.join(socket, streams)
            socket.open(done)

    loop.after(wire.latency_ns(), arrive)
