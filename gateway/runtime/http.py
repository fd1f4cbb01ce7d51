"""The TCP listener for machines that watch: /metrics, /healthz, /readyz, and a read-only page at /.

Nothing here changes anything and nothing secret is in the snapshot, but it does tell addresses and routes:
loopback unless configured otherwise.

    /healthz   the process lives: the event loop answers (this does) and no data plane worker is stuck
    /readyz    the configuration is applied and the sockets are bound; not: tunnels are up
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from gateway.observe.liveness import Liveness
from gateway.observe.metrics import SnapshotCollector
from gateway.observe.page import render_page
from gateway.observe.snapshot import Snapshot
from gateway.runtime.faults import explained, listening

LAST_ANSWERS = 0.5
"""Seconds for answers under way when a listener closes; then they break off, which takes as long again at most."""
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class HttpServer:
    """Serves views of the gateway on one address; port 0 picks a free one, `port` tells which."""

    def __init__(
        self,
        picture: Callable[[], Snapshot],
        address: str,
        port: int,
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
    ) -> None:
        self._runner = web.AppRunner(
            application(picture, snapshot=snapshot),
            access_log=None,
            max_line_size=2048,
            max_field_size=4096,
            keepalive_timeout=75.0,
            shutdown_timeout=LAST_ANSWERS,
        )
        self._listener: socket.socket | None = None
        self._site: web.SockSite | None = None
        self._address = address
        self._wanted_port = port

    @property
    def port(self) -> int:
        return int(self._runner.addresses[0][1])

    @property
    def fd(self) -> int:
        """Of the listener."""
        assert self._listener is not None
        return self._listener.fileno()

    async def start(self, inherited: Sequence[int] = ()) -> None:
        """`inherited`: the listener of the daemon before, where that passed it on."""
        await self._runner.setup()
        try:
            with explained(f"metrics listener {self._address} port {self._wanted_port}", listening("metrics")):
                self._listener = self._adopted(inherited) or _listen(self._address, self._wanted_port)
                self._site = web.SockSite(self._runner, self._listener)
                await self._site.start()
        except OSError:
            await self._runner.cleanup()
            raise

    async def rest(self) -> None:
        """Nobody is let in any more; who was still gets an answer."""
        if self._site is not None:
            await self._site.stop()

    async def stop(self) -> None:
        await self._runner.cleanup()

    def _adopted(self, fds: Sequence[int]) -> socket.socket | None:
        found = None
        for one in (socket.socket(fileno=fd) for fd in fds):
            if found is None and one.getsockname()[:2] == (self._address, self._wanted_port):
                found = one
            else:
                one.close()
        return found


def application(
    picture: Callable[[], Snapshot],
    clock: Callable[[], float] = time.monotonic,
    snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
) -> web.Application:
    """The routes. A scrape and a page view each take one snapshot, a probe a `picture`, which may be a little older."""
    liveness = Liveness()

    async def taken() -> Snapshot:
        return await snapshot() if snapshot is not None else picture()

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # A thousand tunnels are 10 MB of text: not on the loop
        body = await asyncio.to_thread(lambda shown: encode(_registry(shown)), await taken())
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(request: web.Request) -> web.Response:
        stuck = liveness.stuck(picture().workers, clock())
        text = f"data plane workers stuck: {', '.join(map(str, stuck))}\n" if stuck else "ok\n"
        return web.Response(text=text, status=503 if stuck else 200)

    async def readyz(request: web.Request) -> web.Response:
        ready = picture().ready
        return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)

    async def page(request: web.Request) -> web.Response:
        text = await asyncio.to_thread(render_page, await taken())
        return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)

    app = web.Application(client_max_size=1024)
    for path, handler in (("/metrics", metrics), ("/healthz", healthz), ("/readyz", readyz), ("/", page)):
        app.router.add_get(path, handler)
    return app


def _registry(taken: Snapshot) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: taken))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
