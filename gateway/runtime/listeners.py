"""The listeners beside IKE's: the HTTP one for machines that watch, and the heartbeat's. They follow the configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.config.model import Config, Metrics
from gateway.contract import Endpoint
from gateway.observe.snapshot import Snapshot
from gateway.runtime.ha_link import HaLink
from gateway.runtime.http import HttpServer


class Listeners:
    """`follow` at the start and at each reload, `close` at the end."""

    def __init__(
        self,
        picture: Callable[[], Snapshot],
        received_heartbeat: Callable[[bytes, Endpoint], None],
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._picture = picture
        self._received_heartbeat = received_heartbeat
        self._metrics: Metrics | None = None
        self._http: HttpServer | None = None
        self._heartbeat: Endpoint | None = None
        self._link: HaLink | None = None

    async def follow(self, config: Config) -> None:
        """What did not change is not touched. OSError (a sentence) when an address is not to be had: all is as before."""
        heartbeat = Endpoint(str(config.ha.local_address), config.ha.port) if config.ha is not None else None
        link = self._link
        if heartbeat != self._heartbeat:
            link = await self._opened(heartbeat, config.gateway.mark)
        try:
            if config.metrics != self._metrics:
                await self._serve(config.metrics)
        except OSError:
            if link is not None and link is not self._link:
                link.close()
            raise
        if self._link is not None and link is not self._link:
            self._link.close()
        self._heartbeat, self._link = heartbeat, link

    def send(self, data: bytes, remote: Endpoint) -> None:
        """A heartbeat."""
        if self._link is not None:
            self._link.send(data, remote)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.stop()
        if self._link is not None:
            self._link.close()

    async def _opened(self, local: Endpoint | None, mark: int) -> HaLink | None:
        if local is None:
            return None
        link = HaLink(local, self._received_heartbeat, mark)
        await link.open()
        return link

    async def _serve(self, wanted: Metrics) -> None:
        """The old one first: the new address may include the old one's."""
        if self._http is not None:
            await self._http.stop()
        try:
            self._http = await self._started(wanted)
        except OSError:
            self._http = await self._started(self._metrics) if self._metrics is not None else None
            raise
        self._metrics = wanted

    async def _started(self, wanted: Metrics) -> HttpServer | None:
        if not wanted.port:
            return None
        server = HttpServer(self._picture, str(wanted.address), wanted.port, self._snapshot)
        await server.start()
        return server
