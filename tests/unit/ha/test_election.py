"""The election, one gateway at a time: what each role does with what it is told, and what it says about itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.elections import ACTIVE, SICK, STANDBY, WELL, Driver, active, roles, standby

from gateway.ha.damping import Damping
from gateway.ha.election import Election
from gateway.ha.heartbeat import DownReason, PeerDown, PeerSaid, PeerUp
from gateway.ha.message import Advertised, Handover, HealthReason, Level, Role, Standing
from gateway.ha.roles import (
    ElectionSettings,
    EpochSeen,
    HealthChanged,
    LevelChanged,
    Operate,
    Remember,
    RoleChanged,
    Verb,
    VoteChanged,
)
from gateway.ha.vote import VoteSettings
from gateway.ha.witness import Acquire, Break, LeaseGranted, LeaseLost, LeaseRefused, Release

# --- with a witness -------------------------------------------------------------------------------------------------


def test_it_starts_by_listening_and_becomes_active_by_the_lease_alone():
    driver = Driver()
    assert driver.why_not == "it has just started and listens for the other gateway"
    assert driver.up() == [
        RoleChanged(Role.INIT, Role.STANDBY, 0, "started; gw-b is heard"),
        Acquire(1),
    ]
    assert driver.why_not == "the lease is free and not ours yet"
    assert driver.tell(LeaseGranted(1)) == [
        Remember(1),
        RoleChanged(Role.STANDBY, Role.ACTIVE, 1, "gw-b is not active; with the lease"),
        LevelChanged(Level.ACTIVE, 1, "gw-b is not active; with the lease"),
    ]
    assert (driver.told.role, driver.told.epoch, driver.told.standing) == (Role.ACTIVE, 1, Standing.OURS)
    assert driver.why_not == "it is active, epoch 1"


def test_alone_after_a_start_it_waits_for_the_peer_first():
    driver = Driver(init_wait=3.0)
    assert driver.wait(2.9) == []
    assert roles(driver.wait(0.2)) == [(Role.INIT, Role.STANDBY, 0)]
    assert driver.said[-1] == Acquire(1)
    driver.tell(LeaseGranted(1))
    assert driver.core.level is Level.TOOK_OVER, "the one that is not heard may have announced itself as active"


def test_silence_alone_promotes_nobody():
    driver = standby()
    assert driver.why_not == "gw-b is active, epoch 5"
    assert driver.silence() == [Acquire(6)]
    assert driver.wait(1e6) == []
    assert (driver.core.role, driver.why_not) == (Role.STANDBY, "another holds the lease")
    out = driver.tell(LeaseGranted(6))
    assert roles(out) == [(Role.STANDBY, Role.ACTIVE, 6)]
    assert driver.core.level is Level.TOOK_OVER


def test_the_lease_alone_promotes_nobody():
    driver = standby()
    assert driver.tell(LeaseGranted(6)) == [Release(), Remember(6)], "it did not ask for it"
    driver.silence()
    driver.tell(PeerSaid("gw-b", ACTIVE))
    assert driver.said[-1] == Release(), "heard again, though it may not hear us"
    assert driver.tell(LeaseGranted(7))[0] == Release()
    assert driver.core.role is Role.STANDBY


def test_who_is_ill_does_not_take_over_and_says_why():
    driver = standby()
    assert roles(driver.tell(SICK)) == [(Role.STANDBY, Role.FAULT, 0)]
    assert driver.silence() == []
    assert driver.why_not == "own health: tunnels, bgp"
    assert (driver.told.ready, driver.told.health, driver.told.reasons) == (False, 500, SICK.reasons)
    assert driver.tell(WELL)[-1] == Acquire(6)


def test_an_illness_that_does_not_disqualify_only_ranks_lower():
    driver = Driver(disqualifying=HealthReason.TUNNELS)
    driver.tell(HealthChanged(HealthReason.BGP))
    assert roles(driver.up()) == [(Role.INIT, Role.STANDBY, 0)]
    assert driver.why_not == "gw-b goes first"
    assert Acquire(1) in driver.wait(2.5), "but not for ever"


def test_the_wait_for_who_goes_first_begins_when_the_lease_is_free():
    """That of a dead active one may last longer than any patience."""
    driver = Driver()
    driver.tell(HealthChanged(HealthReason.COPY))
    driver.tell(Standing.OTHER)
    driver.up()
    assert driver.why_not == "gw-b goes first"
    assert driver.wait(30) == []
    assert driver.tell(Standing.FREE) == []
    assert driver.wait(1.9) == []
    assert driver.wait(0.2) == [Acquire(1)]


def test_without_a_copy_of_the_sas_nothing_is_taken_back_by_preference():
    driver = standby(preempt=True, preempt_delay=5.0, priority=200)
    driver.tell(HealthChanged(HealthReason.COPY))
    driver.wait(20)
    assert driver.told.handover is Handover.NONE
    driver.tell(WELL)
    driver.wait(4)
    assert driver.told.handover is Handover.NONE
    driver.wait(2)
    assert driver.told.handover is Handover.WANTED


def test_took_over_steps_back_once_the_other_is_seen_as_a_standby():
    driver = standby()
    driver.silence()
    driver.tell(LeaseGranted(6))
    assert driver.up(replace(ACTIVE, role=Role.DRAINING)) == []
    assert driver.hears(epoch=6) == [LevelChanged(Level.ACTIVE, 6, "gw-b is seen as a standby")]


def test_a_lease_that_is_lost_demotes_at_once_and_holds_down():
    driver = active(hold_down=5.0)
    out = driver.tell(LeaseLost("the lease could not be renewed in time"))
    assert out == [
        RoleChanged(Role.ACTIVE, Role.STANDBY, 1, "the lease could not be renewed in time"),
        LevelChanged(Level.STANDBY, 1, "the lease could not be renewed in time"),
    ]
    assert driver.why_not == "held down for 5 s more after 1 failures of its own"
    assert not driver.told.ready
    assert driver.wait(5.1) == [Acquire(2)]


def test_a_hold_down_does_not_keep_the_only_one_from_serving():
    driver = active()
    driver.tell(LeaseLost("x"))
    assert driver.silence() == [Acquire(2)]


def test_a_higher_epoch_demotes_at_once_from_whomever_it_is():
    driver = active()
    out = driver.hears(epoch=2)
    assert out[0] == Remember(2)
    assert roles(out) == [(Role.ACTIVE, Role.STANDBY, 1)]
    assert Release() in out and driver.core.level is Level.STANDBY


def test_where_leases_may_be_broken_one_that_comes_in_silence_fences_nobody():
    driver = standby(break_lease=True)
    driver.silence()
    driver.tell(Standing.FREE)
    (change,) = [one for one in driver.tell(LeaseGranted(7)) if isinstance(one, RoleChanged)]
    assert (change.after, change.fenced) == (Role.ACTIVE, False), "the other may have broken it before we heard of it"
    heard = Driver(break_lease=True)
    heard.up()
    (change,) = [one for one in heard.tell(LeaseGranted(1)) if isinstance(one, RoleChanged)]
    assert (change.after, change.fenced) == (Role.ACTIVE, True)


def test_a_broken_lease_is_asked_for_once_and_told_as_not_fenced():
    driver = standby(break_lease=True)
    driver.silence()
    assert driver.tell(LeaseRefused(5, "gw-b")) == [Break(6)]
    assert driver.tell(LeaseRefused(5, "gw-b")) == []
    (change, _) = [one for one in driver.tell(LeaseGranted(6, broken=True)) if not isinstance(one, Remember)]
    assert isinstance(change, RoleChanged)
    assert (change.fenced, change.reason) == (False, "gw-b is silent; with a broken lease")


def test_whose_lease_was_broken_does_not_break_it_back():
    driver = active(break_lease=True)
    driver.silence()
    driver.tell(LeaseLost("the witness gave the lease to gw-b as epoch 2"))
    assert driver.tell(LeaseRefused(2, "gw-b")) == [Remember(2)], "it was alive a moment ago"
    driver.hears(epoch=2)
    driver.silence()
    assert driver.tell(LeaseRefused(2, "gw-b")) == [Break(3)]


def test_without_the_option_nothing_is_broken_and_a_peer_that_is_heard_is_never_broken():
    driver = standby()
    driver.silence()
    assert driver.tell(LeaseRefused(5, "gw-b")) == []
    driver = Driver(break_lease=True)
    driver.up()
    assert driver.tell(LeaseRefused(5, "gw-b")) == [Remember(5)]


# --- without a witness ---------------------------------------------------------------------------------------------------


def test_stay_is_stay():
    driver = standby(witness=False)
    driver.silence()
    assert driver.wait(1e6) == []
    assert driver.why_not == 'gw-b is silent, and without a witness (without_witness = "stay") nobody takes over'
    driver = Driver(witness=False)
    driver.wait(1e6)
    assert driver.core.role is Role.STANDBY, "also after a start alone"


def vote(**settings: Any) -> dict[str, Any]:
    """Of three targets, three seconds."""
    return {"witness": False, "none": "vote", "vote": VoteSettings(3, 3.0), **settings}


def became(effects: list[object]) -> list[Role]:
    return [one.after for one in effects if isinstance(one, RoleChanged)]


def test_a_vote_that_is_won_promotes_when_who_is_cut_off_has_found_out():
    driver = standby(**vote())
    driver.tell(VoteChanged(2))
    assert driver.silence() == []
    assert driver.why_not == "gw-b is silent, and the vote is given 3.0 s more: perhaps it misses its targets, too"
    assert became(driver.wait(2.9)) == []
    (change,) = [one for one in driver.wait(0.2) if isinstance(one, RoleChanged)]
    assert (change.after, change.fenced) == (Role.ACTIVE, False), "no fence"
    assert change.reason == 'gw-b is silent; without a witness, by without_witness = "vote"'


def test_a_vote_that_is_lost_promotes_nobody_until_it_is_won():
    driver = standby(**vote())
    for reached in (0, 1):
        driver.tell(VoteChanged(reached))
        driver.silence()
        assert became(driver.wait(60.0)) == []
        assert driver.why_not == f"gw-b is silent, and only {reached} of 3 targets of the vote answer"
    assert became(driver.tell(VoteChanged(3))) == []
    assert driver.why_not == "gw-b is silent, and the vote is given 3.0 s more: perhaps it misses its targets, too"
    assert became(driver.tell(VoteChanged(2), after=2.0)) == [], "won all the while"
    assert became(driver.wait(1.1)) == [Role.ACTIVE]


def test_who_was_cut_off_hears_of_the_other_before_its_own_vote_counts():
    driver = standby(**vote())
    driver.silence()
    driver.wait(60.0)
    assert became(driver.tell(VoteChanged(3))) == [], "its link is back"
    driver.wait(0.5)
    assert became(driver.up(ACTIVE)) == []
    assert became(driver.wait(60.0)) == []


def test_of_an_even_number_of_targets_half_is_no_majority():
    driver = standby(**vote(vote=VoteSettings(2, 3.0)))
    driver.tell(VoteChanged(1))
    driver.silence()
    assert became(driver.wait(60.0)) == []


def test_who_is_active_hears_nothing_and_reaches_nothing_is_active_no_more():
    driver = standby(**vote())
    driver.tell(VoteChanged(3))
    driver.silence()
    driver.wait(5.0)
    assert driver.core.role is Role.ACTIVE
    assert became(driver.tell(VoteChanged(2))) == [], "two of three are enough"
    (change,) = [one for one in driver.tell(VoteChanged(1)) if isinstance(one, RoleChanged)]
    assert (change.after, change.reason) == (Role.STANDBY, "gw-b is silent, and only 1 of 3 targets of the vote answer")
    assert driver.core.level is Level.STANDBY


def test_while_the_two_hear_each_other_nobody_is_asked_to_vote():
    driver = standby(**vote())
    driver.tell(VoteChanged(3))
    driver.silence()
    driver.wait(5.0)
    driver.up()
    assert became(driver.tell(VoteChanged(0))) == []
    assert driver.core.role is Role.ACTIVE
    assert became(driver.silence()) == [Role.STANDBY]


def test_promote_is_promote_and_says_that_nothing_was_fenced():
    driver = standby(witness=False, none="promote")
    out = driver.silence()
    assert roles(out) == [(Role.STANDBY, Role.ACTIVE, 6)]
    (change,) = [one for one in out if isinstance(one, RoleChanged)]
    assert (change.fenced, change.reason) == (
        False,
        'gw-b is silent; without a witness, by without_witness = "promote"',
    )
    assert driver.core.level is Level.TOOK_OVER


def test_who_is_heard_must_consent_first():
    driver = Driver(witness=False)
    driver.up()
    assert (driver.core.role, driver.told.claim) == (Role.STANDBY, 1)
    assert driver.why_not == "waits for gw-b to consent"
    driver.hears(yields=7)
    assert driver.core.role is Role.STANDBY, "to something else"
    out = driver.hears(yields=1)
    assert roles(out) == [(Role.STANDBY, Role.ACTIVE, 1)]
    assert driver.told.claim == 0


def test_who_consented_keeps_its_word_until_the_other_says_that_it_is_over():
    driver = Driver(witness=False, priority=50)
    driver.up(replace(STANDBY, claim=1))
    assert (driver.told.claim, driver.told.yields) == (0, 1)
    driver.silence()
    driver.wait(1e6)
    driver.up(replace(STANDBY, claim=1))
    assert driver.why_not == "it consented to gw-b becoming active with epoch 1"
    driver.hears(role=Role.FAULT, ready=False)
    assert (driver.told.claim, driver.told.yields) == (1, 0)


def test_the_active_consents_to_nothing_but_what_it_offered():
    driver = Driver(witness=False)
    driver.up()
    driver.hears(yields=1)
    driver.hears(claim=9)
    assert driver.told.yields == 0
    driver.tell(Operate(Verb.FAILOVER))
    driver.hears(claim=2)
    assert driver.told.yields == 2
    driver.hears(role=Role.ACTIVE, epoch=2, ready=False)
    assert driver.core.level is Level.STANDBY


def test_an_offer_that_nobody_used_is_taken_back_without_anybody():
    driver = Driver(witness=False)
    driver.up()
    driver.hears(yields=1)
    driver.tell(Operate(Verb.FAILOVER))
    driver.silence()
    assert roles(driver.wait(3.1)) == [(Role.DRAINING, Role.ACTIVE, 1)]


def test_an_offer_that_may_have_been_used_is_not_taken_back_but_goes_on_attracting():
    driver = Driver(witness=False)
    driver.up()
    driver.hears(yields=1)
    driver.tell(Operate(Verb.FAILOVER))
    driver.hears(claim=2)
    driver.silence()
    assert driver.wait(1e6) == []
    assert (driver.core.role, driver.core.level) == (Role.DRAINING, Level.ACTIVE)
    driver.up()
    out = driver.hears(yields=driver.told.claim)
    assert roles(out) == [(Role.DRAINING, Role.ACTIVE, 2)], "by its consent"


@pytest.mark.parametrize("how", ["silent", "ill, and its edge was not told"])
def test_where_both_carry_the_active_takes_all_from_one_that_may_attract_what_it_does_not_carry(how: str):
    driver = active(both_carry=True, step_back=1.0)
    driver.hears(level=Level.ACTIVE)
    driver.wait(1.1)
    assert driver.core.level is Level.ACTIVE
    out = driver.silence() if how == "silent" else driver.hears(role=Role.FAULT, level=Level.ACTIVE, ready=False)
    assert [one.level for one in out if isinstance(one, LevelChanged)] == [Level.TOOK_OVER]
    assert driver.wait(60.0) == []
    driver.up(replace(STANDBY, level=Level.ACTIVE))
    assert [one.level for one in driver.wait(1.1) if isinstance(one, LevelChanged)] == [Level.ACTIVE]
    alone = active(step_back=1.0)
    alone.wait(1.1)
    assert alone.silence() == [], "a standby that carries nothing attracts nothing"


def test_two_actives_after_a_cut_become_one_by_epoch_and_then_by_priority():
    for epoch, priority, stays in ((7, 1, False), (6, 300, False), (6, 100, True), (5, 300, True)):
        driver = standby(witness=False, none="promote")
        driver.silence()
        assert driver.core.acting_epoch == 6
        driver.up(replace(ACTIVE, epoch=epoch, priority=priority))
        assert (driver.core.role is Role.ACTIVE) is stays, (epoch, priority)


def test_health_that_nobody_told_of_is_not_good():
    core = Election(ElectionSettings("gw-a", priority=200), 1000.0)
    core.receive(PeerUp("gw-b", STANDBY), 1000.0)
    assert core.role is Role.INIT, "tunnels take a moment to come up"
    core.handle_deadline(1003.0)
    assert core.role is Role.FAULT
    assert core.why_not(1003.0) == "own health: link, tunnels, bgp, data plane"
    core.command(WELL, 1004.0)
    assert Acquire(1) in list(core.poll())


def test_a_start_ends_as_soon_as_the_other_is_heard_and_own_health_is_good():
    core = Election(ElectionSettings("gw-a", priority=200), 1000.0)
    core.command(WELL, 1000.5)
    assert core.role is Role.INIT
    core.receive(PeerUp("gw-b", STANDBY), 1000.6)
    assert core.role is Role.STANDBY


def test_who_took_over_steps_back_only_a_while_after_the_other_attracts_no_more():
    driver = standby(step_back=1.0)
    driver.silence()
    driver.tell(LeaseGranted(7))
    assert driver.core.level is Level.TOOK_OVER
    driver.up(replace(STANDBY, level=Level.ACTIVE))
    driver.wait(5.0)
    assert driver.core.level is Level.TOOK_OVER, "its neighbors may not know yet"
    driver.hears(level=Level.STANDBY)
    driver.wait(0.9)
    assert driver.core.level is Level.TOOK_OVER
    driver.wait(0.2)
    assert driver.core.level is Level.ACTIVE


def test_a_hold_down_does_not_keep_it_from_replacing_one_that_is_worse():
    driver = active(hold_down=60.0)
    driver.hears(health=1000)
    driver.tell(SICK)
    driver.hears(role=Role.ACTIVE, epoch=2, level=Level.TOOK_OVER, ready=False)
    driver.wait(35.0)
    driver.tell(WELL)
    assert not driver.told.ready, "held down while the other is well"
    driver.hears(role=Role.ACTIVE, epoch=2, level=Level.TOOK_OVER, ready=False, health=700)
    assert driver.told.ready


@pytest.mark.parametrize(("priority", "patience"), [(100, 2.0), (300, 4.0)])
def test_two_that_are_both_held_down_do_not_leave_the_pair_to_nobody(priority: int, patience: float):
    """The other one failed as well, and may be held down for as long."""
    driver = active(hold_down=300.0, patience=2.0)
    driver.tell(LeaseLost("the lease could not be renewed in time"))
    driver.hears(epoch=2, ready=False, priority=priority)
    assert driver.wait(patience - 0.1) == []
    assert driver.why_not.startswith("held down for")
    assert driver.wait(0.2) == [Acquire(3)], "the one that ranks higher first"
    assert driver.told.ready
    ready = active(hold_down=300.0, patience=2.0)
    ready.tell(LeaseLost("the lease could not be renewed in time"))
    ready.hears(epoch=2, priority=priority)
    assert ready.wait(100.0) == [], "it would take it, and is not held down"


def test_an_epoch_found_elsewhere_ends_acting_at_once():
    driver = standby(witness=False, none="promote")
    driver.silence()
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 6)
    driver.core.command(EpochSeen(9), driver.now)
    assert (driver.core.role, driver.core.epoch) == (Role.STANDBY, 9)
    assert driver.why_not == "gw-b is silent, and acts: its epoch 9 was found"
    driver.wait(299.0)
    assert driver.core.role is Role.STANDBY, "no acting in turns"
    driver.wait(2.0)
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 10)


# --- always -------------------------------------------------------------------------------------------------------------


def test_the_hold_down_doubles_has_an_end_and_is_forgiven():
    damping = Damping(5.0, 30.0, 600.0)
    for expected in (5, 10, 20, 30, 30):
        damping.failed(100.0)
        assert damping.left(100.0) == expected
    damping.failed(701.0)
    assert damping.left(701.0) == 5
    damping.forgive()
    assert damping.left(701.0) == 0


SAID = st.builds(
    Advertised,
    role=st.sampled_from(Role),
    priority=st.sampled_from([100, 300]),
    epoch=st.integers(0, 9),
    level=st.sampled_from(Level),
    handover=st.sampled_from(Handover),
    ready=st.booleans(),
    health=st.sampled_from([0, 1000]),
    claim=st.integers(0, 9),
    yields=st.integers(0, 9),
)
INPUTS = st.one_of(
    st.builds(PeerUp, st.just("gw-b"), SAID),
    st.builds(PeerSaid, st.just("gw-b"), SAID),
    st.builds(PeerDown, st.sampled_from(DownReason)),
    st.builds(LeaseGranted, st.integers(1, 9), st.booleans()),
    st.builds(LeaseLost, st.just("lost")),
    st.builds(LeaseRefused, st.integers(0, 9), st.just("gw-b")),
    st.sampled_from([SICK, WELL]),
    st.sampled_from(Standing),
    st.builds(VoteChanged, st.integers(0, 3)),
    st.builds(Operate, st.sampled_from(Verb)),
    st.floats(0.0, 40.0),
)


@pytest.mark.parametrize(
    "settings",
    [{}, {"break_lease": True, "preempt": True}, {"witness": False}, {"witness": False, "none": "promote"}, vote()],
    ids=["witness", "break", "stay", "promote", "vote"],
)
@given(inputs=st.lists(INPUTS, max_size=30))
def test_whatever_it_is_told(settings: dict[str, Any], inputs: list[object]):
    """No order of inputs raises, sets a timer in the past, or makes it active without what permits it."""
    driver = Driver(**settings)
    leased, highest = False, 0
    for one in inputs:
        before = driver.core.role
        out = driver.wait(one) if isinstance(one, float) else driver.tell(one)
        leased = (leased or isinstance(one, LeaseGranted)) and not isinstance(one, LeaseLost) and Release() not in out
        told = driver.told
        assert told.epoch >= highest
        highest = told.epoch
        assert driver.why_not
        assert not (told.claim and told.yields)
        if told.role is Role.ACTIVE:
            assert driver.core.level > Level.STANDBY
            assert leased or not driver.core._settings.witness
            if before is not Role.ACTIVE and settings == {"witness": False}:
                assert driver.core._peer.up
            if settings == vote() and driver.core._peer.dead(driver.now):
                assert not driver.core._vote.is_lost
        elif told.role is not Role.DRAINING:
            assert driver.core.level is Level.STANDBY
