"""The heartbeat's UDP socket. The heartbeat itself is the node's (gateway/ha/heartbeat.py)."""

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
        with explained(f"heartbeat {self._local}", listening("ha", "local_address")):
            bound = _bound(self._local, self._mark)
        loop = asyncio.get_running_loop()
        with ExitStack() as unless_taken:
            unless_taken.callback(bound.close)
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(self._received), sock=bound)
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
        """An ICMP error or a full queue: heartbeats are lost then, and silence is what the core measures."""


def _bound(local: Endpoint, mark: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in local.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        if mark is not None:
            bound.setsockopt(*mark_option(mark))
        bound.bind((local.host, local.port))
    except OSError:
        bound.close()
        raise
    return bound
