"""Runs the core of the route tables over a real adapter, as the daemon's driver does: feed, drain, arm one timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from gateway.ha.fabric import Command, Fabric
from gateway.ha.fabric_values import Call, Event, FabricSettings, Outcome
from gateway.runtime.randomness import SystemRandom


class Adapter(Protocol):
    async def carry_out(self, call: Call) -> Outcome: ...


class FabricDriver:
    def __init__(self, settings: FabricSettings, adapter: Adapter) -> None:
        self.events: list[Event] = []
        self.outcomes: list[tuple[Call, Outcome]] = []
        self._adapter = adapter
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.fabric = Fabric(settings, SystemRandom(), time.monotonic())
        self._drain()

    def tell(self, command: Command) -> None:
        self.fabric.command(command, time.monotonic())
        self._drain()

    def said(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds} s: {what}\n{self.fabric.view()}\n{self.outcomes[-5:]}"
            ) from None

    async def until_settled(self, seconds: float = 10.0) -> None:
        await self.until(
            lambda: all(table.settled for table in self.fabric.view().tables), seconds, "every table settled"
        )

    async def until_read(self, seconds: float = 10.0) -> None:
        await self.until(lambda: all(table.read_at for table in self.fabric.view().tables), seconds, "every table read")

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drain(self) -> None:
        for effect in self.fabric.poll():
            if isinstance(effect, Call):
                task = asyncio.create_task(self._carry_out(effect))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self.events.append(effect)
        if self._timer is not None:
            self._timer.cancel()
        at = self.fabric.next_deadline()
        if at is not None:
            delay = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)
        self._changed.set()

    def _due(self) -> None:
        self.fabric.handle_deadline(time.monotonic())
        self._drain()

    async def _carry_out(self, call: Call) -> None:
        outcome = await self._adapter.carry_out(call)
        self.outcomes.append((call, outcome))
        self.fabric.computed(call.ticket, outcome, time.monotonic())
        self._drain()
