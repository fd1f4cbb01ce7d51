"""Who may have keys and packets, for how long, and that it is told. A node of stubs; the real one is in `tests/system`."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Coroutine
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config.model import Observe
from gateway.contract import Endpoint
from gateway.ike.events import ChildInstall
from gateway.ike.keymat import IkeKeys
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, PrfId
from gateway.observe.keylog import ESP_TABLE, IKE_TABLE
from gateway.runtime import disclosures
from gateway.runtime.capture_socket import Packet
from gateway.runtime.disclosures import AT_ONCE, Disclosures, Refused, Wish

CHOICE = Choice(EncryptionId.AES_GCM_16, 256, prf=PrfId.HMAC_SHA2_256)
US, PEER = Endpoint("198.51.100.2", 500), Endpoint("203.0.113.2", 500)


def ike_sa(number: int) -> Any:
    keys = IkeKeys.initial(CHOICE, b"shared", b"i" * 32, bytes([number]) * 32, bytes(16), True)
    return SimpleNamespace(initiator_spi=number, responder_spi=number, keys=keys)


def child(spi: int) -> Any:
    event = ChildInstall(
        "site", "net", spi, spi + 1, CHOICE, b"\x01" * 36, b"", b"\x02" * 36, b"", local=US, remote=PEER
    )
    return SimpleNamespace(event=event)


class Stage:
    """Disclosures over one connection, `site`, and what became of them."""

    def __init__(self) -> None:
        self.sas: list[Any] = [ike_sa(1)]
        settings = SimpleNamespace(id=7, ike=SimpleNamespace(local=US, remote=PEER))
        self.tunnel = SimpleNamespace(settings=settings, installed={100: child(100)})
        self.node: Any = SimpleNamespace(tunnels={"site": self.tunnel}, ike=SimpleNamespace(sas=lambda name: self.sas))
        self.allowed = Observe(allow_keylog=True, allow_capture=True)
        self.told: list[tuple[str, str, str]] = []
        self.subject = Disclosures(self.node, lambda: self.allowed, lambda *words: self.told.append(words))

    def events(self) -> list[str]:
        return [event for event, _, _ in self.told]


def wish(kind: str = "keylog", seconds: float = 0.3, packets: int = 10, connection: str = "site") -> Wish:
    return Wish(kind, connection, seconds, packets, "user id 0 (process 77)")


def play(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def tables(pieces: list[Any]) -> dict[str, int]:
    counts = {IKE_TABLE: 0, ESP_TABLE: 0}
    for piece in pieces:
        if piece and "file" in piece:
            counts[piece["file"]] += 1
    return counts


def test_keys_that_are_there_and_those_that_come_each_once_until_the_time_is_over() -> None:
    stage = Stage()

    async def work() -> list[Any]:
        pieces = []
        async for piece in stage.subject.disclose(wish()):
            pieces.append(piece)
            if len(pieces) == 4:
                stage.sas.append(ike_sa(2))
                stage.tunnel.installed[200] = child(200)
                stage.subject.sent()
                stage.sas.clear()  # gone again before anybody looked
        return pieces

    pieces = play(work())
    assert tables(pieces) == {IKE_TABLE: 2, ESP_TABLE: 4}
    assert pieces[-1] == {"end": "keys of 2 IKE_SAs and 4 ESP SAs"}
    assert stage.events() == ["keylog-started", "keylog-ended"]
    assert all(connection == "site" and "user id 0 (process 77)" in text for _, connection, text in stage.told)
    assert "for 0.3 s" in stage.told[0][2]
    secrets = stage.subject.problems(), stage.told
    assert "0101" not in str(secrets)


def test_it_is_a_problem_while_it_goes_on_and_over_when_the_asker_leaves() -> None:
    stage = Stage()

    async def work() -> None:
        async with aclosing(stage.subject.disclose(wish(seconds=600))) as pieces:
            await anext(pieces)
            assert stage.subject.problems() == (
                "keys of connection site are being disclosed to user id 0 (process 77)",
            )
        assert stage.subject.problems() == ()

    play(work())
    assert stage.told[-1][0] == "keylog-ended"
    assert "left" in stage.told[-1][2]


@pytest.mark.parametrize("kind", ["keylog", "capture"])
def test_off_is_off(kind: str) -> None:
    stage = Stage()
    stage.allowed = Observe(allow_keylog=kind != "keylog", allow_capture=kind != "capture")

    async def work() -> None:
        with pytest.raises(Refused, match=f"observe.allow_{kind}"):
            await anext(stage.subject.disclose(wish(kind)))

    play(work())
    assert stage.told == []
    assert Observe() == Observe(allow_keylog=False, allow_capture=False)


@pytest.mark.parametrize("change", ["permission", "connection", "stop"])
def test_a_reload_that_takes_it_away_ends_it_and_so_does_the_end_of_the_daemon(change: str) -> None:
    stage = Stage()

    async def work() -> list[Any]:
        pieces = []
        async for piece in stage.subject.disclose(wish(seconds=600)):
            pieces.append(piece)
            if piece is None:
                if change == "permission":
                    stage.allowed = Observe()
                elif change == "connection":
                    stage.node.tunnels.clear()
                else:
                    stage.subject.close()
        return pieces

    assert "end" in play(work())[-1]
    assert stage.events() == ["keylog-started", "keylog-ended"]


def test_only_a_few_at_the_same_time_and_only_of_connections_there_are() -> None:
    stage = Stage()

    async def work() -> None:
        running = [stage.subject.disclose(wish(seconds=600)) for _ in range(AT_ONCE)]
        for one in running:
            await anext(one)
        with pytest.raises(Refused, match="already"):
            await anext(stage.subject.disclose(wish()))
        for one in running:
            await one.aclose()
        with pytest.raises(Refused, match="no connection"):
            await anext(stage.subject.disclose(wish(connection="other")))

    play(work())
    assert stage.events() == ["keylog-started"] * AT_ONCE + ["keylog-ended"] * AT_ONCE


class Source:
    """In the place of the packet socket: gives `count` packets at once."""

    count = 0
    pipe = (-1, -1)
    last: Source

    def __init__(self, peer: str, ports: list[int]) -> None:
        self.asked = (peer, ports)
        self.unreadable = 2
        self.closed = False
        Source.last = self

    def fileno(self) -> int:
        return self.pipe[0]

    def read(self, take: Any) -> None:
        os.read(self.pipe[0], 1)
        for number in range(self.count):
            take(Packet(1_000_000 + number, "wan", number % 2 == 0, bytes([0x45]) + bytes(99)))

    def dropped(self) -> int:
        return 3

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("count", "kept", "limit"), [(4, 4, ""), (25, 10, ", the limit")])
def test_a_capture_is_bounded_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, count: int, kept: int, limit: str
) -> None:
    pipe = os.pipe()
    os.write(pipe[1], b"x")
    monkeypatch.setattr(Source, "pipe", pipe)
    monkeypatch.setattr(Source, "count", count)
    monkeypatch.setattr(disclosures, "CaptureSocket", Source)
    stage = Stage()

    async def work() -> list[Any]:
        return [piece async for piece in stage.subject.disclose(wish("capture")) if piece]

    pieces = play(work())
    data = b"".join(base64.b64decode(piece["data"]) for piece in pieces[:-1])
    assert data.count(bytes([0x45]) + bytes(99)) == kept
    assert pieces[-1] == {"end": f"{kept} packets{limit}, {count - kept + 5} lost"}
    source = Source.last
    assert source.asked == ("203.0.113.2", [500, 4500])
    assert source.closed
    for fd in pipe:
        os.close(fd)


def test_a_service_that_may_not_open_packet_sockets_says_how_to_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(97, "this service may not open packet sockets")

    monkeypatch.setattr(disclosures, "CaptureSocket", refuse)
    stage = Stage()

    async def work() -> None:
        with pytest.raises(Refused, match="may not open packet sockets"):
            await anext(stage.subject.disclose(wish("capture")))

    play(work())
    assert "may not open" in stage.told[-1][2]
