"""Two heartbeats over real sockets on loopback, under uvloop; the node's part (draining, timing) is played here."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time

import pytest
import uvloop

from gateway.contract import Endpoint, Transmit
from gateway.ha.heartbeat import DownReason, Heartbeat, PeerDown, PeerSaid, PeerUp, Settings
from gateway.ha.message import Advertised, Role
from gateway.runtime.ha_link import HaLink


class SystemRandom:
    def octets(self, count: int) -> bytes:
        return os.urandom(count)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)


def free_ports(host: str) -> tuple[int, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as two:
        one.bind((host, 0))
        two.bind((host, 0))
        return one.getsockname()[1], two.getsockname()[1]


class Side:
    """One gateway's heartbeat on its socket."""

    def __init__(self, name: str, local: Endpoint, remote: Endpoint, mark: int | None = None) -> None:
        self.events: asyncio.Queue[PeerUp | PeerDown] = asyncio.Queue()
        self.core = Heartbeat(Settings(local, remote, name, b"the secret of the pair", interval=0.05), SystemRandom())
        self.link = HaLink(local, self._received, mark)
        self._timer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.link.open()
        self._timer = asyncio.create_task(self._keep_time())

    def stop(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self.link.close()

    def advertise(self, advertised: Advertised) -> None:
        self.core.command(advertised, time.monotonic())
        self._drain()

    async def next_event(self) -> PeerUp | PeerDown:
        return await asyncio.wait_for(self.events.get(), 5)

    def _received(self, data: bytes, remote: Endpoint) -> None:
        self.core.receive(data, remote, time.monotonic())
        self._drain()

    async def _keep_time(self) -> None:
        while True:
            self.core.handle_deadline(time.monotonic())
            self._drain()
            await asyncio.sleep(max(0.0, self.core.next_deadline() - time.monotonic()))

    def _drain(self) -> None:
        for effect in self.core.poll():
            if isinstance(effect, Transmit):
                self.link.send(effect.data, effect.remote)
            elif not isinstance(effect, PeerSaid):
                self.events.put_nowait(effect)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("mark", [None, 0x67770001])
def test_up_told_down_and_up_again(host: str, mark: int | None):
    if mark is not None and os.geteuid() != 0:
        pytest.skip("SO_MARK needs CAP_NET_ADMIN")

    async def run() -> None:
        one, two = (Endpoint(host, port) for port in free_ports(host))
        a, b = Side("gw-a", one, two, mark), Side("gw-b", two, one, mark)
        await a.start()
        await b.start()
        assert isinstance(await a.next_event(), PeerUp)
        assert isinstance(await b.next_event(), PeerUp)
        b.advertise(Advertised(Role.ACTIVE, epoch=3))
        deadline = time.monotonic() + 5
        while (told := a.core.peer_advertised) is None or told.epoch != 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        stopped = time.monotonic()
        b.stop()
        assert await a.next_event() == PeerDown(DownReason.SILENCE)
        assert time.monotonic() - stopped < 1.0
        again = Side("gw-b", two, one, mark)
        await again.start()
        event = await a.next_event()
        assert isinstance(event, PeerUp)
        assert event.name == "gw-b"
        status = a.core.status(time.monotonic())
        assert status.round_trip is not None
        assert status.round_trip < 0.5
        a.stop()
        again.stop()

    uvloop.run(run())


def test_an_address_in_use_is_an_error_at_once():
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            local = Endpoint(*taken.getsockname())
            with pytest.raises(OSError, match="in use"):
                await HaLink(local, lambda data, remote: None).open()

    uvloop.run(run())
