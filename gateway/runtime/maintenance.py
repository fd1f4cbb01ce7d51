"""Watches for announced maintenance of this machine while the configuration asks for it, and tells the pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.config.model import HaPeer
from gateway.ha.message import Role
from gateway.ha.roles import MachineLeaves
from gateway.node.high_availability import HighAvailability
from gateway.runtime.announced_aws import AwsAnnouncements
from gateway.runtime.announced_azure import AzureAnnouncements
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.scheduled_events import ScheduledEvents
from gateway.runtime.turns import say_end


class Maintenance:
    """`configure` at the start and at each reload."""

    def __init__(
        self,
        mark: int | None,
        pair: Callable[[], HighAvailability | None],
        command: Callable[[MachineLeaves], None],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._http = CloudHttp(mark)
        self._pair, self._command, self._tell = pair, command, tell
        self._cloud, self._url = "off", ""
        self._watching: asyncio.Task[None] | None = None

    def configure(self, ha: HaPeer | None) -> None:
        wanted = (ha.scheduled_events, ha.imds_url) if ha is not None and ha.scheduled_events != "off" else ("off", "")
        if wanted == (self._cloud, self._url):
            return
        self._cloud, self._url = wanted
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            self._command(MachineLeaves(False))
        if self._url:
            made = AwsAnnouncements if self._cloud == "aws" else AzureAnnouncements
            events = ScheduledEvents(made(self._http, self._url), self._leaves, self._relieved, self._tell)
            self._watching = asyncio.create_task(events.run(), name="scheduled events")
            self._watching.add_done_callback(say_end)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await self._http.close()

    def _leaves(self, soon: bool) -> None:
        self._command(MachineLeaves(soon))

    def _relieved(self) -> bool:
        """The other one acts, and our neighbors know."""
        pair = self._pair()
        if pair is None:
            return False
        said = pair.pair.heartbeat.peer_advertised
        return said is not None and said.role is Role.ACTIVE and pair.is_relieved
