"""Loops on which everything depends: past a turn that failed, and never away without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from gateway.runtime.scheduled_events import Announced, ScheduledEvents
from gateway.runtime.systemd import attend
from gateway.runtime.turns import SELDOM, Failures, Tasks, turns


class Turns:
    """Each one does what `outcomes` says, and says when that was."""

    def __init__(self, *outcomes: Exception | asyncio.CancelledError | None) -> None:
        self._outcomes = list(outcomes)
        self.at: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        if not self._outcomes:
            self.over.set()
            await asyncio.Event().wait()
        outcome = self._outcomes.pop(0)
        if outcome is not None:
            raise outcome


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    uvloop.run(bounded())


@pytest.mark.parametrize(
    "failure", [ValueError("nobody thought of it"), KeyError("a"), asyncio.CancelledError(), RecursionError()], ids=repr
)
def test_a_turn_that_fails_is_said_with_its_traceback_and_the_next_one_comes(
    failure: Exception | asyncio.CancelledError, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        turn = Turns(None, failure, None)
        task = asyncio.create_task(turns(turn, "no counter is read", after_failure=0.2))
        await turn.over.wait()
        assert len(turn.at) == 4
        assert turn.at[2] - turn.at[1] > 0.15, "what fails at once does not spin"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    play(scenario)
    (record,) = caplog.records
    assert (record.levelno, record.event) == (logging.ERROR, "task-failed")  # type: ignore[attr-defined]
    assert "no counter is read" in record.getMessage()
    assert repr(failure) in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


def test_the_same_failure_is_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    failures = Failures("nothing", lambda: now[0])
    for at, error in ((0.0, "a"), (1.0, "a"), (2.0, "b"), (3.0, "b"), (4.0, "b"), (SELDOM + 2.0, "b")):
        now[0] = at
        failures.say(ValueError(error))
    assert [record.getMessage() for record in caplog.records] == [
        "failed: nothing: ValueError('a')",
        "failed: nothing: ValueError('b') (1 more failures before)",
        "failed: nothing: ValueError('b') (2 more failures before)",
    ]


def test_the_daemon_hears_of_the_end_of_what_was_to_go_on_and_of_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        lost: list[bool] = []
        tasks = Tasks(lambda: lost.append(True))

        async def ends(error: BaseException | None = None) -> None:
            if error is not None:
                raise error

        tasks.once(ends(), "well")
        tasks.once(ends(ValueError("badly")), "badly")
        tasks.again(Turns(None), "on and on", "", lambda: 0.0)
        await asyncio.sleep(0.05)
        assert lost == []
        for error in (ValueError("unheard of"), None):
            tasks.always(ends(error), "needed")
            await asyncio.sleep(0.05)
        assert lost == [True, True]
        await tasks.end()
        assert lost == [True, True], "what the daemon ends is not lost"

    play(scenario)
    said = [(record.event, record.getMessage()) for record in caplog.records]  # type: ignore[attr-defined]
    gone = ("task-lost", "gatewayd cannot go on without its task needed, which ended: it ends as failed")
    assert said == [
        ("task-failed", "task badly ended by ValueError('badly')"),
        gone,
        gone,
    ]
    assert [record.exc_info is not None for record in caplog.records] == [True, True, False]


def test_what_the_cloud_announces_is_asked_for_again_after_a_failure_that_nobody_thought_of() -> None:
    class Broken:
        def __init__(self) -> None:
            self.asked = 0
            self.twice = asyncio.Event()

        async def announced(self) -> list[Announced]:
            self.asked += 1
            if self.asked == 1:
                raise KeyError("EventStatus")
            self.twice.set()
            return []

        async def approve(self, chosen: object) -> bool:
            raise AssertionError(chosen)

    async def scenario() -> None:
        cloud = Broken()
        events = ScheduledEvents(cloud, lambda leaves: None, lambda: False, lambda *told: None, interval=0.01)
        task = asyncio.create_task(events.run())
        await cloud.twice.wait()
        task.cancel()

    play(scenario)


def test_without_a_picture_the_watchdog_is_withheld_but_only_for_as_long() -> None:
    class Manager:
        watchdog_interval = 0.1

        def __init__(self) -> None:
            self.fed = asyncio.Event()

        def status(self, text: str) -> None: ...

        def watchdog(self) -> None:
            self.fed.set()

    async def scenario() -> None:
        from support.snapshots import HEALTHY

        manager, taken = Manager(), [0]

        def picture() -> object:
            taken[0] += 1
            if taken[0] < 3:
                raise ValueError("no picture")
            return HEALTHY

        task = asyncio.create_task(attend(manager, picture))  # type: ignore[arg-type]
        await manager.fed.wait()
        assert taken[0] == 3
        task.cancel()

    play(scenario)
