"""The listener for machines that watch, over real TCP on loopback, under uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html.parser import HTMLParser

import aiohttp
import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from support.snapshots import FRESH, HEALTHY, TROUBLED, UP

from gateway.observe.page import render_page
from gateway.observe.snapshot import Snapshot, WorkerStatus
from gateway.runtime.http import LAST_ANSWERS, HttpServer, application


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
