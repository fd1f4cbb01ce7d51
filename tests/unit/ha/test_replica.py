"""The copy of SAs: what is done on one side is kept on the other, or the other knows that its copy is none."""

from __future__ import annotations

import random
from math import inf

import pytest

from gateway.ha.replica import Begin, Copy, Gone, Holder, Ping, Pong, Record, Source, Whole

LASTS = 3.0
EPOCH = 7


def session(source: Source, holder: Holder, contents: dict[str, object], now: float = 100.0) -> None:
    """Both ends up to where the copy is good."""
    holder.opened()
    source.attach(EPOCH, now, contents)
    exchange(source, holder, now)


def exchange(source: Source, holder: Holder, now: float) -> None:
    """Without delay, until nobody has anything to say."""
    while said := [*source.poll()]:
        for one in said:
            holder.receive(one, now)
        for ping in holder.poll():
            assert isinstance(ping, Ping)
            source.pinged(ping, now)


def test_a_copy_is_for_the_next_epoch_only() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"site": "state"})
    assert holder.fit(EPOCH + 1, 101.0) == {"site": "state"}
    for epoch in (EPOCH - 1, EPOCH, EPOCH + 2):
        assert holder.fit(epoch, 101.0) == {}
    assert Holder(LASTS).fit(1, 0.0) == {}


def test_a_copy_is_good_until_the_other_was_silent_for_too_long() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"site": "state"})
    assert holder.usable(100.0 + LASTS - 0.01)
    assert not holder.usable(100.0 + LASTS)
    holder.ping(102.0)
    exchange_pings(source, holder, 102.0)
    assert holder.usable(104.9)
    assert source.until > 102.0 + LASTS


def exchange_pings(source: Source, holder: Holder, now: float) -> None:
    for ping in holder.poll():
        assert isinstance(ping, Ping)
        source.pinged(ping, now)
    exchange(source, holder, now)


def test_nothing_waits_where_nobody_has_a_copy() -> None:
    source = Source()
    assert source.settled(source.changed("site", "state"), 0.0)


def test_what_depends_on_a_record_waits_for_its_acknowledgement() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"site": "one"})
    number = source.changed("site", "two")
    assert not source.settled(number, 100.1)
    exchange(source, holder, 100.1)
    assert source.settled(number, 100.1)
    assert holder.fit(EPOCH + 1, 100.2) == {"site": "two"}
    source.changed("site", None)
    exchange(source, holder, 100.3)
    assert not holder.usable(100.4), "of nothing there is no copy"


def test_a_session_that_ended_holds_up_what_follows_until_its_copy_is_none() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"site": "one"})
    source.detach()
    number = source.changed("site", "two")
    assert holder.usable(102.9)
    assert not source.settled(number, 102.9)
    assert not holder.usable(103.0)
    assert source.settled(number, 103.2)


def test_numbers_of_another_source_acknowledge_nothing() -> None:
    holder = Holder(LASTS)
    session(Source(), holder, {str(number): "state" for number in range(50)})
    source = Source()
    session(source, holder, {"site": "one"})
    number = source.changed("site", "two")
    holder.ping(100.2)
    for ping in holder.poll():
        assert isinstance(ping, Ping)
        source.pinged(ping, 100.2)
    assert not source.settled(number, 100.2)


def test_a_copy_that_is_not_whole_is_not_used_nor_one_of_a_session_before() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"a": 1, "b": 2})
    holder.opened()
    assert holder.usable(101.0), "what the session before brought"
    holder.receive(Begin(EPOCH, 0.0), 101.0)
    holder.receive(Record(1, "a", 1), 101.0)
    holder.receive(Pong(1), 101.0)
    assert not holder.usable(101.0)
    assert list(holder.poll()) == []


def test_a_pong_that_answers_no_ping_of_this_session_proves_nothing() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"site": "one"})
    holder.opened()
    holder.receive(Begin(EPOCH, 0.0), 102.0)
    holder.receive(Record(1, "site", "one"), 102.0)
    holder.receive(Whole(1), 102.0)
    holder.receive(Pong(1), 102.0)
    holder.receive(Pong(99), 102.0)
    assert not holder.usable(102.0)


def test_a_record_that_was_left_out_leaves_no_copy() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"a": 1})
    source.changed("a", 2)
    source.changed("b", 1)
    lost, kept = source.poll()
    holder.receive(kept, 100.1)
    assert isinstance(lost, Record)
    assert not holder.usable(100.1)
    assert list(holder.poll()) == []


