"""Carries out the Calls of the node's route-table core, and says how each ended.

    Call --> FabricCalls --> fabric_azure | fabric_aws --> answered(ticket, outcome)

What was begun is finished by the adapter it was begun with, also when another configuration comes meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.config.model import Fabric
from gateway.ha.fabric_values import Call, Failed, Outcome, Why
from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.fabric_cloud import CloudFabric, cloud_fabric

log = logging.getLogger(__name__)


class FabricCalls:
    """`configure` before the first call, and whenever [fabric] changed."""

    def __init__(self, mark: int | None, answered: Callable[[int, Outcome], None]) -> None:
        self._mark = mark
        self._answered = answered
        self._http = CloudHttp(mark)
        self._fabric: Fabric | None = None
        self._cloud: CloudFabric | None = None
        self._running: dict[asyncio.Task[Outcome], CloudFabric] = {}
        self._retired: set[CloudFabric] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self, fabric: Fabric | None) -> None:
        """Tables and prefixes are the core's: the adapter is another one only if where or how to call changed."""
        if _calling(fabric) == _calling(self._fabric):
            return
        if self._cloud is not None:
            self._retired.add(self._cloud)
        self._fabric = fabric
        self._cloud = None if fabric is None else cloud_fabric(fabric, self._http, self._mark)
        self._close_retired()

    def call(self, effect: Call) -> None:
        if self._cloud is None:
            self._answered(effect.ticket, Failed(Why.UNREACHABLE, "no cloud is configured"))
            return
        task = asyncio.create_task(self._cloud.carry_out(effect), name=f"fabric {effect.table.name}")
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

    def _ended(self, effect: Call, task: asyncio.Task[Outcome]) -> None:
        if self._running.pop(task, None) is None or task.cancelled():
            return
        error = task.exception()
        if error is None:
            outcome = task.result()
        else:
            # A defect of an adapter must not leave the core waiting for ever.
            log.error("%s: %r", effect.table.name, error, exc_info=error, extra={"event": "fabric-defect"})
            outcome = Failed(Why.AMBIGUOUS, f"the call ended by a defect: {type(error).__name__}")
        self._answered(effect.ticket, outcome)
        self._close_retired()

    def _close_retired(self) -> None:
        for cloud in self._retired - set(self._running.values()):
            self._retired.discard(cloud)
            task = asyncio.create_task(cloud.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _calling(fabric: Fabric | None) -> Fabric | None:
    return None if fabric is None else fabric.model_copy(update={"table": {}, "prefixes": ()})
