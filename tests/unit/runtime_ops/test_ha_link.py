"""Two heartbeats over real sockets on loopback, under uvloop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time

import pytest
import uvloop

from gateway.contract import Endpoint
from gateway.ha.heartbeat import DownReason, Heartbeat, PeerDown, PeerUp, Settings
from gateway.ha.message import Advertised, Role
from gateway.runtime.ha_link import Event, HaLink


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
    def __init__(self, name: str, local: Endpoint, remote: Endpoint, mark: int | None = None) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.core = Heartbeat(Settings(local, remote, name, b"the secret of the pair", interval=0.05), SystemRandom())
        self.link = HaLink(self.core, local, self.events.put_nowait, mark)

    async def next_event(self) -> Event:
        return await asyncio.wait_for(self.events.get(), 5)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("mark", [None, 0x67770001])
def test_up_told_down_and_up_again(host: str, mark: int | None):
    if mark is not None and os.geteuid() != 0:
        pytest.skip("SO_MARK needs CAP_NET_ADMIN")

    async def run() -> None:
        one, two = (Endpoint(host, port) for port in free_ports(host))
        a, b = Side("gw-a", one, two, mark), Side("gw-b", two, one, mark)
        await a.link.open()
        await b.link.open()
        assert isinstance(await a.next_event(), PeerUp) and isinstance(await b.next_event(), PeerUp)
        b.link.advertise(Advertised(Role.ACTIVE, epoch=3))
        deadline = time.monotonic() + 5
        while (told := a.core.peer_advertised) is None or told.epoch != 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        stopped = time.monotonic()
        b.link.close()
        assert await a.next_event() == PeerDown(DownReason.SILENCE)
        assert time.monotonic() - stopped < 1.0
        again = Side("gw-b", two, one, mark)
        await again.link.open()
        event = await a.next_event()
        assert isinstance(event, PeerUp) and event.name == "gw-b"
        status = a.core.status(time.monotonic())
        assert status.round_trip is not None and status.round_trip < 0.5
        a.link.close()
        again.link.close()

    uvloop.run(run())


def test_an_address_in_use_is_an_error_at_once():
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            local = Endpoint(*taken.getsockname())
            with pytest.raises(OSError, match="in use"):
                await Side("gw-a", local, local).link.open()

    uvloop.run(run())
