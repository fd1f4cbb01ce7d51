"""What AWS announces of this instance, over real HTTP: a server that plays IMDSv2 in a process of its own, and misbehaves when told to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import announced
from support.announced import Scenario, Told
from support.clouds import MetadataServer, imds

from gateway.runtime.announced_aws import AwsAnnouncements
from gateway.runtime.scheduled_events import ScheduledEvents

pytestmark = pytest.mark.system
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SPOT = {"action": "terminate", "time": "2026-11-22T12:02:00Z"}
REBALANCE = {"noticeTime": "2026-11-22T11:59:00Z"}


def reboot(ahead: timedelta, state: str = "active", **changes: object) -> dict[str, object]:
    at = (NOW + ahead).strftime("%d %b %Y %H:%M:%S GMT")
    event = {"NotBefore": at, "Code": "system-reboot", "Description": "scheduled reboot", "NotAfter": at}
    return {**event, "EventId": "instance-event-0d59937288b749b32", "State": state, **changes}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MetadataServer]:
    with imds(tmp_path_factory.mktemp("imds")) as running:
        yield running


def play(server: MetadataServer, scenario: Scenario, url: str = "") -> Told:
    server.misbehave()
    server.announce()
    told = Told(relieved=True, now=NOW)
    return announced.play(lambda http: AwsAnnouncements(http, url or server.url, lambda: told.now), scenario, told)


def test_maintenance_counts_from_a_quarter_of_an_hour_before_until_it_is_over(server: MetadataServer) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        await events.look()
        server.announce(maintenance=[reboot(timedelta(days=13))])
        await events.look()
        assert told.leaves == [], "both gateways may be announced for the next weeks"
        told.now += timedelta(days=13) - timedelta(minutes=16)
        await events.look()
        assert told.leaves == []
        told.now += timedelta(minutes=2)
        await events.look()
        assert told.leaves == [True]
        told.now += timedelta(minutes=30)
        await events.look()
        assert told.leaves[-1] is True, "it has begun, and is not over"
        server.announce(maintenance=[reboot(timedelta(days=13), "completed")])
        await events.look()
        assert told.leaves[-1] is False

    told = play(server, scenario)
    assert told.events == ["machine-leaves", "machine-stays"], "nothing waits for our word"
    text = "system-reboot of this machine is announced, not before 05 Dec 2026 12:00:00 GMT: the other gateway shall be active"
    assert told.words[0][1] == text


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"spot": SPOT}, "terminate (spot) of this machine is announced, not before 2026-11-22T12:02:00Z"),
        ({"rebalance": REBALANCE}, "interruption (spot, rebalance recommendation of 2026-11-22T11:59:00Z)"),
        ({"maintenance": [reboot(timedelta(0), NotBefore="some day")]}, "system-reboot of this machine is announced"),
        ({"maintenance": [reboot(-timedelta(minutes=1), Code="instance-stop")]}, "instance-stop of this machine has begun"),
    ],
    ids=["interruption", "recommendation", "no date", "begun"],
)  # fmt: skip
def test_what_is_near_is_told_at_once(server: MetadataServer, what: dict[str, Any], words: str) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        server.announce(**what)
        await events.look()
        assert told.leaves == [True]
        server.announce()
        await events.look()
        assert told.leaves[-1] is False

    assert play(server, scenario).words[0][1].startswith(words)


@pytest.mark.parametrize("state", ["completed", "canceled"])
def test_what_is_over_is_not_announced(server: MetadataServer, state: str) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        server.announce(maintenance=[reboot(timedelta(0), state)])
        await events.look()
        assert told.leaves == []

    play(server, scenario)


def test_one_session_serves_many_questions_and_another_is_asked_for_when_it_is_over(server: MetadataServer) -> None:
    def sessions() -> int:
        return server.log().count("PUT /latest/api/token")

    async def scenario(events: ScheduledEvents, told: Told) -> None:
        before = sessions()
        for _ in range(3):
            await events.look()
        assert sessions() == before + 1
        server.misbehave({"kind": "expire", "match": "spot", "times": 1})
        server.announce(spot=SPOT)
        await events.look()
        assert sessions() == before + 2
        assert told.leaves == [True], "asked again at once"

    assert play(server, scenario).events == ["machine-leaves"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 401},
        {"kind": "reset"},
        {"kind": "nonsense"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
@pytest.mark.parametrize("match", ["maintenance", "spot", "rebalance"])
def test_an_answer_that_cannot_be_had_changes_nothing_and_is_said_once(
    server: MetadataServer, fault: dict[str, Any], match: str
) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        server.announce(maintenance=[reboot(timedelta(0))], spot=SPOT, rebalance=REBALANCE)
        await events.look()
        server.announce()
        server.misbehave({**fault, "match": match, "times": 4})
        await events.look()
        await events.look()
        assert set(told.leaves) == {True}
        server.misbehave()
        await events.look()
        assert told.leaves[-1] is False

    assert play(server, scenario).events.count("scheduled-events-failed") == 1


def test_no_session_no_answer(server: MetadataServer) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        server.announce(spot=SPOT)
        server.misbehave({"kind": "status", "status": 403, "match": "token", "times": 1})
        await events.look()
        assert told.leaves == []

    (word,) = play(server, scenario).words
    assert word[1].endswith("IMDS answered 403 to the question for a session (IMDSv2)")


@pytest.mark.parametrize(
    "what",
    [
        {"maintenance": {"EventId": "e"}},
        {"maintenance": [{"State": "active", "Code": "system-reboot"}]},
        {"maintenance": [{**reboot(timedelta(0)), "EventId": "x" * 10_000}]},
        {"maintenance": ["reboot", 3, None]},
        {"spot": ["terminate"]},
        {"rebalance": 7},
    ],
    ids=["no list", "no id", "a long id", "no events", "a list", "a number"],
)
def test_nonsense_moves_nothing(server: MetadataServer, what: dict[str, Any]) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        server.announce(**what)
        await events.look()
        assert told.leaves == []

    play(server, scenario)


def test_nobody_answers(server: MetadataServer) -> None:
    async def scenario(events: ScheduledEvents, told: Told) -> None:
        await events.look()
        assert told.leaves == []

    assert play(server, scenario, "http://127.0.0.1:1").events == ["scheduled-events-failed"]
