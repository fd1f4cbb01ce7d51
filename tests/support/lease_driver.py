"""Runs the lease over a cloud's storage, as the daemon's driver does: feed, drain, arm one timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.ha.witness import Acquire, Answer, Ask, Break, Lease, LeaseGranted, LeaseLost, LeaseRefused, Release
from gateway.runtime.witness_cloud import CloudWitness, boottime

Event = LeaseGranted | LeaseLost | LeaseRefused


class LeaseDriver:
    """One process. `witness` stays its maker's."""

    def __init__(self, name: str, witness: CloudWitness, ttl: float) -> None:
        self.name, self.lease, self.witness = name, Lease(ttl), witness
        self.events: list[tuple[float, Event]] = []
        self.answers: list[tuple[Ask, Answer]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def command(self, command: Acquire | Break | Release) -> None:
        self.lease.command(command, boottime())
        self._drain()

    def said(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kind)]

    @property
    def holds(self) -> bool:
        """Also of a process that is gone: as long as it might have acted."""
        return self.lease.valid(boottime())

    def stop(self) -> None:
        """As a process that is killed: what it sent goes on, and nobody waits for the answer."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drain(self) -> None:
        for effect in self.lease.poll():
            if isinstance(effect, Ask):
                task = asyncio.create_task(self._carry_out(effect))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self.events.append((time.monotonic(), effect))
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, self.lease.next_deadline() - boottime())
        self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self.lease.handle_deadline(boottime())
        self._drain()

    async def _carry_out(self, ask: Ask) -> None:
        answer = await self.witness.carry_out(ask)
        if self._stopped:
            return
        self.answers.append((ask, answer))
        self.lease.answered(ask.ticket, answer, boottime())
        self._drain()


class OneHolder:
    """Looks every 5 ms that at most one of them holds the lease, those aside that a BREAK took it from."""

    def __init__(self, *drivers: LeaseDriver) -> None:
        self.drivers = list(drivers)

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.story()}"
            await self.look(0.005)

    async def look(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            holders = [driver for driver in self.drivers if driver.holds and not self._is_broken(driver)]
            assert len(holders) < 2, f"both hold it\n{self.story()}"
            if time.monotonic() >= end:
                return
            await asyncio.sleep(0.005)

    def holder(self) -> str:
        return next((driver.name for driver in self.drivers if driver.holds and not self._is_broken(driver)), "")

    def story(self) -> str:
        return "\n".join(f"{one.name}: {one.events}\n{one.answers[-8:]}" for one in self.drivers)

    def _is_broken(self, driver: LeaseDriver) -> bool:
        broken = [
            event.epoch
            for one in self.drivers
            for _, event in one.events
            if isinstance(event, LeaseGranted) and event.broken
        ]
        last = [event.epoch for _, event in driver.events if isinstance(event, LeaseGranted)]
        return bool(broken and last) and last[-1] < max(broken)
