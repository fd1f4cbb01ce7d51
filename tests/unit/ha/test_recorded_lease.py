"""The lease as a record in a store that compares and sets: who may take it and when, whatever is lost, late or doubled."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.heartbeat_network import SeededRandom
from support.record_world import Fate, RecordWorld

from gateway.ha.recorded_lease import (
    Conflict,
    Load,
    Loaded,
    Record,
    RecordedLease,
    Reply,
    Save,
    Saved,
    Step,
    Unreadable,
)
from gateway.ha.witness import (
    Acquire,
    Answer,
    Ask,
    Break,
    Failed,
    Free,
    Granted,
    Held,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    Operation,
    Release,
)

TTL = 6.0
WAIT = 6.6  # the ttl and a margin
SCHEDULES = 300
OURS, THEIRS = b"o" * 16, b"t" * 16


# --- one Ask, against a store that is played here -----------------------------------------------------------------------


def lease(boot: bytes = OURS) -> RecordedLease:
    return RecordedLease("gw-a", boot, SeededRandom(1))


def record(boot: bytes = THEIRS, epoch: int = 4, held: bool = True, ttl: float = TTL, write: str = "ab" * 16) -> Record:
    return Record(epoch, "gw-a" if boot == OURS else "gw-b", boot.hex(), ttl, held, write)


def loaded(what: Record, tag: str) -> Loaded:
    return Loaded(what.emit(), tag)


def played(one: RecordedLease, ask: Ask, now: float, *replies: Reply, took: float = 0.0) -> tuple[list[Step], Answer]:
    """What it did to the store, and its answer; each reply takes so long."""
    steps, done = one.carry_out(ask, now), []
    left = iter(replies)
    try:
        step = next(steps)
        while True:
            done.append(step)
            now += took
            step = steps.send((next(left), now))
    except StopIteration as ended:
        assert not list(left), "every reply was wanted"
        answer = ended.value
        if isinstance(answer, Held) and answer.remaining is not None:
            answer = replace(answer, remaining=round(answer.remaining, 6))
        return done, answer


def ask(operation: Operation, epoch: int = 0, ttl: float = TTL) -> Ask:
    return Ask(1, operation, epoch, ttl)


def holding(epoch: int = 5) -> RecordedLease:
    """It holds `epoch` under the tag "t5", known at 100."""
    one = lease()
    _, answer = played(one, ask(Operation.ACQUIRE, epoch), 100.0, loaded(record(held=False), "t4"), Saved("t5"))
    assert answer == Granted(epoch, TTL)
    return one


def written(step: Step) -> Record:
    assert isinstance(step, Save)
    return Record.parse(step.content)


def test_what_another_has_is_taken_only_after_its_ttl_and_a_margin_unchanged_on_our_own_clock():
    one, theirs = lease(), loaded(record(), "t4")
    assert played(one, ask(Operation.ACQUIRE, 5), 100.0, theirs) == ([Load()], Held(4, "gw-b", WAIT))
    _, early = played(one, ask(Operation.ACQUIRE, 5), 106.59, theirs)
    assert early == Held(4, "gw-b", 0.01)
    (_, save), answer = played(one, ask(Operation.ACQUIRE, 5), 106.6, theirs, Saved("t5"))
    assert answer == Granted(5, TTL)
    assert isinstance(save, Save) and save.tag == "t4"
    assert replace(written(save), write="") == Record(5, "gw-a", OURS.hex(), TTL, True, "")


def test_it_waits_from_when_it_knew_not_from_when_it_asked():
    one = lease()
    assert played(one, ask(Operation.READ), 100.0, loaded(record(), "t4"), took=3.0)[1] == Held(4, "gw-b", WAIT)
    assert played(one, ask(Operation.READ), 106.6, loaded(record(), "t4"))[1] == Held(4, "gw-b", 3.0)


def test_a_renewal_that_is_seen_begins_the_wait_anew():
    one = lease()
    played(one, ask(Operation.READ), 100.0, loaded(record(), "t4"))
    _, answer = played(one, ask(Operation.ACQUIRE, 5), 106.6, loaded(record(write="cd" * 16), "t5"))
    assert answer == Held(4, "gw-b", WAIT)


def test_a_renewal_that_came_between_makes_the_taking_fail():
    one = lease()
    played(one, ask(Operation.READ), 100.0, loaded(record(), "t4"))
    renewed = loaded(record(write="cd" * 16), "t5")
    steps, answer = played(one, ask(Operation.ACQUIRE, 5), 200.0, loaded(record(), "t4"), Conflict(), renewed)
    assert [type(step) for step in steps] == [Load, Save, Load]
    assert answer == Held(4, "gw-b", WAIT)


def test_the_ttl_in_the_record_counts_not_that_of_the_asker():
    one = lease()
    assert played(one, ask(Operation.READ, ttl=1.0), 100.0, loaded(record(ttl=30.0), "t4"))[1] == Held(4, "gw-b", 33.0)


def test_what_is_released_is_taken_at_once_under_a_higher_epoch():
    released = loaded(record(epoch=9, held=False), "t9")
    assert played(lease(), ask(Operation.READ), 100.0, released)[1] == Free(9)
    (_, save), answer = played(lease(), ask(Operation.ACQUIRE, 5), 100.0, released, Saved("t10"))
    assert (answer, written(save).epoch) == (Granted(10, TTL), 10)


def test_a_break_takes_it_at_once_but_not_from_under_a_change():
    (_, save), answer = played(lease(), ask(Operation.BREAK, 5), 100.0, loaded(record(), "t4"), Saved("t5"))
    assert (answer, written(save).epoch) == (Granted(5, TTL), 5)
    changed = loaded(record(epoch=7, write="cd" * 16), "t7")
    steps, answer = played(
        lease(), ask(Operation.BREAK, 5), 100.0, loaded(record(), "t4"), Conflict(), changed, Saved("t8")
    )
    assert [step.tag for step in steps if isinstance(step, Save)] == ["t4", "t7"]
    assert answer == Granted(8, TTL)


def test_nothing_at_all_may_be_a_record_that_was_deleted_under_its_holder():
    one, nothing = lease(), Loaded(None, "")
    assert played(one, ask(Operation.ACQUIRE, 1), 100.0, nothing)[1] == Held(0, "", WAIT)
    (_, save), answer = played(one, ask(Operation.ACQUIRE, 1), 106.6, nothing, Saved("t1"))
    assert isinstance(save, Save) and save.tag == "", "created, not replaced"
    assert answer == Granted(1, TTL)


def test_a_record_that_is_gone_is_waited_for_as_long_as_it_said_and_its_epoch_is_remembered():
    one, nothing = lease(), Loaded(None, "")
    played(one, ask(Operation.READ), 90.0, nothing)
    played(one, ask(Operation.READ), 95.0, loaded(record(epoch=40, ttl=30.0), "t40"))
    assert played(one, ask(Operation.ACQUIRE, 5), 100.0, nothing)[1] == Held(40, "", 33.0)
    assert played(one, ask(Operation.ACQUIRE, 5), 133.0, nothing, Saved("x"))[1] == Granted(41, TTL)


def test_a_holder_whose_record_is_gone_has_it_no_more():
    _, answer = played(holding(), ask(Operation.RENEW, 5), 102.0, Conflict(), Loaded(None, ""))
    assert answer == Free(5)


def test_a_renewal_is_one_request_and_changes_the_tag_also_where_tags_are_of_the_content():
    one = holding()
    (first,), answer = played(one, ask(Operation.RENEW, 5), 102.0, Saved("t6"))
    (second,), _ = played(one, ask(Operation.RENEW, 5), 104.0, Saved("t7"))
    assert answer == Granted(5, TTL)
    assert isinstance(first, Save) and isinstance(second, Save)
    assert (first.tag, second.tag) == ("t5", "t6")
    assert first.content != second.content


def test_a_renewal_of_another_epoch_or_another_process_is_none():
    theirs = loaded(record(epoch=5), "t5")
    assert played(lease(), ask(Operation.RENEW, 5), 100.0, theirs)[1] == Held(5, "gw-b", WAIT)
    ours = loaded(record(boot=OURS, epoch=5), "t5")
    assert played(lease(), ask(Operation.RENEW, 4), 100.0, ours)[1] == Held(5, "gw-a", WAIT, ours=True)
    restarted = lease(b"n" * 16)
    assert played(restarted, ask(Operation.RENEW, 5), 100.0, ours)[1] == Held(5, "gw-a", WAIT), "its own of before"


def test_a_renewal_whose_last_answer_was_lost_finds_its_own_record():
    one = holding()
    played(one, ask(Operation.RENEW, 5), 102.0, Failed("no answer"))
    ours = loaded(record(boot=OURS, epoch=5), "t6")
    steps, answer = played(one, ask(Operation.RENEW, 5), 103.0, Conflict(), ours, Saved("t7"))
    assert [step.tag for step in steps if isinstance(step, Save)] == ["t5", "t6"]
    assert answer == Granted(5, TTL)


def test_a_renewal_does_not_lower_the_ttl_while_an_earlier_one_may_count():
    (save,), answer = played(holding(), ask(Operation.RENEW, 5, ttl=2.0), 101.0, Saved("t6"))
    assert (written(save).ttl, answer) == (TTL, Granted(5, 2.0))


def test_what_nobody_renewed_is_over_also_for_who_had_it():
    one = holding()
    ours = loaded(record(boot=OURS, epoch=5), "t5")
    assert played(one, ask(Operation.RENEW, 5), 106.6, ours)[1] == Free(5)
    assert played(one, ask(Operation.READ), 106.6, ours)[1] == Free(5)


def test_who_has_it_and_asks_for_it_is_told_that_it_has_it():
    ours = loaded(record(boot=OURS, epoch=5), "t5")
    assert played(holding(), ask(Operation.ACQUIRE, 6), 101.0, ours)[1] == Held(5, "gw-a", 5.6, ours=True)


def test_a_release_leaves_the_epoch_and_ends_nothing_but_ours_of_exactly_that_epoch():
    (save,), answer = played(holding(), ask(Operation.RELEASE, 5), 101.0, Saved("t6"))
    assert answer == Free(5)
    assert (written(save).held, written(save).epoch) == (False, 5)
    for there in (record(), record(boot=OURS, epoch=6)):
        assert played(lease(), ask(Operation.RELEASE, 4), 100.0, loaded(there, "t"))[1] == Free(there.epoch)


def test_a_save_that_took_effect_and_was_refused_the_second_time_is_known_by_its_octets():
    one = lease()
    steps = one.carry_out(ask(Operation.ACQUIRE, 5), 100.0)
    assert next(steps) == Load()
    save = steps.send((loaded(record(held=False), "t4"), 100.0))
    assert isinstance(save, Save)
    assert steps.send((Conflict(), 100.1)) == Load()
    with pytest.raises(StopIteration) as ended:
        steps.send((Loaded(save.content, "t5"), 100.2))
    assert ended.value.value == Granted(5, TTL)


def test_an_answer_that_was_overtaken_does_not_speak_for_the_store():
    one = holding()
    slow = one.carry_out(ask(Operation.RENEW, 5), 101.0)
    next(slow)
    assert slow.send((Conflict(), 101.1)) == Load()
    played(one, ask(Operation.RENEW, 5), 102.0, Saved("t7"))
    assert slow.send((loaded(record(boot=OURS, epoch=5), "t5"), 106.6)) == Load(), "not: over, for so long t5"
    save = slow.send((loaded(record(boot=OURS, epoch=5, write="cd" * 16), "t7"), 106.7))
    assert isinstance(save, Save) and save.tag == "t7"


def test_the_late_answer_to_a_save_does_not_hide_a_newer_one():
    one = holding()
    slow = one.carry_out(ask(Operation.RENEW, 5), 101.0)
    next(slow)
    played(one, ask(Operation.RENEW, 5), 102.0, Conflict(), loaded(record(boot=OURS, epoch=5), "t6"), Saved("t7"))
    with pytest.raises(StopIteration) as ended:
        slow.send((Saved("t6"), 103.0))
    assert ended.value.value == Granted(5, TTL)
    (save,), _ = played(one, ask(Operation.RENEW, 5), 104.0, Saved("t8"))
    assert isinstance(save, Save) and save.tag == "t7"


def test_others_writing_all_the_time_end_an_ask_in_bounded_steps():
    released = [loaded(record(epoch=epoch, held=False), f"t{epoch}") for epoch in (4, 5, 6)]
    replies = [reply for one in released for reply in (one, Conflict())]
    assert played(lease(), ask(Operation.ACQUIRE, 5), 100.0, *replies)[1] == Failed(
        "others write the record again and again"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff<html>", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not of format 1"),
        (record().emit().replace(b'"format": 1', b'"format": 2'), "it is not of format 1"),
        (record(epoch=-1).emit(), "its epoch is missing or out of bounds"),
        (record(ttl=float("nan")).emit(), "its ttl is missing or out of bounds"),
        (record(ttl=1e9).emit(), "its ttl is missing or out of bounds"),
        (record().emit().replace(b"true", b"1"), "its held is missing or out of bounds"),
        (record(write="AB" * 16).emit(), "its write is missing or out of bounds"),
    ],
)
def test_what_is_no_record_is_named_and_left_as_it_is(content: bytes, why: str):
    with pytest.raises(Unreadable, match=why):
        Record.parse(content)
    steps, answer = played(lease(), ask(Operation.BREAK, 5), 100.0, Loaded(content, "t"))
    assert steps == [Load()]
    assert answer == Failed(f"what is stored is no record of a lease ({why}); it is left as it is")


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
def test_a_ttl_that_no_record_may_have_is_refused_before_anything_is_asked(ttl: float):
    assert played(lease(), ask(Operation.ACQUIRE, 1, ttl), 100.0) == ([], Failed("the ttl is not in 0 to 3600 s"))


def test_an_epoch_out_of_reach_is_refused():
    released = loaded(record(held=False), "t4")
    answer = played(lease(), ask(Operation.ACQUIRE, (1 << 32) + 5), 100.0, released)[1]
    assert answer == Failed("the epoch asked for is out of reach")


def test_an_answer_to_another_question_is_a_failure_of_the_store():
    assert isinstance(played(lease(), ask(Operation.READ), 100.0, Saved("t"))[1], Failed)
    assert isinstance(played(holding(), ask(Operation.RENEW, 5), 101.0, Loaded(None, ""))[1], Failed)


@given(
    st.builds(
        Record,
        epoch=st.integers(0, (1 << 64) - 1),
        holder=st.text(max_size=64),
        boot=st.binary(min_size=16, max_size=16).map(bytes.hex),
        ttl=st.floats(0.001, 3600.0),
        held=st.booleans(),
        write=st.binary(min_size=16, max_size=16).map(bytes.hex),
    )
)
def test_a_record_is_what_it_was_when_it_comes_back(one: Record):
    assert Record.parse(one.emit()) == one


# --- two contenders -----------------------------------------------------------------------------------------------------


def world_held_by_a() -> RecordWorld:
    world = RecordWorld(TTL)
    for name in "ab":
        world.start(name)
    world.command("a", Acquire(1))
    world.run(2 * WAIT)
    assert world.said("a")[-1] == LeaseGranted(1)
    assert world.holders() == ["a"]
    return world


def test_it_is_renewed_for_ever_by_one_request_each_third_of_the_ttl():
    world = world_held_by_a()
    before, at = len(world.requests), world.now
    world.run(600.0)
    assert world.holders() == ["a"]
    ours = [step for when, name, step in world.requests[before:] if name == "a" and when > at]
    assert 300 <= len(ours) <= 301 and all(isinstance(step, Save) for step in ours)


def test_a_holder_that_is_gone_is_followed_after_its_ttl_and_a_margin():
    world = world_held_by_a()
    world.stop("a")
    died = world.now
    world.command("b", Acquire(1))
    world.run(30.0)
    granted = next(at for at, name, event in world.events if name == "b" and isinstance(event, LeaseGranted))
    assert TTL - TTL / 3 < granted - died < WAIT + TTL / 3
    assert world.said("b") == [LeaseRefused(1, "gw-a"), *world.said("b")[1:-1], LeaseGranted(2)]


def test_what_is_released_is_followed_at_the_next_look():
    world = world_held_by_a()
    world.command("b", Acquire(1))
    world.run(0.1)
    world.command("a", Release())
    world.run(TTL / 3 + 0.1)
    assert world.holders() == ["b"]
    assert world.stored.epoch == 2


def test_a_lease_that_is_broken_is_noticed_at_the_next_renewal():
    world = world_held_by_a()
    world.command("b", Break(1))
    world.run(TTL / 3 + 0.1)
    assert world.said("b") == [LeaseGranted(2, broken=True)]
    assert world.said("a")[-1] == LeaseLost("the witness gave the lease to gw-b as epoch 2")


def test_a_grant_whose_answer_was_lost_is_found_and_renewed():
    world = RecordWorld(TTL)
    world.start("a")
    lost = [True]
    world.fate = lambda name, step: Fate(back=None) if isinstance(step, Save) and lost and lost.pop() else Fate()
    world.command("a", Acquire(1))
    world.run(20.0)
    assert world.said("a")[-1] == LeaseGranted(1)
    assert [one.epoch for one in world.store.history[:2]] == [1, 1], "written once, then renewed"


def test_a_record_deleted_under_its_holder_is_not_given_to_another_while_it_counts():
    world = world_held_by_a()
    world.fate = lambda name, step: Fate(there=None) if name == "a" else Fate()
    world.command("b", Acquire(1))
    world.run(0.1)
    world.store.content = None
    seen: list[list[str]] = []
    world.checked = lambda: seen.append(world.holders())
    world.run(20.0)
    assert world.holders() == ["b"] and ["a", "b"] not in seen


# --- seeded schedules -----------------------------------------------------------------------------------------------------


class TwoHolders(AssertionError):
    """The invariant broke."""


def schedule(seed: int) -> RecordWorld:
    """100 s of two contenders: everything that can happen to requests and processes does."""
    dice = random.Random(seed)
    world = RecordWorld(TTL)
    for name in "ab":
        world.start(name, rate=dice.uniform(0.97, 1.03), zero=dice.uniform(0, 500))
    _misbehave(world, dice, loss=dice.choice((0.0, 0.1, 0.3)), slow=dice.choice((0.02, 0.5, 5.0)))
    granted: dict[int, str] = {}

    def check() -> None:
        holders = [world.contenders[name] for name in world.holders()]
        valid = [one for one in holders if one.granted >= world.broken_below]
        if len(valid) > 1:
            raise TwoHolders(f"seed {seed}, {world.now:.3f}: both hold it; {world.events[-6:]}")
        epochs = [one.epoch for one in world.store.history]
        if epochs != sorted(epochs):
            raise TwoHolders(f"seed {seed}: epochs fell: {epochs}")
        for one in world.store.history:
            if granted.setdefault(one.epoch, one.boot) != one.boot:
                raise TwoHolders(f"seed {seed}: epoch {one.epoch} was granted twice")

    world.checked = check
    for _ in range(25):
        _happen(world, dice)
        world.run(dice.uniform(0.0, 8.0))
    return world


def _play_all() -> None:
    for seed in range(SCHEDULES):
        schedule(seed)


def _misbehave(world: RecordWorld, dice: random.Random, loss: float, slow: float) -> None:
    def fate(name: str, step: Step) -> Fate:
        there = None if dice.random() < loss / 2 else dice.uniform(0.001, slow if dice.random() < 0.3 else 0.02)
        back = None if dice.random() < loss / 2 else dice.uniform(0.001, slow if dice.random() < 0.3 else 0.02)
        return Fate(there, back, dice.uniform(0.0, 15.0) if dice.random() < 0.1 else None)

    world.fate = fate


def _happen(world: RecordWorld, dice: random.Random) -> None:
    name = dice.choice("ab")
    one = world.contenders[name]
    match dice.randrange(10):
        case 0 | 1 | 2 | 3:
            world.command(name, Acquire(one.lease.epoch + 1))
        case 4:
            world.command(name, Release())
        case 5:
            world.command(name, Break(one.lease.epoch + 1))
        case 6:
            world.start(name, rate=one.rate, zero=dice.uniform(0, 500))
        case 7 if one.frozen is None:
            world.freeze(name)
            world.later(dice.uniform(0.5, 20.0), lambda: _thaw(world, one))
        case 8:
            dropped = world.fate
            world.fate = lambda who, step: Fate(there=None) if who == name else dropped(who, step)
            world.later(dice.uniform(1.0, 15.0), lambda: setattr(world, "fate", dropped))


def _thaw(world: RecordWorld, one: Any) -> None:
    if world.contenders.get(one.name) is one:
        world.thaw(one.name)


def test_never_two_holders_in_any_schedule():
    granted = broken = lost = 0
    for seed in range(SCHEDULES):
        world = schedule(seed)
        granted += sum(isinstance(event, LeaseGranted) for *_, event in world.events)
        broken += sum(isinstance(event, LeaseGranted) and event.broken for *_, event in world.events)
        lost += sum(isinstance(event, LeaseLost) for *_, event in world.events)
    assert granted > 600 and broken > 50 and lost > 200, "the schedules are about something"


def _take_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecordedLease, "_remaining", lambda self, seen, ask, now: 0.0)


def _wait_half(patch: pytest.MonkeyPatch) -> None:
    waits = RecordedLease._remaining
    patch.setattr(
        RecordedLease, "_remaining", lambda self, seen, ask, now: max(0.0, waits(self, seen, ask, now) - TTL / 2)
    )


def _compare_nothing(patch: pytest.MonkeyPatch) -> None:
    start = RecordWorld.__init__

    def careless(self: RecordWorld, *arguments: Any) -> None:
        start(self, *arguments)
        self.store.compares = False

    patch.setattr(RecordWorld, "__init__", careless)


def _same_octets_each_time(patch: pytest.MonkeyPatch) -> None:
    """Where tags are of the content, a renewal is none that anyone sees."""
    patch.setattr(RecordedLease, "_next", lambda self, record, **changes: replace(record, **changes, write="00" * 16))


def _know_it_from_the_first_look(patch: pytest.MonkeyPatch) -> None:
    """The wait goes on though the tag became another."""
    know = RecordedLease._know

    def forgetful(self: Any, *arguments: Any) -> Any:
        seen = know(self, *arguments)
        if seen is not None:
            self._seen = seen = replace(seen, since=min(self._since.values()))
        return seen

    patch.setattr(RecordedLease, "_know", forgetful)


def _anyone_renews(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        RecordedLease,
        "_holds",
        lambda self, seen, epoch=None: seen.record is not None and epoch in (None, seen.record.epoch),
    )


def _epoch_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        RecordedLease,
        "_grant",
        lambda self, ask: self._next(Record(max(self._epoch, 1), self._name, self._boot, ask.ttl, True, "")),
    )


@pytest.mark.parametrize(
    ("mutation", "caught_by"),
    [
        (_take_at_once, "both hold it"),
        (_wait_half, "both hold it"),
        (_compare_nothing, "epochs fell"),
        (_same_octets_each_time, "both hold it"),
        (_know_it_from_the_first_look, "both hold it"),
        (_anyone_renews, "both hold it"),
        (_epoch_stays, "was granted twice"),
    ],
)
def test_the_schedules_catch_a_defect(
    mutation: Callable[[pytest.MonkeyPatch], None], caught_by: str, monkeypatch: pytest.MonkeyPatch
):
    mutation(monkeypatch)
    with pytest.raises(TwoHolders, match=caught_by):
        _play_all()