def test_who_was_active_before_does_not_replace_a_later_copy() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"a": 1})
    holder.opened()
    for said in (Begin(EPOCH - 1, 0.0), Record(1, "a", "old"), Whole(1)):
        holder.receive(said, 100.5)
    assert holder.fit(EPOCH + 1, 100.5) == {"a": 1}


def test_who_ends_lets_nobody_wait() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"a": 1})
    number = source.changed("a", 2)
    list(source.poll())
    holder.end()
    assert [type(said) for said in holder.poll()] == [Gone]
    assert not holder.usable(100.1)
    source.released()
    assert source.settled(number, 100.1)


def test_how_long_a_copy_lasts_is_what_its_ping_said() -> None:
    source, holder = Source(), Holder(LASTS)
    session(source, holder, {"a": 1})
    holder.ping(101.0)
    holder.lasts = 60.0
    exchange_pings(source, holder, 101.0)
    assert not holder.usable(101.0 + LASTS)


def test_nobody_waits_for_ever_whatever_the_other_asks() -> None:
    source = Source()
    source.attach(EPOCH, 0.0, {})
    source.pinged(Ping(1, 10**6, inf), 0.0)
    number = source.changed("site", "state")
    assert not source.settled(number, 1.0), "what was never sent cannot be acknowledged"
    assert source.settled(number, 700.0)


def test_what_a_gateway_had_itself_is_good_for_the_next_epoch() -> None:
    holder = Holder(LASTS)
    holder.inherit(Copy(EPOCH, {"site": "mine"}, inf))
    assert holder.fit(EPOCH + 1, 1e9) == {"site": "mine"}
    assert holder.fit(EPOCH + 2, 1e9) == {}


class Link:
    """Both ends on clocks of their own, with delays, and sessions that end with whatever was under way."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.source, self.holder = Source(), Holder(LASTS)
        self.rates = (self.chance.uniform(0.995, 1.005), self.chance.uniform(0.995, 1.005))
        self.offsets = (self.chance.uniform(0, 1e6), self.chance.uniform(0, 1e6))
        self.now = 0.0
        self.up = False
        self.there: list[tuple[float, object]] = []
        self.back: list[tuple[float, Ping]] = []
        self.value = 0

    def clock(self, end: int) -> float:
        return self.offsets[end] + self.rates[end] * self.now

    def step(self) -> None:
        self.now += self.chance.expovariate(10)
        match self.chance.randrange(12):
            case 0:
                self.up = False
                self.source.detach()
                self.there, self.back = [], []
            case 1 if not self.up:
                self.up = True
                self.holder.opened()
                self.source.attach(EPOCH, self.clock(0), {"site": self.value})
            case 2 | 3:
                self.holder.ping(self.clock(1))
            case 4 | 5:
                self.value += 1
                self.source.changed("site", self.value)
            case 6:
                self.now += self.chance.uniform(0, 4)
        self._carry()

    def _carry(self) -> None:
        for said in self.source.poll():
            self.there.append((self._late(self.there), said))
        for ping in self.holder.poll():
            assert isinstance(ping, Ping)
            if self.up:
                self.back.append((self._late(self.back), ping))
        while self.up and self.there and self.there[0][0] <= self.now:
            self.holder.receive(self.there.pop(0)[1], self.clock(1))  # type: ignore[arg-type]
        while self.up and self.back and self.back[0][0] <= self.now:
            self.source.pinged(self.back.pop(0)[1], self.clock(0))

    def _late(self, queue: list[tuple[float, object]] | list[tuple[float, Ping]]) -> float:
        """In order, as TCP has it."""
        at = self.now + self.chance.choice((0.0, 0.001, 0.1, 2.0))
        return max(at, queue[-1][0] if queue else 0.0)


@pytest.mark.parametrize("seed", range(60))
def test_whoever_may_go_on_from_the_copy_knows_all_that_was_done(seed: int) -> None:
    """With clocks that run 0.5 % fast or slow, delays and sessions that end anywhere."""
    link = Link(seed)
    used = settled = 0
    for _ in range(2000):
        link.step()
        newest = link.source.number
        if link.source.settled(newest, link.clock(0)):
            settled += 1
            copy = link.holder.fit(EPOCH + 1, link.clock(1))
            used += bool(copy)
            assert copy.get("site", link.value) == link.value
    assert used > 5, "or this would prove nothing"
    assert settled > 100
