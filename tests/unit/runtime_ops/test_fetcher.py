"""Fetches bounded in time, size and place; one for all who ask the same."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.contract import Fetch
from gateway.runtime import fetcher
from gateway.runtime.fetcher import Fetcher

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Loopback(Fetcher):
    """As the daemon's, but for where it may go: what it asks is here."""

    def _socket(self, address: Any) -> socket.socket:
        made = socket.socket(address[0], address[1], address[2])
        made.setblocking(False)
        return made


def fetched(
    handler: Handler, count: int = 1, kind: type[Fetcher] = Loopback, **changes: Any
) -> tuple[dict[int, bytes | None], int]:
    """The answers by ticket, and how often somebody was asked."""
    asked = 0
    answers: dict[int, bytes | None] = {}

    async def counted(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await handler(request)

    async def play() -> None:
        server = web.Server(counted)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        done = asyncio.Event()

        def answered(ticket: int, octets: bytes | None) -> None:
            answers[ticket] = octets
            if len(answers) == count:
                done.set()

        under_test = kind(0x1234, answered)
        given: dict[str, Any] = {"url": f"http://127.0.0.1:{port}/crl", "body": b"", "media": "", "limit": 1000}
        for ticket in range(count):
            under_test.fetch(Fetch(ticket, **(given | changes)))
        await asyncio.wait_for(done.wait(), 10)
        await under_test.close()
        await runner.cleanup()

    asyncio.run(play())
    return answers, asked


def says(octets: bytes, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=octets, status=status)

    return handler


def test_a_get_and_a_post() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=f"{request.method} {request.content_type} ".encode() + await request.read())

    assert fetched(echo)[0] == {0: b"GET application/octet-stream "}
    answers, _ = fetched(echo, body=b"question", media="application/ocsp-request")
    assert answers == {0: b"POST application/ocsp-request question"}


def test_many_who_ask_the_same_are_one() -> None:
    answers, asked = fetched(says(b"x"), count=50)
    assert answers == dict.fromkeys(range(50), b"x")
    assert asked == 1


@pytest.mark.parametrize("status", [204, 301, 302, 404, 500])
def test_anything_but_a_good_answer_is_none(status: int) -> None:
    assert fetched(says(b"", status))[0] == {0: None}


def test_no_redirect_is_followed() -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/crl")

    assert fetched(elsewhere) == ({0: None}, 1)


def test_too_large() -> None:
    assert fetched(says(b"x" * 1000))[0] == {0: b"x" * 1000}
    assert fetched(says(b"x" * 1001))[0] == {0: None}

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10_000):
            await response.write(b"x" * 1000)
        return response

    assert fetched(endless)[0] == {0: None}


def test_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "SECONDS", 0.1)
    never = asyncio.Event

    async def silent(request: web.Request) -> web.StreamResponse:
        await never().wait()
        raise AssertionError

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await never().wait()
        return response

    assert fetched(silent)[0] == {0: None}
    assert fetched(dripping)[0] == {0: None}


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://",
        "http://[::1",
        "gopher://x/",
        "http://127.0.0.1:1/",
        "nonsense",
        "http://nobody.invalid/",
    ],
)
def test_places_that_are_none(url: str) -> None:
    assert fetched(says(b"x"), url=url) == ({0: None}, 0)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "168.63.129.16",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "::",
    ],
)
def test_cve_2022_40617_and_its_kin_no_way_to_this_host_and_the_clouds_services(host: str) -> None:
    """Whatever name led there: the address is looked at when the connection is made."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with pytest.raises(OSError, match="is nobody's CA"):
        Fetcher(1, lambda ticket, octets: None)._socket((family, socket.SOCK_STREAM, 0, "", (host, 80)))


def test_the_daemons_own_goes_nowhere_near_itself() -> None:
    assert fetched(says(b"x"), kind=Fetcher) == ({0: None}, 0)


def test_closing_answers_nobody() -> None:
    answers: dict[int, bytes | None] = {}

    async def play() -> None:
        under_test = Loopback(1, answers.__setitem__)
        under_test.fetch(Fetch(1, "http://127.0.0.1:1/", b"", "", 10))
        await under_test.close()

    asyncio.run(play())
    assert answers == {}


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_an_address_of_this_host_is_known_by_how_the_kernel_goes_there(family: int, host: str) -> None:
    """Whatever interface it stands on: to itself the host goes from the same address."""
    ours = Fetcher(0x1234, lambda ticket, octets: None)
    place = (host, 80) if family == socket.AF_INET else (host, 80, 0, 0)
    assert ours._is_ours(family, place)


def test_a_server_that_does_not_answer_holds_up_its_own_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "SECONDS", 0.5)
    answers: dict[int, bytes | None] = {}

    async def play() -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        server = web.Server(says(b"well"))
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        done = asyncio.Event()

        def answered(ticket: int, octets: bytes | None) -> None:
            answers[ticket] = octets
            if ticket == 99:
                done.set()

        under_test = Loopback(0x1234, answered)
        for ticket in range(24):
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/{ticket}"
            under_test.fetch(Fetch(ticket, url, b"", "", 1000))
        under_test.fetch(Fetch(99, f"http://127.0.0.1:{port}/", b"", "", 1000))
        await asyncio.wait_for(done.wait(), 10)
        await under_test.close()
        await runner.cleanup()
        silent.close()

    asyncio.run(play())
    assert answers[99] == b"well"
