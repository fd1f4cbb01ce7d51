"""What Azure announces of this virtual machine: restarts, moves, freezes, evictions. The pair hands over before.

    IMDS --GET scheduledevents--> ours? --> MachineLeaves(True)  --> the active gateway hands over to one that stays
                                  relieved? --POST StartRequests--> it need not wait any longer
                                  gone?   --> MachineLeaves(False)

Documented by Azure as "Scheduled Events"; minutes ahead for maintenance, seconds for an eviction. An answer that cannot be had or read
changes nothing. Whether an event is ours is told by the name of the machine, which IMDS tells too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gateway.runtime.cloud_http import CloudError, CloudHttp, Response

EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
INTERVAL = 5.0
SECONDS = 130.0
"""The first answer takes up to two minutes: Azure begins to watch the machine when it is asked."""
_HEADERS = {"Metadata": "true"}
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Announced:
    """One event that concerns this machine."""

    id: str
    kind: str
    begun: bool
    not_before: str


class ScheduledEvents:
    """`leaves` is told, perhaps more than once; `relieved` says whether nobody relies on this machine any more."""

    def __init__(
        self,
        http: CloudHttp,
        url: str,
        leaves: Callable[[bool], None],
        relieved: Callable[[], bool],
        tell: Callable[[str, str, str], None],
        interval: float = INTERVAL,
    ) -> None:
        self._http, self._url = http, url.rstrip("/")
        self._leaves, self._relieved, self._tell = leaves, relieved, tell
        self._interval = interval
        self._name = ""
        self._known: dict[str, Announced] = {}
        self._approved: set[str] = set()
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Asks once, and does what follows."""
        try:
            self._name = self._name or _name(await self._http.request("GET", self._url + NAME, _HEADERS))
            answer = await self._http.request("GET", self._url + EVENTS, _HEADERS, seconds=SECONDS)
            found = {one.id: one for one in _events(answer, self._name)}
            self._compare(found)
            await self._approve(one for one in found.values() if not one.begun)
        except (CloudError, ValueError) as error:
            self._complain(str(error))
        else:
            self._problem = ""

    def _compare(self, found: dict[str, Announced]) -> None:
        for one in found.values():
            if one.id not in self._known:
                when = "has begun" if one.begun else f"is announced, not before {one.not_before or 'now'}"
                self._tell(
                    "warning", "machine-leaves", f"{one.kind} of this machine {when}: the other gateway shall be active"
                )
        before, self._known = bool(self._known), found
        self._approved &= found.keys()
        if found or before:
            self._leaves(bool(found))  # also again: the pair may have begun anew
        if before and not found:
            self._tell("info", "machine-stays", "what was announced for this machine is over")

    async def _approve(self, waiting: Iterable[Announced]) -> None:
        """It need not wait for the end of its notice."""
        chosen = [one.id for one in waiting if one.id not in self._approved]
        if not chosen or not self._relieved():
            return
        body = {"StartRequests": [{"EventId": one} for one in chosen]}
        answer = await self._http.request("POST", self._url + EVENTS, _HEADERS, body)
        if answer.status != 200:
            raise ValueError(f"the start of an announced event was answered with {answer.status}")
        self._approved.update(chosen)
        self._tell("info", "machine-may-leave", "the other gateway is active: the announced event may begin")

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._tell(
                "warning", "scheduled-events-failed", f"announced events of this machine are not known: {problem}"
            )


def _name(answer: Response) -> str:
    """Raises ValueError."""
    text = answer.body.decode("utf-8", "replace").strip()
    if answer.status != 200 or not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():
        raise ValueError(f"IMDS answered {answer.status} to the question for this machine's name")
    return text


def _events(answer: Response, name: str) -> list[Announced]:
    """Those that name this machine; raises ValueError."""
    content = answer.json() if answer.status == 200 else None
    events = content.get("Events") if isinstance(content, dict) else None
    if not isinstance(events, list):
        raise ValueError(f"IMDS answered {answer.status} without a list of events")
    return [_event(one) for one in events if isinstance(one, dict) and name in _list(one.get("Resources"))]


def _event(one: dict[str, Any]) -> Announced:
    def text(key: str) -> str:
        value = one.get(key)
        return value if isinstance(value, str) and len(value) <= _LONGEST_NAME and value.isprintable() else ""

    if not text("EventId"):
        raise ValueError("IMDS announced an event without an EventId")
    return Announced(
        text("EventId"), text("EventType") or "an event", text("EventStatus") == "Started", text("NotBefore")
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
