"""The socket towards the witness, on loopback, under uvloop."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from gateway.contract import Endpoint
from gateway.runtime.ha_link import HaLink


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_datagram_goes_and_one_comes(host: str):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    async def run() -> None:
        got: asyncio.Queue[tuple[bytes, Endpoint]] = asyncio.Queue()
        with socket.socket(family, socket.SOCK_DGRAM) as witness:
            witness.bind((host, 0))
            witness.settimeout(5)
            link = HaLink(Endpoint(host, 0), lambda data, remote: got.put_nowait((data, remote)))
            link.send(b"too early", Endpoint(host, 1))
            await link.open()
            there = Endpoint(host, witness.getsockname()[1])
            link.send(b"question", there)
            data, source = await asyncio.to_thread(witness.recvfrom, 64)
            assert data == b"question"
            witness.sendto(b"answer", source)
            async with asyncio.timeout(5):
                assert await got.get() == (b"answer", there)
            link.close()
            link.close()

    uvloop.run(run())


def test_an_address_in_use_is_an_error_at_once():
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            local = Endpoint(*taken.getsockname())
            with pytest.raises(OSError, match="in use"):
                await HaLink(local, lambda data, remote: None).open()

    uvloop.run(run())
