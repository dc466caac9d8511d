"""The admin pages' socket: a bounded number of connections, and certificates that can change."""

import asyncio
import socket
import ssl
from typing import cast

from aiohttp import web

from weighbridge.address import HostPort

# Connections that may be open at once: viewers, scrapers and probes, and not a descriptor more.
MOST_CONNECTIONS = 128
# A connection that has asked nothing by then is closed, s.
SILENT_SECONDS = 10.0
BACKLOG = 128


class AdminPort:
    """Listens for an application's server; each connection is counted."""

    def __init__(
        self,
        server: web.Server,
        most: int = MOST_CONNECTIONS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._server = server
        self._most = most
        self._silent_seconds = silent_seconds
        # All that are open, the one that was heard of longest ago first; whether it has spoken.
        self._visitors: dict[Visitor, bool] = {}
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._visitors)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that it listens on."""
        return () if self._listener is None else tuple(self._listener.sockets)

    async def listen(self, where: HostPort, tls: ssl.SSLContext | None) -> None:
        """Listens. OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, *_, address = found[0]
        made = socket.create_server(
            cast("tuple[str, int]", address), family=family, backlog=BACKLOG
        )
        made.setblocking(False)
        self._socket = made
        await self.show(tls)

    async def show(self, tls: ssl.SSLContext | None) -> None:
        """Shows these certificates to connections from now on; open ones go on as they are."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        # The socket listens all the while, through one descriptor or the other.
        listener = await loop.create_server(
            lambda: Visitor(self), sock=self._socket.dup(), ssl=tls, backlog=BACKLOG
        )
        former, self._listener = self._listener, listener
        if former is not None:
            former.close()

    def close(self) -> None:
        """Listens no more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def inner(self) -> asyncio.Protocol:
        """What answers one connection."""
        return self._server()

    def came(self, visitor: "Visitor") -> None:
        """A newcomer: where all places are taken, the one heard of longest ago makes room."""
        if self.connections >= self._most:
            next(iter(self._visitors)).leave()
        self._visitors[visitor] = False
        asyncio.get_running_loop().call_later(self._silent_seconds, self._is_late, visitor)

    def spoke(self, visitor: "Visitor") -> None:
        """The connection has sent something."""
        if visitor in self._visitors:
            del self._visitors[visitor]
            self._visitors[visitor] = True

    def went(self, visitor: "Visitor") -> None:
        """The connection is closed."""
        self._visitors.pop(visitor, None)

    def _is_late(self, visitor: "Visitor") -> None:
        if self._visitors.get(visitor) is False:
            visitor.leave()


class Visitor(asyncio.Protocol):
    """One connection: hands everything on to the HTTP server."""

    def __init__(self, port: AdminPort) -> None:
        self._port = port
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None

    def leave(self) -> None:
        """Ends the connection at once."""
        self._port.went(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It came."""
        self._transport = cast("asyncio.Transport", transport)
        self._port.came(self)
        self._inner = self._port.inner()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """It asks."""
        self._port.spoke(self)
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """It asks no more."""
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went."""
        self._port.went(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """It reads too slowly."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._inner is not None:
            self._inner.resume_writing()
