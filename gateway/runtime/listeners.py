"""The listeners beside IKE's: the HTTP one for machines that watch, and those of the pair. They follow the configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from gateway.config.model import Config, Metrics
from gateway.contract import Endpoint
from gateway.node.effects import PairTransmit
from gateway.observe.snapshot import Snapshot
from gateway.runtime.ha_link import HaLink
from gateway.runtime.http import HttpServer


class Listeners:
    """`follow` at the start and at each reload, `close` at the end."""

    def __init__(
        self,
        picture: Callable[[], Snapshot],
        received: Callable[[bytes, Endpoint], None],
        snapshot: Callable[[], Awaitable[Snapshot]] | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._picture = picture
        self._received = received
        self._metrics: Metrics | None = None
        self._http: HttpServer | None = None
        self._links: dict[Endpoint, HaLink] = {}

    async def follow(self, config: Config, wanted: Sequence[Endpoint] = ()) -> None:
        """`wanted` are the sockets of the pair. What did not change is not touched. OSError (a sentence) when an address is not to
        be had: all is as before."""
        opened: dict[Endpoint, HaLink] = {}
        try:
            for local in wanted:
                if local not in self._links:
                    opened[local] = await self._opened(local, config.gateway.mark)
            if config.metrics != self._metrics:
                await self._serve(config.metrics)
        except OSError:
            for link in opened.values():
                link.close()
            raise
        for local in self._links.keys() - set(wanted):
            self._links.pop(local).close()
        self._links |= opened

    def send(self, effect: PairTransmit) -> None:
        """A datagram of the pair."""
        if (link := self._links.get(effect.local)) is not None:
            link.send(effect.data, effect.remote)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.stop()
        for link in self._links.values():
            link.close()

    async def _opened(self, local: Endpoint, mark: int) -> HaLink:
        link = HaLink(local, self._received, mark)
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
