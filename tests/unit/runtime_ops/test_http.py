"""The listener for machines that watch, over real TCP on loopback, under uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import cast

import aiohttp
import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from support.snapshots import FRESH, HEALTHY, TROUBLED, UP

from gateway.observe.page import render_page
from gateway.observe.snapshot import Snapshot, WorkerStatus
from gateway.runtime import http
from gateway.runtime.http import LAST_ANSWERS, SHARED, HttpServer, application
from gateway.runtime.http_connections import MOST, Connections


def fetch(snapshot: Snapshot, url: str, **headers: str) -> tuple[int, str, str]:
    async def run() -> tuple[int, str, str]:
        server = HttpServer(lambda: snapshot, "127.0.0.1", 0)
        await server.start()
        try:
            address = f"http://127.0.0.1:{server.port}{url}"
            async with aiohttp.ClientSession() as session, session.get(address, headers=headers) as response:
                return response.status, response.headers["Content-Type"], await response.text()
        finally:
            await server.stop()

    return uvloop.run(run())


def test_metrics_are_of_this_moment_and_include_the_process():
    status, content_type, text = fetch(HEALTHY, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"gateway_tunnel_up", "process_cpu_seconds", "python_gc_collections"} <= names
    assert 'gateway_tunnel_up{tunnel="azure-a"} 1.0' in text


def test_openmetrics_is_served_to_who_asks():
    _, content_type, text = fetch(HEALTHY, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_ready_is_what_the_snapshot_says():
    assert fetch(FRESH, "/readyz")[0] == 503
    assert fetch(TROUBLED, "/readyz")[0] == 200, "a tunnel down does not make the gateway unready"


def test_health_fails_when_a_worker_stands_still_and_recovers():
    clock, ticks = [0.0], [5]
    busy = lambda: replace(HEALTHY, workers=(WorkerStatus(0, ticks[0], 0.0, idle=False),))  # noqa: E731

    async def probe(client: TestClient[web.Request, web.Application]) -> list[int]:
        seen = []
        for at, count in ((0.0, 5), (4.0, 5), (6.0, 5), (7.0, 6)):
            clock[0], ticks[0] = at, count
            seen.append((await client.get("/healthz")).status)
        return seen

    assert with_client(application(busy, clock=lambda: clock[0]), probe) == [200, 200, 503, 200]


def with_client(app: web.Application, probe: Callable[[TestClient], Awaitable[list[int]]]) -> list[int]:
    async def run() -> list[int]:
        async with TestClient(TestServer(app)) as client:
            return await probe(client)

    return uvloop.run(run())


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("snapshot", [FRESH, HEALTHY, TROUBLED])
def test_the_page_shows_every_tunnel_and_why_it_is_down(snapshot: Snapshot):
    status, content_type, text = fetch(snapshot, "/")
    assert status == 200
    assert content_type.startswith("text/html")
    shown = " ".join(parsed(text).words)
    for tunnel in snapshot.tunnels:
        assert tunnel.name in shown
        assert tunnel.explanation in shown


def test_what_a_peer_says_cannot_become_markup():
    evil = '<script>alert("x")</script>\x1b[2J'
    tunnel = replace(UP, up=False, remote=evil, explanation=evil, name=evil)
    peers = tuple(replace(peer, state=evil, address=evil) for peer in HEALTHY.peers)
    routes = tuple(replace(route, reason=evil, next_hop=evil, prefix=evil, peer=evil) for route in HEALTHY.routes)
    journal = tuple(replace(entry, text=evil, tunnel=evil, event=evil, level=evil) for entry in HEALTHY.journal)
    assert HEALTHY.ha is not None
    page = render_page(
        replace(
            HEALTHY, name=evil, version=evil, engine=evil, tunnels=(tunnel,), peers=peers, routes=routes, journal=journal,
            problems=(evil,), ha=replace(HEALTHY.ha, peer_name=evil, peer_address=evil),
        )
    )  # fmt: skip
    assert "script" not in parsed(page).seen
    assert "\x1b" not in page
    assert "".join(parsed(page).words).count("<script>") >= 15, "it is shown as text"


def test_the_page_forbids_scripts_and_other_methods_are_refused():
    async def probe(client: TestClient[web.Request, web.Application]) -> list[int]:
        response = await client.get("/")
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        return [(await client.post("/")).status, (await client.get("/v1/operations")).status]

    assert with_client(application(lambda: HEALTHY), probe) == [405, 404]


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_who_waits_for_an_answer_does_not_hold_its_end_up() -> None:
    async def never() -> Snapshot:
        asked.set()
        return await asyncio.Future()

    async def run() -> None:
        server = HttpServer(lambda: HEALTHY, "127.0.0.1", 0, never)
        await server.start()
        async with aiohttp.ClientSession() as session:
            scrape = asyncio.create_task(session.get(f"http://127.0.0.1:{server.port}/metrics"))
            await asked.wait()
            async with asyncio.timeout(10 * LAST_ANSWERS):
                await server.stop()
            with pytest.raises(aiohttp.ClientError):
                await scrape

    asked = asyncio.Event()
    uvloop.run(run())


# --- by whoever comes ---------------------------------------------------------------------------------------------


def served(
    scenario: Callable[[HttpServer], Awaitable[None]], snapshot: Callable[[], Snapshot] = lambda: HEALTHY
) -> None:
    async def run() -> None:
        server = HttpServer(snapshot, "127.0.0.1", 0)
        await server.start()
        try:
            async with asyncio.timeout(60):
                await scenario(server)
        finally:
            await server.stop()

    uvloop.run(run())


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def status(server: HttpServer, path: str) -> int:
    """Of one request, with a connection of its own."""
    reader, writer = await connect(server)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def is_cut(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_who_holds_connections_open_holds_few_and_keeps_no_probe_away():
    async def scenario(server: HttpServer) -> None:
        before = descriptors()
        held = [await connect(server) for _ in range(4 * MOST)]
        for _, writer in held[::2]:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost:")  # and never the rest
        for path in ("/healthz", "/readyz", "/metrics"):
            begun = time.monotonic()
            assert await status(server, path) == 200
            assert time.monotonic() - begun < 2
        assert descriptors() - before <= len(held) + MOST, "the client's ends, and so many of ours"
        assert await is_cut(held[0][0]), "the one that had waited longest"
        assert server.cut["full"] >= 3 * MOST
        for _, writer in held:
            writer.close()

    served(scenario)


def test_many_scrapes_at_once_are_one_answer_made_once():
    taken = [0]

    def snapshot() -> Snapshot:
        taken[0] += 1
        return HEALTHY

    async def scenario(server: HttpServer) -> None:
        loop = asyncio.get_running_loop()
        # The loop's own pool is for TUNs, the epoch, the guard: all of it is busy
        free = threading.Event()
        busy = [loop.run_in_executor(None, free.wait, 30) for _ in range(64)]
        try:
            answers = await asyncio.gather(*(status(server, "/metrics") for _ in range(MOST)))
            assert answers == [200] * MOST
            assert taken == [1]
            assert await status(server, "/") == 200
            assert taken == [2]
            await asyncio.sleep(SHARED + 0.2)
            assert await status(server, "/metrics") == 200
            assert taken == [3], "of this second"
        finally:
            free.set()
            await asyncio.gather(*busy)

    served(scenario, snapshot)


def test_a_client_chooses_from_two_answers_whatever_versions_it_asks_for():
    taken = [0]

    def snapshot() -> Snapshot:
        taken[0] += 1
        return HEALTHY

    async def probe(client: TestClient[web.Request, web.Application]) -> list[int]:
        for number in range(20):
            accept = f"application/openmetrics-text; version=1.0.{number}; escaping=allow-utf-8"
            response = await client.get("/metrics", headers={"Accept": accept})
            assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        return taken

    assert with_client(application(snapshot), probe) == [1]


class Talker(asyncio.Protocol):
    """Answers each request with more than any socket's buffers hold."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(bytes(64 << 20))


