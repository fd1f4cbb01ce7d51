"""The driver: results of many computations do not hold up the loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.contract import Compute
from gateway.runtime.clock import boottime
from gateway.runtime.driver import TURN, Driver


class Counting:
    """A node that wants `jobs` computed and remembers what came back."""

    def __init__(self, jobs: int) -> None:
        self.wanted = [Compute(ticket, lambda ticket=ticket: -ticket) for ticket in range(jobs)]
        self.results: dict[int, object] = {}

    def command(self, command: object, now: float) -> None:
        if isinstance(command, Exception):
            raise command

    def computed(self, ticket: int, result: object, now: float) -> None:
        self.results[ticket] = result

    def poll(self) -> Iterator[object]:
        while self.wanted:
            yield self.wanted.pop()

    def next_deadline(self) -> float | None:
        return None


async def play(node: Any) -> list[int]:
    """How many results each turn of the loop brought."""
    driver = Driver(node, lambda effect: None)
    jobs, turns, seen = len(node.wanted), [], 0
    driver.command("begin")
    driver._pool.shutdown(wait=True)  # all are ready at once
    while seen < jobs:
        await asyncio.sleep(0)
        turns.append(len(node.results) - seen)
        seen = len(node.results)
    driver.close()
    return turns


def test_results_that_come_at_once_are_taken_in_turns_and_none_is_lost() -> None:
    node = Counting(25)
    turns = asyncio.run(asyncio.wait_for(play(node), 5))
    assert node.results == {ticket: -ticket for ticket in range(25)}
    assert max(turns) == TURN


def test_a_node_that_fails_over_one_result_gets_the_others() -> None:
    class Failing(Counting):
        def computed(self, ticket: int, result: object, now: float) -> None:
            super().computed(ticket, result, now)
            if ticket == 5:
                raise RuntimeError("a fault of ours")

    node = Failing(12)
    asyncio.run(asyncio.wait_for(quiet(node), 5))
    assert len(node.results) == 12


async def quiet(node: Any) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    await play(node)
    assert [str(one["exception"]) for one in told] == ["a fault of ours"]


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust: not an Exception, and no name by which it could be caught."""


@pytest.mark.parametrize(
    ("where", "error"),
    [
        *itertools.product(("in a thread", "on the loop"), (PanicException, asyncio.CancelledError, ValueError)),
        ("in a thread", SystemExit),
    ],
)
def test_whatever_a_job_raises_answers_its_ticket(
    where: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Without an answer the IKE_SA that asked would wait for ever."""

    def job() -> object:
        raise error("index out of bounds")

    node: Any = Counting(0)
    node.wanted = [Compute(ticket, job) for ticket in range(3)]

    async def scenario() -> None:
        driver = Driver(node, lambda effect: None)
        driver._lasting[job.__code__] = 0.0 if where == "on the loop" else 1.0
        driver.command("begin")
        while len(node.results) < 3:
            await asyncio.sleep(0.001)
        driver.close()

    asyncio.run(asyncio.wait_for(scenario(), 5))
    assert all(isinstance(one, Exception) and "index out of bounds" in str(one) for one in node.results.values())
    if issubclass(error, Exception):
        assert all(type(one) is error for one in node.results.values())
        assert caplog.records == []
    else:
        assert all(error.__name__ in str(one) for one in node.results.values())
        (told,) = caplog.records
        assert error.__name__ in told.getMessage()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_result(error: type[BaseException]) -> None:
    """A signal's handler runs wherever the loop's thread is, perhaps within a job."""

    def job() -> object:
        raise error

    node: Any = Counting(0)
    node.wanted = [Compute(1, job)]

    async def scenario() -> None:
        driver = Driver(node, lambda effect: None)
        driver._lasting[job.__code__] = 0.0
        driver.command("begin")
        await asyncio.sleep(1)

    with pytest.raises(error):
        asyncio.run(scenario())
    assert node.results == {}


@pytest.mark.parametrize("inputs", [1, 3])
def test_an_input_that_fails_leaves_the_driver_usable(inputs: int) -> None:
    async def scenario() -> None:
        node: Any = Counting(0)
        driver = Driver(node, lambda effect: None)
        for _ in range(inputs):
            with pytest.raises(ValueError, match="wrong"):
                driver.command(ValueError("wrong"))
        node.wanted = [Compute(1, lambda: 2)]
        driver.command("again")
        driver._pool.shutdown(wait=True)
        while not node.results:
            await asyncio.sleep(0)
        driver.close()

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_loop_that_was_busy_hears_what_waits_before_it_looks_at_the_clock() -> None:
    class Waiting(Counting):
        said: list[str] = []

        def next_deadline(self) -> float | None:
            return None if self.said else boottime() + 0.01

        def handle_deadline(self, now: float) -> None:
            self.said.append("time is over")

    async def scenario() -> None:
        node: Any = Waiting(0)
        driver = Driver(node, lambda effect: None, hear=lambda: node.said.append("a sign of life"))
        driver.command("begin")
        while len(node.said) < 2:
            await asyncio.sleep(0.001)
        assert node.said == ["a sign of life", "time is over"]
        driver.close()

    asyncio.run(asyncio.wait_for(scenario(), 5))
