"""Runs a core of the cloud over a real adapter, as the daemon's driver does: feed, drain, arm one timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.ha.address_fabric import AddressFabric
from gateway.ha.address_values import AddressCall, AddressSettings
from gateway.ha.fabric import Command, Fabric
from gateway.ha.fabric_values import Call, FabricSettings, Read
from gateway.runtime.randomness import SystemRandom


class Adapter(Protocol):
    async def carry_out(self, call: Any, /) -> Any: ...


class CoreDriver:
    """`core` and what it said; `outcomes` of its calls."""

    def __init__(self, core: Any, adapter: Adapter) -> None:
        self.events: list[Any] = []
        self.outcomes: list[tuple[Any, Any]] = []
        self.core = core
        self._adapter = adapter
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], Any] = {}  # and what they carry out
        self._changed = asyncio.Event()
        self._drain()

    def said(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}\n{self.core.view()}\n{self.outcomes[-5:]}") from None

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drain(self) -> None:
        for effect in self.core.poll():
            if isinstance(effect, Call | AddressCall):
                task = asyncio.create_task(self._carry_out(effect))
                self._tasks[task] = effect
                task.add_done_callback(self._tasks.pop)
            else:
                self.events.append(effect)
        if self._timer is not None:
            self._timer.cancel()
        at = self.core.next_deadline()
        if at is not None:
            delay = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)
        self._changed.set()

    def _due(self) -> None:
        self.core.handle_deadline(time.monotonic())
        self._drain()

    async def _carry_out(self, call: Any) -> None:
        outcome = await self._adapter.carry_out(call)
        self.outcomes.append((call, outcome))
        self.core.computed(call.ticket, outcome, time.monotonic())
        self._drain()


class FabricDriver(CoreDriver):
    """Of the route tables."""

    def __init__(self, settings: FabricSettings, adapter: Adapter) -> None:
        self.fabric = Fabric(settings, SystemRandom(), time.monotonic())
        super().__init__(self.fabric, adapter)

    def tell(self, command: Command) -> None:
        self.fabric.command(command, time.monotonic())
        self._drain()

    async def until_settled(self, seconds: float = 10.0) -> None:
        await self.until(
            lambda: all(table.settled for table in self.fabric.view().tables), seconds, "every table settled"
        )

    async def until_nothing_is_written(self, seconds: float = 10.0) -> None:
        await self.until(
            lambda: all(isinstance(call.operation, Read) for call in self._tasks.values()),
            seconds,
            "no write under way",
        )

    async def until_read(self, seconds: float = 10.0) -> None:
        await self.until(lambda: all(table.read_at for table in self.fabric.view().tables), seconds, "every table read")


class AddressDriver(CoreDriver):
    """Of the shared addresses."""

    def __init__(self, settings: AddressSettings, adapter: Adapter) -> None:
        super().__init__(AddressFabric(settings, SystemRandom(), time.monotonic()), adapter)

    def activate(self, epoch: int, lease: float = 3600.0) -> None:
        now = time.monotonic()
        self.core.activate(epoch, now + lease, now)
        self._drain()

    def deactivate(self) -> None:
        self.core.deactivate(time.monotonic())
        self._drain()

    @property
    def places(self) -> dict[str, str]:
        return {one.address: one.place.value for each in self.core.view().interfaces for one in each.addresses}

    @property
    def trouble(self) -> str:
        return next((one.trouble for one in self.core.view().interfaces if one.trouble), "")

    @property
    def drift(self) -> int:
        return sum(one.drift for one in self.core.view().interfaces)

    async def until_settled(self, seconds: float = 10.0) -> None:
        await self.until(lambda: all(one.settled for one in self.core.view().interfaces), seconds, "every address here")

    async def until_read(self, seconds: float = 10.0) -> None:
        await self.until(
            lambda: all(one.read_at for one in self.core.view().interfaces), seconds, "every interface read"
        )