def test_an_answer_that_nobody_reads_is_given_up_and_one_that_is_read_is_not():
    async def run() -> None:
        connections = Connections(Talker, patience=1.0)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(connections, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET")
        assert len(await reader.readexactly(64 << 20)) == 64 << 20
        assert connections.cut["unread"] == 0
        _, deaf = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        deaf.write(b"GET")
        async with asyncio.timeout(20):
            while not connections.cut["unread"]:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.2)
        assert connections.cut == {"full": 0, "unread": 1}
        assert not reader.at_eof()
        for one in (writer, deaf):
            one.close()
        server.close()

    uvloop.run(run())


def test_whoever_waits_for_us_is_not_the_one_that_goes():
    async def run() -> None:
        free = asyncio.Event()

        async def slow() -> Snapshot:
            await free.wait()
            return HEALTHY

        server = HttpServer(lambda: HEALTHY, "127.0.0.1", 0, slow)
        await server.start()
        scrapes = [asyncio.create_task(status(server, "/metrics")) for _ in range(MOST)]
        async with asyncio.timeout(30):
            connections = server._connections
            while len(connections._open) < MOST or connections._waiting:
                await asyncio.sleep(0.01)
            reader, _ = await connect(server)
            assert await is_cut(reader), "every one of the others waits for an answer"
            free.set()
            assert await asyncio.gather(*scrapes) == [200] * MOST
        assert server.cut == {"full": 1, "unread": 0}
        await server.stop()

    uvloop.run(run())


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nHost:"], ids=["nothing", "half a request"])
def test_without_a_request_nobody_stays(monkeypatch: pytest.MonkeyPatch, said: bytes):
    monkeypatch.setattr(http, "PATIENCE", 0.3)

    async def scenario(server: HttpServer) -> None:
        reader, writer = await connect(server)
        writer.write(said)
        assert await is_cut(reader)

    served(scenario)


def test_the_end_waits_for_no_one_who_does_not_read():
    tunnels = tuple(replace(UP, name=f"t{number}") for number in range(3000))

    async def scenario(server: HttpServer) -> None:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(small, ("127.0.0.1", server.port))
        await loop.sock_sendall(small, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        await loop.sock_recv(small, 1)
        begun = time.monotonic()
        await server.stop()
        assert time.monotonic() - begun < 8
        small.close()

    served(scenario, lambda: replace(HEALTHY, tunnels=tunnels))
