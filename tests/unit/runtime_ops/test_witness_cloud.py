"""What carries out an Ask ends it whatever the store does, and tells no more than it should."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from support.heartbeat_network import SeededRandom

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Reply, Saved, Step
from gateway.ha.witness import Answer, Ask, Failed, Free, Granted, Held, Operation
from gateway.runtime.aws_client import line
from gateway.runtime.witness_cloud import Asker, CloudWitness, boottime

SECRET = "a secret that nobody sees"


class Shelf:
    """A store in this process, which does what it is told to first."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.number = 0
        self.first: Callable[[Step], Awaitable[None]] | None = None

    async def do(self, step: Step) -> Reply:
        if self.first is not None:
            await self.first(step)
        tag = str(self.number) if self.content is not None else ""
        if isinstance(step, Load):
            return Loaded(self.content, tag)
        if step.tag != tag:
            return Conflict()
        self.content, self.number = step.content, self.number + 1
        return Saved(str(self.number))

    async def close(self) -> None:
        self.content = None


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def witness(
    shelf: Shelf, clock: Callable[[], float] = boottime, boot: bytes = b"b" * 16, seconds: float = 30.0
) -> CloudWitness:
    return CloudWitness(Asker("gw-a", boot, seconds), shelf, SeededRandom(1), clock)


def answers(one: CloudWitness, *asks: Ask) -> list[Answer]:
    async def scene() -> list[Answer]:
        return [await one.carry_out(ask) for ask in asks]

    return asyncio.run(scene())


def test_each_operation_on_the_clock_that_is_given():
    shelf, clock = Shelf(), Clock()
    one, other = witness(shelf, clock), witness(shelf, clock, b"c" * 16)
    assert answers(one, Ask(1, Operation.ACQUIRE, 1, 6.0)) == [Held(0, "", 56.6 - 50.0)]
    clock.now = 56.6
    assert answers(one, Ask(2, Operation.ACQUIRE, 1, 6.0), Ask(3, Operation.RENEW, 1, 6.0)) == [Granted(1, 6.0)] * 2
    (held,) = answers(other, Ask(1, Operation.ACQUIRE, 1, 6.0))
    assert isinstance(held, Held) and (held.epoch, held.holder, held.ours) == (1, "gw-a", False)
    assert answers(other, Ask(2, Operation.BREAK, 2, 6.0)) == [Granted(2, 6.0)]
    assert answers(other, Ask(3, Operation.RELEASE, 2, 6.0), Ask(4, Operation.READ, 0, 6.0)) == [Free(2)] * 2
    assert answers(one, Ask(4, Operation.RENEW, 1, 6.0)) == [Free(2)]


def test_a_defect_ends_the_ask_and_what_it_says_is_not_told(caplog: pytest.LogCaptureFixture):
    shelf = Shelf()

    async def fail(step: Step) -> None:
        raise KeyError(SECRET)

    shelf.first = fail
    assert answers(witness(shelf), Ask(1, Operation.READ, 0, 6.0)) == [Failed("the call ended by a defect: KeyError")]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "in fail" in record.getMessage(), "where it was"
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("seconds", "ttl", "said"), [(0.02, 6.0, "0.02"), (30.0, 0.03, "0.03")])
def test_a_store_that_does_not_answer_ends_the_ask_in_bounded_time(seconds: float, ttl: float, said: str):
    shelf = Shelf()

    async def wait(step: Step) -> None:
        await asyncio.Event().wait()

    shelf.first = wait
    answer = answers(witness(shelf, seconds=seconds), Ask(1, Operation.READ, 0, ttl))
    assert answer == [Failed(f"the store did not answer within {said} s")]


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan")])
def test_a_ttl_that_is_none_is_a_failure_too(ttl: float):
    assert isinstance(answers(witness(Shelf()), Ask(1, Operation.ACQUIRE, 1, ttl))[0], Failed)


def test_several_asks_at_once_leave_one_record():
    shelf, clock = Shelf(), Clock()
    one = witness(shelf, clock)
    answers(one, Ask(1, Operation.READ, 0, 6.0))
    clock.now += 10

    async def yielding(step: Step) -> None:
        await asyncio.sleep(0)

    shelf.first = yielding

    async def scene() -> list[Answer]:
        return await asyncio.gather(*(one.carry_out(Ask(number, Operation.ACQUIRE, 1, 6.0)) for number in range(4)))

    first, *others = asyncio.run(scene())
    assert first == Granted(1, 6.0)
    assert all(isinstance(answer, Held) and answer.ours and answer.epoch == 1 for answer in others)


def test_a_refused_signature_does_not_quote_what_was_signed():
    told = "SignatureDoesNotMatch: it does not match.\nThe Canonical String for this request should have been 'x-amz-security-token:abc'"
    assert line(ValueError(told)) == "SignatureDoesNotMatch: it does not match."
    assert len(line(ValueError("x" * 9999))) == 300
