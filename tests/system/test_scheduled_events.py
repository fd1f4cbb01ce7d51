"""What Azure announces of this machine, over real HTTP: a server that plays IMDS in a process of its own, and misbehaves when told to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import announced
from support.announced import Scenario, Told
from support.clouds import AzureServer, azure

from gateway.runtime.announced_azure import AzureAnnouncements
from gateway.runtime.scheduled_events import ScheduledEvents

pytestmark = pytest.mark.system
REBOOT = {
    "EventId": "e-1",
    "EventType": "Reboot",
    "EventStatus": "Scheduled",
    "Resources": ["vm-a"],
    "NotBefore": "soon",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azure(tmp_path_factory.mktemp("azure")) as running:
        yield running


def play(server: AzureServer, scenario: Scenario, url: str = "") -> Told:
    server.misbehave()
    server.admin("events", [])
    return announced.play(
        lambda http: AzureAnnouncements(http, url or f"{server.url}/vm-a"), scenario, Told(relieved=False)
    )


def started(server: AzureServer) -> list[str]:
    return [event["EventId"] for event in server._call("GET", "events") if event["EventStatus"] == "Started"]


def test_an_event_of_ours_is_told_approved_when_relieved_and_over_when_it_is_gone(server: AzureServer) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        await events.look()
        assert told.leaves == []
        server.admin("events", [REBOOT, {**REBOOT, "EventId": "e-2", "Resources": ["vm-b"]}])
        await events.look()
        assert set(told.leaves) == {True}
        assert started(server) == [], "somebody still relies on this machine"
        told.relieved = True
        await events.look()
        assert started(server) == ["e-1"], "that of the other machine is not ours to start"
        await events.look()
        server.admin("events", [])
        await events.look()
        assert told.leaves[-1] is False

    told = play(server, scenario)
    assert [event for event, _ in told.words] == ["machine-leaves", "machine-may-leave", "machine-stays"]
    assert told.words[0][1] == "Reboot of this machine is announced, not before soon: the other gateway shall be active"


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 429, "retry_after": "3"},
        {"kind": "reset"},
        {"kind": "nonsense"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
def test_an_answer_that_cannot_be_had_changes_nothing_and_is_said_once(
    server: AzureServer, fault: dict[str, Any]
) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        server.admin("events", [REBOOT])
        await events.look()
        server.misbehave({**fault, "match": "scheduledevents", "times": 2})
        await events.look()
        await events.look()
        assert set(told.leaves) == {True}
        await events.look()
        server.admin("events", [])
        await events.look()
        assert told.leaves[-1] is False

    told = play(server, scenario)
    assert [event for event, _ in told.words].count("scheduled-events-failed") == 1


@pytest.mark.parametrize(
    "events",
    [
        [{"EventStatus": "Scheduled", "Resources": ["vm-a"]}],
        [{"EventId": "x" * 10_000, "Resources": ["vm-a"]}],
        [{"EventId": 7, "EventType": [], "Resources": ["vm-a"]}],
        ["vm-a", 3, None, {"Resources": "vm-a"}, {"Resources": None}],
    ],
    ids=["no id", "a long id", "no words", "no events"],
)
def test_nonsense_within_the_list_moves_nothing(server: AzureServer, events: list[Any]) -> None:
    async def scenario(watch: ScheduledEvents, told: Told) -> None:
        server.admin("events", events)
        await watch.look()
        assert told.leaves == []

    play(server, scenario)


def test_nobody_answers(server: AzureServer) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        await events.look()
        assert told.leaves == []

    told = play(server, scenario, "http://127.0.0.1:1")
    assert [event for event, _ in told.words] == ["scheduled-events-failed"]
