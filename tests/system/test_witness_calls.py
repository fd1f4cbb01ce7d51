"""The daemon's way to a witness in the cloud, over real HTTP: what it asks is answered once, and a release is not cut off at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clouds import AzureServer, azure
from support.heartbeat_network import SeededRandom

from gateway.config.load import load_text
from gateway.config.model import Config
from gateway.ha.witness import Answer, Ask, Free, Granted, Held, Operation
from gateway.runtime.witness_calls import WitnessCalls

pytestmark = pytest.mark.system
TTL = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azure(tmp_path_factory.mktemp("azure")) as running:
        yield running


def config(server: AzureServer, name: str, blob: str) -> Config:
    loaded = load_text(
        f'[gateway]\nname = "{name}"\n[ha]\nlocal_address = "10.0.1.4"\nremote_address = "10.0.1.5"\nsecret.file = "x"\n'
        f'[ha.witness]\nkind = "azure-blob"\nurl = "{server.url}/blob/pairs/{blob}"\nimds_url = "{server.url}"\nttl = "{TTL}s"\n'
    )
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config


class Calls:
    """One gateway's, and its answers as they come."""

    def __init__(self, server: AzureServer, name: str, blob: str, seed: int) -> None:
        self.answers: asyncio.Queue[tuple[int, Answer]] = asyncio.Queue()
        self.calls = WitnessCalls(None, SeededRandom(seed), lambda *answer: self.answers.put_nowait(answer))
        self.calls.configure(config(server, name, blob), Path())
        self._ticket = 0

    async def ask(self, operation: Operation, epoch: int = 0) -> Answer:
        self._ticket += 1
        self.calls.ask(Ask(self._ticket, operation, epoch, TTL))
        ticket, answer = await asyncio.wait_for(self.answers.get(), 5)
        assert ticket == self._ticket
        return answer

    async def acquire(self, epoch: int) -> Granted:
        async with asyncio.timeout(10):
            while not isinstance(answer := await self.ask(Operation.ACQUIRE, epoch), Granted):
                await asyncio.sleep(TTL / 3)
            return answer


def test_a_release_that_is_under_way_arrives_though_everything_ends(server: AzureServer) -> None:
    async def scene() -> None:
        one, two = Calls(server, "gw-a", "released", 1), Calls(server, "gw-b", "released", 2)
        try:
            granted = await one.acquire(1)
            assert isinstance(await two.ask(Operation.READ), Held)
            server.misbehave({"kind": "slow", "method": "PUT", "match": "/blob/", "seconds": 0.5})
            one.calls.ask(Ask(1000, Operation.RELEASE, granted.epoch, TTL))
            await one.calls.close()
            assert isinstance(await two.ask(Operation.READ), Free)
            assert one.answers.empty(), "nobody listens any more"
        finally:
            server.misbehave()
            await two.calls.close()

    asyncio.run(scene())


def test_a_reload_that_leaves_the_place_alone_keeps_what_is_known(server: AzureServer) -> None:
    async def scene() -> None:
        one = Calls(server, "gw-a", "kept", 3)
        try:
            granted = await one.acquire(1)
            one.calls.configure(config(server, "gw-a", "kept"), Path())
            assert await one.ask(Operation.RENEW, granted.epoch) == Granted(granted.epoch, TTL)
            one.calls.configure(config(server, "gw-a", "elsewhere"), Path())
            assert not isinstance(await one.ask(Operation.RENEW, granted.epoch), Granted)
        finally:
            await one.calls.close()

    asyncio.run(scene())
