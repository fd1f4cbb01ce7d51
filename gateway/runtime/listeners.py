"""The listeners beside IKE's: the HTTP one for machines that watch, and those of the pair. They follow the configuration."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.config.model import Config, Metrics
from gateway.contract import Endpoint
from gateway.node.effects import PairTransmit
from gateway.node.pair_settings import PairSockets
from gateway.observe.snapshot import Snapshot
from gateway.runtime.fd_store import Inherited
from gateway.runtime.ha_link import HaLink
from gateway.runtime.heartbeats import Heartbeats
from gateway.runtime.http import HttpServer

KEPT_AS = "metrics"
NOBODY = PairSockets()


class Listeners:
    """`follow` at the start and at each reload, `close` at the end. `received` takes a datagram of the pair, and when it arrived in
    seconds of CLOCK_BOOTTIME: None, now."""

    def __init__(
        self,
        picture: Callable[[], Snapshot],
        received: Callable[[bytes, float | None], None],
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
        inherited: Inherited | None = None,
    ) -> None:
        self._inherited = inherited or Inherited()
        self._snapshot = snapshot
        self._picture = picture
        self._received = received
        self._metrics: Metrics | None = None
        self._http: HttpServer | None = None
        self._links: dict[Endpoint, HaLink] = {}
        self._beating: frozenset[Endpoint] = frozenset()
        self.heartbeats = Heartbeats(received)

    async def follow(self, config: Config, wanted: PairSockets = NOBODY) -> None:
        """What did not change is not touched. OSError (a sentence) when an address is not to be had: all is as before."""
        async with self.following(config, wanted):
            pass

    @asynccontextmanager
    async def following(self, config: Config, wanted: PairSockets = NOBODY) -> AsyncIterator[None]:
        """As `follow`, for something that is done with both the old and the new sockets of the pair bound. Where that fails the new ones
        are closed, else the old ones: what is sent by them is sent without a pause until nobody can refuse the new."""
        opened: dict[Endpoint, HaLink] = {}
        beating, metrics = frozenset(wanted.heartbeats), self._metrics
        try:
            for local in beating - self._beating:
                self.heartbeats.open(local, config.gateway.mark)
            for local in wanted.witness:
                if local not in self._links:
                    opened[local] = await self._opened(local, config.gateway.mark)
            if config.metrics != metrics:
                await self._serve(config.metrics)
            yield
        except BaseException:
            for local in beating - self._beating:
                self.heartbeats.close(local)
            for link in opened.values():
                link.close()
            if metrics is not None and self._metrics != metrics:
                await self._serve(metrics)
            raise
        for local in self._beating - beating:
            self.heartbeats.close(local)
        for local in self._links.keys() - set(wanted.witness):
            self._links.pop(local).close()
        self._beating = beating
        self._links |= opened

    def send(self, effect: PairTransmit) -> None:
        """A datagram to the witness."""
        if (link := self._links.get(effect.local)) is not None:
            link.send(effect.data, effect.remote)

    @property
    def held(self) -> dict[str, list[int]]:
        """What goes over to a daemon that takes over: the HTTP listener."""
        return {KEPT_AS: [self._http.fd]} if self._http is not None else {}

    @property
    def http_cut(self) -> dict[str, int]:
        """Connections of the HTTP listener that were ended, by why."""
        return self._http.cut if self._http is not None else {}

    async def pass_on(self) -> None:
        """Who asks from now on waits for the one that holds a copy of the HTTP listener."""
        if self._http is not None:
            await self._http.rest()

    async def rest(self) -> None:
        """Nothing goes to the other gateway or the witness any more, and their ports are free."""
        await self.heartbeats.stop()
        for link in self._links.values():
            link.close()

    async def close_http(self) -> None:
        """Of the listener for machines that watch nothing is left."""
        server, self._http = self._http, None
        if server is not None:
            await server.stop()

    async def close(self) -> None:
        await self.close_http()
        await self.rest()

    async def _opened(self, local: Endpoint, mark: int) -> HaLink:
        link = HaLink(local, lambda data, _: self._received(data, None), mark)
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
        inherited = self._inherited.take(KEPT_AS)
        if not wanted.port:
            for fd in inherited:
                os.close(fd)
            return None
        server = HttpServer(self._picture, str(wanted.address), wanted.port, self._snapshot)
        await server.start(inherited)
        return server
