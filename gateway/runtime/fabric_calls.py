"""Carries out the calls of the node's cores of the cloud, and says how each ended.

    Call        --> CloudCalls --> fabric_azure | fabric_aws       --> answered(ticket, outcome)
    AddressCall -->            --> addresses_azure | addresses_aws -->

What was begun is finished by the adapter it was begun with, also when another configuration comes meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from gateway.config.model import Fabric, HaFabric
from gateway.ha import address_values
from gateway.ha.address_values import AddressCall
from gateway.ha.fabric_values import Call, Failed, Outcome, Why
from gateway.runtime.addresses_cloud import address_cloud
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.fabric_cloud import cloud_fabric

log = logging.getLogger(__name__)


class Request(Protocol):
    """`subject` is for names and logs."""

    @property
    def ticket(self) -> int: ...
    @property
    def subject(self) -> str: ...


Asked = TypeVar("Asked", bound=Request, contravariant=True)
Told = TypeVar("Told", Fabric, HaFabric)


class Adapter(Protocol[Asked]):
    """Any number of calls at once; each answers in bounded time and never raises."""

    async def carry_out(self, call: Asked, /) -> Any:
        """How the call ended."""

    async def close(self) -> None:
        """Nothing is called any more."""


class CloudCalls(Generic[Asked, Told]):
    """`configure` before the first call, and whenever the section changed that says where and how to call."""

    def __init__(
        self,
        mark: int | None,
        answered: Callable[[int, Any], None],
        made: Callable[[Told, CloudHttp, int | None], Adapter[Asked]],
    ) -> None:
        self._mark = mark
        self._answered = answered
        self._made: Callable[[Told, CloudHttp, int | None], Adapter[Asked]] = made
        self._http = CloudHttp(mark)
        self._section: Told | None = None
        self._cloud: Adapter[Asked] | None = None
        self._running: dict[asyncio.Task[Any], Adapter[Asked]] = {}
        self._retired: set[Adapter[Asked]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self, section: Told | None) -> None:
        """What is called for is the core's: the adapter is another one only if where or how to call changed."""
        if _calling(section) == _calling(self._section):
            return
        if self._cloud is not None:
            self._retired.add(self._cloud)
        self._section = section
        self._cloud = None if section is None else self._made(section, self._http, self._mark)
        self._close_retired()

    def call(self, effect: Asked) -> None:
        if self._cloud is None:
            self._answered(effect.ticket, Failed(Why.UNREACHABLE, "no cloud is configured"))
            return
        task = asyncio.create_task(self._cloud.carry_out(effect), name=f"cloud {effect.subject}")
        self._running[task] = self._cloud
        task.add_done_callback(lambda done: self._ended(effect, done))

    async def close(self) -> None:
        """Nothing is answered any more."""
        running = list(self._running)
        clouds = self._retired | set(self._running.values()) | ({self._cloud} if self._cloud is not None else set())
        self._running.clear()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, *self._closing, return_exceptions=True)
        for cloud in clouds:
            await cloud.close()
        await self._http.close()

    def _ended(self, effect: Asked, task: asyncio.Task[Any]) -> None:
        if self._running.pop(task, None) is None or task.cancelled():
            return
        error = task.exception()
        if error is None:
            outcome = task.result()
        else:
            # A defect of an adapter must not leave the core waiting for ever.
            log.error("%s: %r", effect.subject, error, exc_info=error, extra={"event": "fabric-defect"})
            outcome = Failed(Why.AMBIGUOUS, f"the call ended by a defect: {type(error).__name__}")
        self._answered(effect.ticket, outcome)
        self._close_retired()

    def _close_retired(self) -> None:
        for cloud in self._retired - set(self._running.values()):
            self._retired.discard(cloud)
            task = asyncio.create_task(cloud.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class FabricCalls(CloudCalls[Call, Fabric]):
    """Those of the route tables."""

    def __init__(self, mark: int | None, answered: Callable[[int, Outcome], None]) -> None:
        super().__init__(mark, answered, cloud_fabric)


class AddressCalls(CloudCalls[AddressCall, HaFabric]):
    """Those of the shared addresses."""

    def __init__(self, mark: int | None, answered: Callable[[int, address_values.Outcome], None]) -> None:
        super().__init__(mark, answered, address_cloud)


def _calling(section: Told | None) -> Told | None:
    if section is None:
        return None
    called_for = {"table", "prefixes", "interface"} & set(type(section).model_fields)
    return section.model_copy(update=dict.fromkeys(called_for))
