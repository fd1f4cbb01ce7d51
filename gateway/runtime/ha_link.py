"""The heartbeat's UDP socket and timer: feeds the core, sends what it says, reports up and down."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from gateway.contract import Endpoint, Transmit
from gateway.ha.heartbeat import Heartbeat, PeerDown, PeerUp
from gateway.ha.message import Advertised

Event = PeerUp | PeerDown


class HaLink:
    """One heartbeat on one socket. `on_event` is called in the event loop."""

    def __init__(
        self, heartbeat: Heartbeat, local: Endpoint, on_event: Callable[[Event], None], mark: int | None = None
    ) -> None:
        self._heartbeat = heartbeat
        self._local = local
        self._on_event = on_event
        self._mark = mark
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Binds and sends the first heartbeat. OSError: the address is not ours or taken."""
        loop = asyncio.get_running_loop()
        bound = _bound(self._local, self._mark)
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(self._received), sock=bound)
        except BaseException:
            bound.close()
            raise
        self._wake()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def advertise(self, advertised: Advertised) -> None:
        """What to tell the peer of ourselves."""
        self._heartbeat.command(advertised, time.monotonic())
        self._drain()

    def _received(self, data: bytes, remote: Endpoint) -> None:
        self._heartbeat.receive(data, remote, time.monotonic())
        self._drain()

    def _wake(self) -> None:
        self._heartbeat.handle_deadline(time.monotonic())
        self._drain()

    def _drain(self) -> None:
        if self._transport is None:
            return
        for effect in self._heartbeat.poll():
            if isinstance(effect, Transmit):
                self._transport.sendto(effect.data, effect.remote)
            else:
                self._on_event(effect)
        if self._timer is not None:
            self._timer.cancel()
        # uvloop's own clock has milliseconds only, so the delay is computed from ours.
        delay = max(0.0, self._heartbeat.next_deadline() - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)


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
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        bound.bind(local)
    except OSError:
        bound.close()
        raise
    return bound
