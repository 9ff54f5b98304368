"""The listening socket of the venue: it can be shut, so that connections are refused, and opened again.

While it is shut the port stays bound by a socket that does not listen: nobody else can take it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aiohttp import web


class Door:
    """One address that serves a web.Server. Raises OSError where the address cannot be had."""

    def __init__(self, server: web.Server, host: str, port: int):
        self._server = server
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family: int = found[0]
        self._address: tuple[Any, ...] = found[4]
        self._listening: asyncio.AbstractServer | None = None
        self._bound = self._bind()
        self.port: int = self._bound.getsockname()[1]
        self._address = (self._address[0], self.port, *self._address[2:])

    def _bind(self) -> socket.socket:
        bound = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(self._address)
        except OSError:
            bound.close()
            raise
        return bound

    async def open(self) -> None:
        """Accept connections."""
        self._listening = await asyncio.get_running_loop().create_server(self._server, sock=self._bound)

    def shut(self) -> None:
        """Refuse connections and cut those there are."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self._bound = self._bind()
        for handler in list(self._server.connections):
            if handler.transport is not None:
                handler.transport.abort()

    def close(self) -> None:
        """Give the port back; connections go on."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        else:
            self._bound.close()
