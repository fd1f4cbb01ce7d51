"""The connections of a listener that anybody may come to: so many, and each for as long as there is somebody at the other end.

    more than MOST              the one whose client has kept us waiting longest goes; where all of them wait for us, the new one
    an answer that nobody reads is given up after PATIENCE seconds
    no request                  aiohttp's keepalive_timeout, which holds before the first one as well

So who holds connections, and does nothing with them, costs few descriptors and keeps no probe away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

MOST = 32
PATIENCE = 10.0
"""Seconds, which is also how long Prometheus waits for an answer unless told otherwise (scrape_timeout)."""


class Connections:
    """Makes the protocols for `create_server`: aiohttp's, which `made` makes, within limits."""

    def __init__(self, made: Callable[[], asyncio.Protocol], most: int = MOST, patience: float = PATIENCE) -> None:
        self.made, self.patience = made, patience
        self.cut = {"full": 0, "unread": 0}
        """Connections that were ended, by why."""
        self._most = most
        self._open: set[_Connection] = set()
        self._waiting: dict[_Connection, None] = {}  # for their clients, the longest one first

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)

    @web.middleware
    async def attend(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """While an answer is made the client waits for us."""
        connection = request.transport.get_protocol() if request.transport is not None else None
        if not isinstance(connection, _Connection):
            return await handler(request)
        self._waiting.pop(connection, None)
        try:
            return await handler(request)
        finally:
            if connection in self._open:
                self._waiting[connection] = None

    def admit(self, connection: _Connection) -> bool:
        if len(self._open) >= self._most:
            self.cut["full"] += 1
            longest = next(iter(self._waiting), None)
            if longest is None:
                return False
            longest.abort()
        self._open.add(connection)
        self._waiting[connection] = None
        return True

    def forget(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Stands before aiohttp's protocol; the transport is the same."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, made)  # uvloop's is none by its class
        if not self._connections.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # whatever the kernel does not take counts as not read
        self._inner = self._connections.made()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        self._unread = asyncio.get_running_loop().call_later(self._connections.patience, self._give_up)
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._rest()
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        self._connections.forget(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def abort(self) -> None:
        """Whatever is still to be written is lost."""
        self._connections.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def _give_up(self) -> None:
        self._connections.cut["unread"] += 1
        self.abort()

    def _rest(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
