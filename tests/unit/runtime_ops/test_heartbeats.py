"""Two heartbeats with their real threads and sockets on loopback, under uvloop; the node's part (draining, timing) is played here."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest
import uvloop

from gateway.contract import Endpoint
from gateway.ha.beating import Arm, Once, Rest
from gateway.ha.heartbeat import DownReason, Heartbeat, PeerDown, PeerSaid, PeerUp, Settings
from gateway.ha.message import Advertised, Role
from gateway.ha.paths import Path
from gateway.runtime.clock import boottime
from gateway.runtime.heartbeats import Heartbeats
from gateway.runtime.randomness import SystemRandom

INTERVAL, DEAD_AFTER = 0.02, 3
SECRET = b"the secret of the pair"


def free_ports(host: str, count: int = 2) -> list[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
    for one in held:
        one.bind((host, 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Side:
    """One gateway's heartbeat with its thread."""

    def __init__(self, name: str, *paths: Path, mark: int | None = None) -> None:
        self.events: asyncio.Queue[PeerUp | PeerDown] = asyncio.Queue()
        self.settings = Settings(*paths[0], name, SECRET, INTERVAL, DEAD_AFTER, further=paths[1:])
        self.core = Heartbeat(self.settings, SystemRandom())
        self.beats = Heartbeats(self._received)
        self._mark = mark
        self._timer: asyncio.Task[None] | None = None

    def start(self) -> Side:
        for path in (Path(self.settings.local, self.settings.remote), *self.settings.further):
            self.beats.open(path.local, self._mark)
        self._timer = asyncio.create_task(self._keep_time())
        return self

    def hang(self) -> None:
        """For good: nothing of it is done any more, but by the thread."""
        assert self._timer is not None
        self._timer.cancel()
        self.beats._received = lambda data, at: None

    async def stop(self) -> None:
        self.hang()
        await self.beats.stop()
        await self.beats.stop()

    def advertise(self, advertised: Advertised) -> None:
        self.core.command(advertised, boottime())
        self._poll()

    async def next_event(self) -> PeerUp | PeerDown:
        async with asyncio.timeout(5):
            return await self.events.get()

    def _received(self, data: bytes, at: float) -> None:
        self.core.receive(data, boottime(), at)
        self._poll()

    async def _keep_time(self) -> None:
        while True:
            self.beats.drain()  # as Driver does it
            self.core.handle_deadline(boottime())
            self._poll()
            await asyncio.sleep(max(0.0, self.core.next_deadline() - boottime()))

    def _poll(self) -> None:
        for effect in self.core.poll():
            if isinstance(effect, Arm | Once | Rest):
                self.beats.perform(effect)
            elif not isinstance(effect, PeerSaid):
                self.events.put_nowait(effect)


async def two(host: str = "127.0.0.1", paths: int = 1, mark: int | None = None) -> tuple[Side, Side]:
    """Both up."""
    ports = free_ports(host, 2 * paths)
    there = [
        Path(Endpoint(host, one), Endpoint(host, other)) for one, other in zip(ports[::2], ports[1::2], strict=True)
    ]
    back = [Path(path.remote, path.local) for path in there]
    sides = Side("gw-a", *there, mark=mark).start(), Side("gw-b", *back, mark=mark).start()
    for side in sides:
        assert isinstance(await side.next_event(), PeerUp)
    return sides


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("mark", [None, 0x67770001])
def test_up_told_down_and_up_again(host: str, mark: int | None):
    if mark is not None and os.geteuid() != 0:
        pytest.skip("SO_MARK needs CAP_NET_ADMIN")

    async def run() -> None:
        a, b = await two(host, mark=mark)
        b.advertise(Advertised(Role.ACTIVE, epoch=3))
        deadline = time.monotonic() + 5
        while (told := a.core.peer_advertised) is None or told.epoch != 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        stopped = time.monotonic()
        await b.stop()
        assert await a.next_event() == PeerDown(DownReason.SILENCE)
        assert time.monotonic() - stopped < 0.5
        again = Side("gw-b", Path(b.settings.local, b.settings.remote), mark=mark).start()
        event = await a.next_event()
        assert isinstance(event, PeerUp)
        assert event.name == "gw-b"
        await asyncio.sleep(0.1)
        status = a.core.status(boottime())
        assert status.round_trip is not None
        assert status.round_trip < 0.05
        assert a.beats.sent > 5
        await a.stop()
        await again.stop()

    uvloop.run(run())


def test_a_busy_loop_is_no_death_to_either_side():
    """Both threads are in one process here, and the whole interpreter is busy: for eight dead times."""

    async def run() -> None:
        a, b = await two(paths=2)
        await asyncio.sleep(0.2)
        sent = a.beats.sent
        end = time.monotonic() + 8 * INTERVAL * DEAD_AFTER
        while time.monotonic() < end:
            pass
        assert a.beats.sent > sent + 2 * 8, "on both paths, all the while"
        await asyncio.sleep(0.2)
        assert a.events.empty() and b.events.empty()
        assert all(path.up and path.loss == 0 for path in a.core.paths(boottime()))
        await a.stop()
        await b.stop()

    uvloop.run(run())


def test_one_that_hangs_for_good_falls_silent():
    async def run() -> None:
        a, b = await two()
        b.hang()
        began = time.monotonic()
        event = await a.next_event()
        # It hears nobody any more, but its thread does: only the end of its time makes it silent
        assert event == PeerDown(DownReason.SILENCE)
        assert 0.75 < time.monotonic() - began < 2.0
        await a.stop()
        await b.stop()

    uvloop.run(run())


def test_a_path_that_goes_and_comes_back_never_repeats_a_number():
    async def run() -> None:
        host = "127.0.0.1"
        ours, second, peer = free_ports(host, 3)
        seen: list[bytes] = []
        with socket.socket(type=socket.SOCK_DGRAM) as there:
            there.bind((host, peer))
            there.setblocking(False)

            async def listen(seconds: float) -> int:
                end, before = time.monotonic() + seconds, len(seen)
                while time.monotonic() < end:
                    try:
                        seen.append(there.recv(1024))
                    except BlockingIOError:
                        await asyncio.sleep(0.005)
                return len(seen) - before

            paths = [Path(Endpoint(host, port), Endpoint(host, peer)) for port in (ours, second)]
            side = Side("gw-a", *paths).start()
            assert await listen(0.2) > 10
            side.core.configure(Settings(*paths[0], "gw-a", SECRET, INTERVAL, DEAD_AFTER))
            side._poll()
            await listen(0.05)
            begun = len(seen)
            await listen(0.2)
            assert {data[6] for data in seen[begun:]} == {0}, "the second path rests"
            side.beats.close(paths[0].local)
            await listen(0.05)
            assert await listen(0.4) == 0, "also when the core, which does not know, arms it again"
            side.beats.open(paths[0].local, None)
            side.core.configure(side.settings)
            side._poll()
            assert await listen(0.2) > 10
            await side.stop()
        assert {data[6] for data in seen} == {0, 1}
        heads = [data[:36] for data in seen]
        assert len(heads) == len(set(heads))

    uvloop.run(run())


def test_an_address_in_use_is_an_error_at_once():
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            local = Endpoint(*taken.getsockname())
            beats = Heartbeats(lambda data, at: None)
            with pytest.raises(OSError, match=r"heartbeat .*in use"):
                beats.open(local, None)
            beats.perform(Rest(0))
            beats.drain()
            assert beats.sent == 0
            await beats.stop()

    uvloop.run(run())
