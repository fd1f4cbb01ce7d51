"""What Azure announces of this virtual machine: restarts, moves, freezes, evictions ("Scheduled Events").

Minutes ahead for maintenance, seconds for an eviction. Whether an event is ours is told by the name of the machine, which IMDS tells too.
What waits for the end of its notice can be told to begin.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gateway.runtime.cloud_http import CloudHttp, Response
from gateway.runtime.scheduled_events import LONGEST_WORD, Announced

EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
SECONDS = 130.0
"""The first answer takes up to two minutes: Azure begins to watch the machine when it is asked."""
_HEADERS = {"Metadata": "true"}


class AzureAnnouncements:
    """`scheduled_events.Announcements`."""

    def __init__(self, http: CloudHttp, url: str) -> None:
        self._http, self._url = http, url.rstrip("/")
        self._name = ""

    async def announced(self) -> list[Announced]:
        self._name = self._name or _name(await self._http.request("GET", self._url + NAME, _HEADERS))
        answer = await self._http.request("GET", self._url + EVENTS, _HEADERS, seconds=SECONDS)
        return _events(answer, self._name)

    async def approve(self, chosen: Collection[str]) -> bool:
        body = {"StartRequests": [{"EventId": one} for one in chosen]}
        answer = await self._http.request("POST", self._url + EVENTS, _HEADERS, body)
        if answer.status != 200:
            raise ValueError(f"the start of an announced event was answered with {answer.status}")
        return True


def _name(answer: Response) -> str:
    """Raises ValueError."""
    text = answer.body.decode("utf-8", "replace").strip()
    if answer.status != 200 or not 0 < len(text) <= LONGEST_WORD or not text.isprintable():
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
        return value if isinstance(value, str) and len(value) <= LONGEST_WORD and value.isprintable() else ""

    if not text("EventId"):
        raise ValueError("IMDS announced an event without an EventId")
    return Announced(
        text("EventId"), text("EventType") or "an event", text("EventStatus") == "Started", text("NotBefore")
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
