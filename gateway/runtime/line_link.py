"""One connection that carries lines: bytes to lines, a turn of the loop for some of them, and limits both ways.

Not a protocol: what the lines mean is its owner's affair. The loop never gets more than LINES_AT_ONCE of them at a time, so
that timers and datagrams come between; while an owner holds the link, the other end keeps what it has to say.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from typing import Protocol, cast

LINE_LIMIT = 16 * 1024 * 1024
LINES_AT_ONCE = 32
WRITE_HIGH = 1024 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class Owner(Protocol):
    """Who has the link. All in the loop's thread."""

    def link_made(self, link: LineLink) -> None: ...

    def link_lines(self, link: LineLink, lines: list[bytes]) -> None:
        """Some that came together, LINES_AT_ONCE at most."""

    def link_lost(self, link: LineLink) -> None: ...

    def link_full(self, link: LineLink, full: bool) -> None:
        """The other end does not read as fast as it is told; and later: it does again."""


class LineLink(asyncio.Protocol):
    """Strangers are refused before their first line: the other end is of our own user, or root."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._lines: deque[bytes] = deque()
        self._held = False
        self._taking = False

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from asyncio's
        if not _ours(transport.get_extra_info("socket")):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        self._owner.link_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.link_lost(self)

    def pause_writing(self) -> None:
        self._owner.link_full(self, True)

    def resume_writing(self) -> None:
        self._owner.link_full(self, False)

    def data_received(self, data: bytes) -> None:
        *lines, rest = (bytes(self._buffer) + data).split(b"\n") if self._buffer else data.split(b"\n")
        self._buffer[:] = rest
        if len(self._buffer) > LINE_LIMIT:
            self.abort()
        self._lines.extend(lines)
        if not self._taking:
            self._take_some()

    def eof_received(self) -> bool:
        return False

    # ---- the owner's side ----

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, line: bytes) -> bool:
        """One line, without its end. False: the link is going."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(line + b"\n")
        return True

    def send_bounded(self, line: bytes) -> bool:
        """As `send`; but a link that does not drain is given up. False: the line is lost, and another link follows."""
        if self._transport is not None and self._transport.get_write_buffer_size() > WRITE_HIGH:
            self.abort()
        return self.send(line)

    def hold(self, held: bool) -> None:
        """Read nothing for a while."""
        self._held = held
        if held and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        elif not held and not self._taking:
            self._take_some()

    def close(self) -> None:
        """After what was said is through."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take_some(self) -> None:
        """Meanwhile the other end keeps what it says."""
        self._taking = False
        if self._held:
            return
        if some := [self._lines.popleft() for _ in range(min(LINES_AT_ONCE, len(self._lines)))]:
            self._owner.link_lines(self, some)
        if self.closing:
            self._lines.clear()
        elif self._lines and not self._held:
            assert self._transport is not None
            self._transport.pause_reading()
            self._taking = True
            asyncio.get_running_loop().call_soon(self._take_some)
        elif not self._held:
            assert self._transport is not None
            self._transport.resume_reading()


async def listen(owner: Owner, path: str) -> asyncio.AbstractServer:
    """A UNIX socket, 0600 from its first moment."""
    mask = os.umask(0o177)
    try:
        return await asyncio.get_running_loop().create_unix_server(lambda: LineLink(owner), path)
    finally:
        os.umask(mask)


def _ours(peer: socket.socket) -> bool:
    _, uid, _ = _PEER_CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size))
    return uid in (0, os.geteuid())
