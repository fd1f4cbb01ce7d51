"""What the daemon makes of maintenance that a cloud announces, tried against a server that plays the cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.scheduled_events import Announcements, ScheduledEvents


class Told:
    """What came of it. `relieved`: the other gateway is active, and everybody knows; `now`: a clock that the test moves."""

    def __init__(self, relieved: bool, now: datetime = datetime.min) -> None:
        self.leaves: list[bool] = []
        self.words: list[tuple[str, str]] = []
        self.relieved, self.now = relieved, now

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.words]


Scenario = Callable[[ScheduledEvents, Told], Awaitable[None]]


def play(made: Callable[[CloudHttp], Announcements], scenario: Scenario, told: Told) -> Told:
    """A scenario from its beginning to its end; gives `told` back."""

    async def run() -> None:
        http = CloudHttp()
        events = ScheduledEvents(
            made(http),
            told.leaves.append,
            lambda: told.relieved,
            lambda level, event, text: told.words.append((event, text)),
        )
        try:
            await scenario(events, told)
        finally:
            await http.close()

    asyncio.run(run())
    return told
