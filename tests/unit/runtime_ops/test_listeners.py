"""The listeners follow the configuration over real sockets on loopback; what is not to be had leaves what was."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest
import uvloop
from support.snapshots import HEALTHY

from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.contract import Endpoint
from gateway.ha.beating import Arm
from gateway.ha.heartbeat import Heartbeat, Settings
from gateway.node.effects import PairTransmit
from gateway.node.pair_settings import PairSockets
from gateway.runtime.clock import boottime
from gateway.runtime.faults import Unavailable
from gateway.runtime.fd_store import Inherited
from gateway.runtime.listeners import Listeners
from gateway.runtime.randomness import SystemRandom


def config(metrics: str) -> Config:
    loaded = load_text(metrics)
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


def metrics(port: int, address: str = "127.0.0.1") -> str:
    return f'[metrics]\naddress = "{address}"\nport = {port}\n'


def heartbeat(port: int, address: str = "127.0.0.1") -> PairSockets:
    return PairSockets(heartbeats=(Endpoint(address, port),))


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def answers(port: int) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientConnectorError:
        return False


def play(scenario: Callable[[Listeners], Awaitable[None]], received: list[bytes] | None = None) -> None:
    async def run() -> None:
        held: list[bytes] = [] if received is None else received
        listeners = Listeners(lambda: HEALTHY, lambda data, _remote: held.append(data))
        try:
            await scenario(listeners)
        finally:
            await listeners.close()

    uvloop.run(run())


def test_the_metrics_listener_moves_with_a_reload_and_port_0_ends_it() -> None:
    first, second = free_port(), free_port()

    async def scenario(listeners: Listeners) -> None:
        await listeners.follow(config(metrics(first)))
        assert await answers(first)
        await listeners.follow(config(metrics(second)))
        assert (await answers(first), await answers(second)) == (False, True)
        await listeners.follow(config(metrics(second, "0.0.0.0")))
        assert await answers(second), "the new address includes the old one"
        await listeners.follow(config(metrics(0)))
        assert not await answers(second)

    play(scenario)


def test_an_address_that_is_not_to_be_had_leaves_everything_as_it_was() -> None:
    port, pair = free_port(), free_port(socket.SOCK_DGRAM)

    async def scenario(listeners: Listeners) -> None:
        await listeners.follow(config(metrics(port)))
        with pytest.raises(Unavailable, match=r"metrics listener 192\.0\.2\.1 port .*correct metrics\.address"):
            await listeners.follow(config(metrics(port, "192.0.2.1")), heartbeat(pair))
        assert await answers(port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", pair))
        both = PairSockets((Endpoint("127.0.0.1", pair),), (Endpoint("192.0.2.1", 0),))
        with pytest.raises(Unavailable, match=r"witness 192\.0\.2\.1:.*correct ha\.local_address"):
            await listeners.follow(config(metrics(port)), both)
        assert _free(pair), "what was bound before it is let go"
        with pytest.raises(Unavailable, match=r"heartbeat 192\.0\.2\.1:.*correct ha\.local_address"):
            await listeners.follow(config(metrics(port)), heartbeat(pair, "192.0.2.1"))
        assert await answers(port)

    play(scenario)


def test_a_taken_port_is_a_sentence_with_its_fix() -> None:
    async def scenario(listeners: Listeners) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            with pytest.raises(Unavailable, match=r"Address already in use; .*ss -lntup.*metrics\.port") as caught:
                await listeners.follow(config(metrics(port)))
            assert "Errno" not in str(caught.value)

    play(scenario)


def test_the_sockets_of_the_pair_open_and_close_with_the_section() -> None:
    if not _may_mark():
        pytest.skip("setting a mark needs CAP_NET_ADMIN")
    beats, asks = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    local, witness = Endpoint("127.0.0.1", beats), Endpoint("127.0.0.1", asks)

    async def scenario(listeners: Listeners) -> None:
        await listeners.follow(config(metrics(0)), PairSockets((local,), (witness,)))
        for port in (beats, asks):
            with pytest.raises(OSError, match="Address already in use"):
                _bind(port)
        listeners.send(PairTransmit(b"x", witness, witness))
        listeners.send(PairTransmit(b"y", Endpoint("127.0.0.9", asks), witness))  # by none of the sockets
        listeners.send(PairTransmit(b"z", witness, local))
        async with asyncio.timeout(5):
            while len(received) < 2:
                await asyncio.sleep(0.001)
        await listeners.follow(config(metrics(0)))
        async with asyncio.timeout(5):
            while not (_free(beats) and _free(asks)):
                await asyncio.sleep(0.001)

    received: list[bytes] = []
    play(scenario, received)
    assert sorted(received) == [b"x", b"z"]


def _free(port: int) -> bool:
    try:
        _bind(port)
    except OSError:
        return False
    return True


def _bind(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", port))


def _may_mark() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
        except PermissionError:
            return False
    return True


def test_the_metrics_listener_goes_over_to_the_next_where_it_is_configured_alike() -> None:
    port, other = free_port(), free_port()

    async def scenario() -> None:
        old = Listeners(lambda: HEALTHY, lambda data, at: None)
        await old.follow(config(metrics(port)))
        held = {name: [os.dup(fd) for fd in fds] for name, fds in old.held.items()}
        again = {name: [os.dup(fd) for fd in fds] for name, fds in held.items()}
        await old.pass_on()
        waiting = asyncio.create_task(answers(port))
        await asyncio.sleep(0.1)
        assert not waiting.done(), "let in by nobody yet"
        new = Listeners(lambda: HEALTHY, lambda data, at: None, inherited=Inherited(held))
        await new.follow(config(metrics(port)))
        assert await waiting
        await old.close()
        assert await answers(port)
        await new.close()
        elsewhere = Listeners(lambda: HEALTHY, lambda data, at: None, inherited=Inherited(again))
        await elsewhere.follow(config(metrics(other)))
        assert (await answers(port), await answers(other)) == (False, True)
        await elsewhere.close()

    uvloop.run(scenario())


def test_a_change_that_is_refused_by_somebody_else_stops_no_heartbeat_and_moves_nothing() -> None:
    port, other = free_port(), free_port()
    beats, moved = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    local, remote = Endpoint("127.0.0.1", beats), Endpoint("127.0.0.1", peer.getsockname()[1])

    async def heard() -> None:
        """Three that come from now on."""
        with suppress(BlockingIOError):
            peer.setblocking(False)
            while peer.recv(2048):
                pass
        peer.settimeout(5)
        async with asyncio.timeout(5):
            for _ in range(3):
                assert (await asyncio.to_thread(peer.recvfrom, 2048))[1][1] == beats

    async def refused(listeners: Listeners) -> None:
        async with listeners.following(config(metrics(other)), heartbeat(moved)):
            assert await answers(other)
            raise OSError("somebody else")

    async def scenario(listeners: Listeners) -> None:
        await listeners.follow(config(metrics(port)), heartbeat(beats))
        core = Heartbeat(Settings(local, remote, "gw-a", b"the secret of the pair", 0.02, 3), SystemRandom())
        core.handle_deadline(boottime())
        for effect in core.poll():
            if isinstance(effect, Arm):
                listeners.heartbeats.perform(effect)
        await heard()
        with pytest.raises(OSError, match="somebody else"):
            await refused(listeners)
        assert (await answers(port), await answers(other)) == (True, False)
        assert _free(moved)
        await heard()
        async with listeners.following(config(metrics(port)), heartbeat(moved)):
            assert not _free(beats), "not before nobody can refuse it any more"
        assert (_free(beats), _free(moved)) == (True, False)

    if not _may_mark():
        pytest.skip("setting a mark needs CAP_NET_ADMIN")
    with peer:
        play(scenario)
