"""The TCP listener for machines that watch: /metrics, /healthz, /readyz, and a read-only page at /.

Nothing here changes anything and nothing secret is in the snapshot, but it does tell addresses and routes:
loopback unless configured otherwise. Whoever can come here costs the gateway little: few connections
(http_connections.py), one answer made at a time, in a thread of its own, and the same one for all who ask within a second.

    /healthz   the process lives: the event loop answers (this does) and no data plane worker is stuck
    /readyz    the configuration is applied and the sockets are bound; not: tunnels are up
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from gateway.observe.liveness import Liveness
from gateway.observe.metrics import SnapshotCollector
from gateway.observe.page import render_page
from gateway.observe.snapshot import Snapshot
from gateway.runtime.faults import explained, listening
from gateway.runtime.http_connections import PATIENCE, Connections

LAST_ANSWERS = 0.5
"""Seconds for answers under way when a listener closes; then they break off, which takes as long again at most."""
SHARED = 1.0
"""Seconds for which an answer is good for others, too."""
_OPENMETRICS = "application/openmetrics-text"
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
        app = application(picture, snapshot=snapshot)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            max_line_size=2048,
            max_field_size=4096,
            keepalive_timeout=PATIENCE,
            shutdown_timeout=LAST_ANSWERS,
        )
        self._connections = Connections(self._made)
        app.middlewares.append(self._connections.attend)
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._address = address
        self._wanted_port = port

    @property
    def port(self) -> int:
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    @property
    def cut(self) -> dict[str, int]:
        """Connections that were ended because they were too many or did not read, by why."""
        return self._connections.cut

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
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(self._connections, sock=self._listener)
        except OSError:
            await self._runner.cleanup()
            raise

    async def rest(self) -> None:
        """Nobody is let in any more; who was still gets an answer."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        await self.rest()
        await self._runner.cleanup()

    def _made(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        return self._runner.server()

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
    """The routes. A scrape and a page view take a snapshot, of this second, a probe a `picture`, which may be a little older."""

    async def taken() -> Snapshot:
        return await snapshot() if snapshot is not None else picture()

    liveness, answers = Liveness(), SharedAnswers(taken)

    async def metrics(request: web.Request) -> web.Response:
        _, asked = choose_encoder(request.headers.get("Accept", ""))
        # Of either kind one version: whoever asks chooses from two answers, not from as many as there are numbers
        encode, content_type = choose_encoder(_OPENMETRICS if asked.startswith(_OPENMETRICS) else "")
        body = await answers.ask(content_type, lambda shown: encode(_registry(shown)))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(request: web.Request) -> web.Response:
        stuck = liveness.stuck(picture().workers, clock())
        text = f"data plane workers stuck: {', '.join(map(str, stuck))}\n" if stuck else "ok\n"
        return web.Response(text=text, status=503 if stuck else 200)

    async def readyz(request: web.Request) -> web.Response:
        ready = picture().ready
        return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)

    async def page(request: web.Request) -> web.Response:
        body = await answers.ask("page", lambda shown: render_page(shown).encode())
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=_PAGE_HEADERS)

    async def close(app: web.Application) -> None:
        answers.close()

    app = web.Application(client_max_size=1024)
    app.on_cleanup.append(close)
    for path, handler in (("/metrics", metrics), ("/healthz", healthz), ("/readyz", readyz), ("/", page)):
        app.router.add_get(path, handler)
    return app


class SharedAnswers:
    """One at a time: a thousand tunnels are 10 MB of text, which takes a thread some time and the loop a snapshot."""

    def __init__(self, taken: Callable[[], Awaitable[Snapshot]]) -> None:
        self._taken = taken
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._turn = asyncio.Lock()
        self._shared: dict[str, asyncio.Task[bytes]] = {}

    async def ask(self, name: str, render: Callable[[Snapshot], bytes]) -> bytes:
        """Octets, the same ones for whoever asks for `name` until SHARED seconds after they are there."""
        making = self._shared.get(name)
        if making is None:
            making = self._shared[name] = asyncio.create_task(self._made(render), name=f"answer {name}")
            making.add_done_callback(lambda _: asyncio.get_running_loop().call_later(SHARED, self._shared.pop, name))
        # One who does not wait any longer does not keep it from the others
        return await asyncio.shield(making)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _made(self, render: Callable[[Snapshot], bytes]) -> bytes:
        async with self._turn:
            shown = await self._taken()
            return await asyncio.get_running_loop().run_in_executor(self._thread, render, shown)


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
