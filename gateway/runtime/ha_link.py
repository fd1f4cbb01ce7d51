"""The UDP socket towards the witness (gateway/ha/witness_link.py). Heartbeats have their own: heartbeats.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from gateway.contract import Endpoint
from gateway.runtime.faults import explained, listening
from gateway.runtime.marking import mark_option


class HaLink:
    """One socket, marked like everything of ours that must leave by the main table."""

    def __init__(self, local: Endpoint, received: Callable[[bytes, Endpoint], None], mark: int | None = None) -> None:
        self._local = local
        self._received = received
        self._mark = mark
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> None:
        """Binds. OSError: the address is not ours or taken."""
        with explained(f"witness {self._local}", listening("ha", "local_address")):
            made = bound(self._local, self._mark)
        loop = asyncio.get_running_loop()
        with ExitStack() as unless_taken:
            unless_taken.callback(made.close)
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(self._received), sock=made)
            unless_taken.pop_all()

    def send(self, data: bytes, remote: Endpoint) -> None:
        if self._transport is not None:
            self._transport.sendto(data, (remote.host, remote.port))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Endpoint], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._received(data, Endpoint(addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """An ICMP error or a full queue: questions are lost then, and asked again."""


def bound(local: Endpoint, mark: int | None) -> socket.socket:
    """A marked socket of one of our addresses; OSError when that cannot be had."""
    family = socket.AF_INET6 if ":" in local.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        made.setblocking(False)
        if mark is not None:
            made.setsockopt(*mark_option(mark))
        made.bind((local.host, local.port))
    except OSError:
        made.close()
        raise
    return made
