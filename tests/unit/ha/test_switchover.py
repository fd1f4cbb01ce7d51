"""Planned switchovers of the election: offered, taken, taken back, asked for, preferred, and before a machine leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.elections import ACTIVE, SICK, WELL, active, roles, standby

from gateway.ha.heartbeat import PeerSaid
from gateway.ha.message import Handover, HealthReason, Level, Role, Standing
from gateway.ha.roles import (
    CommandRefused,
    HealthChanged,
    LevelChanged,
    MachineLeaves,
    Operate,
    Remember,
    RoleChanged,
    Verb,
)
from gateway.ha.witness import Acquire, LeaseGranted, LeaseRefused, Release

# --- planned switchover ------------------------------------------------------------------------------------------------


def test_the_active_offers_and_goes_on_attracting_until_the_other_is_active():
    driver = active(drain_time=30.0)
    out = driver.tell(Operate(Verb.FAILOVER))
    assert out == [
        Release(),
        RoleChanged(Role.ACTIVE, Role.DRAINING, 1, "hands over to gw-b: failover by the operator"),
    ]
    assert (driver.core.level, driver.told.handover) == (Level.ACTIVE, Handover.OFFERED)
    assert driver.why_not == "it hands over to gw-b"
    out = driver.hears(role=Role.ACTIVE, epoch=2, level=Level.TOOK_OVER, ready=False)
    assert out == [Remember(2), LevelChanged(Level.STANDBY, 1, "gw-b has it under epoch 2")]
    assert (driver.core.role, driver.told.handover) == (Role.DRAINING, Handover.NONE)
    assert roles(driver.wait(29.9)) == []
    assert roles(driver.wait(0.2)) == [(Role.DRAINING, Role.STANDBY, 1)]


def test_the_standby_takes_an_offer_with_the_lease_and_beats_the_old_one():
    driver = standby()
    out = driver.tell(PeerSaid("gw-b", replace(ACTIVE, role=Role.DRAINING, handover=Handover.OFFERED)))
    assert out == [Acquire(6)]
    out = driver.tell(LeaseGranted(6))
    assert out[1:] == [
        RoleChanged(Role.STANDBY, Role.ACTIVE, 6, "gw-b hands over"),
        LevelChanged(Level.TOOK_OVER, 6, "gw-b hands over"),
    ]


def test_an_offer_that_is_not_taken_is_taken_back_and_nothing_was_given_up():
    driver = active(handover_timeout=3.0)
    driver.tell(Operate(Verb.FAILOVER))
    assert driver.wait(3.1) == [Acquire(2)]
    assert (driver.core.level, driver.told.handover) == (Level.ACTIVE, Handover.NONE)
    out = driver.tell(LeaseGranted(2))
    assert roles(out) == [(Role.DRAINING, Role.ACTIVE, 2)]
    assert not [one for one in out if isinstance(one, LevelChanged)]


def test_an_offer_is_taken_back_at_once_when_the_other_falls_ill():
    driver = active()
    driver.tell(Operate(Verb.FAILOVER))
    assert driver.hears(role=Role.FAULT, ready=False) == [Acquire(2)]


def test_an_offer_that_was_taken_though_nobody_is_heard_is_known_from_the_witness():
    driver = active(handover_timeout=3.0)
    driver.tell(Operate(Verb.FAILOVER))
    driver.silence()
    driver.wait(3.1)
    out = driver.tell(LeaseRefused(2, "gw-b"))
    assert LevelChanged(Level.STANDBY, 1, "gw-b has it under epoch 2") in out


def test_the_active_that_falls_ill_hands_over_to_one_that_is_better_and_keeps_it_otherwise():
    driver = active()
    assert roles(driver.tell(SICK)) == [(Role.ACTIVE, Role.DRAINING, 1)]
    driver = active()
    driver.hears(role=Role.FAULT, ready=False, health=100)
    assert driver.tell(SICK) == []
    assert driver.hears() != [], "now there is one"
    driver = active()
    driver.silence()
    assert roles(driver.tell(SICK)) == [(Role.ACTIVE, Role.FAULT, 1)], "perhaps the other is better and only not heard"


def test_failover_is_refused_with_the_reason_when_nobody_is_ready():
    driver = active()
    driver.hears(ready=False)
    assert driver.tell(Operate(Verb.FAILOVER)) == [CommandRefused(Verb.FAILOVER, "gw-b is not ready")]
    driver = standby()
    driver.silence()
    assert driver.tell(Operate(Verb.FAILOVER)) == [CommandRefused(Verb.FAILOVER, "another holds the lease")]


def test_failover_at_the_standby_asks_the_active_for_it():
    driver = standby()
    driver.tell(Operate(Verb.FAILOVER))
    assert driver.told.handover is Handover.WANTED
    other = active()
    assert roles(other.hears(handover=Handover.WANTED)) == [(Role.ACTIVE, Role.DRAINING, 1)]


def test_drain_waits_for_the_other_and_maintenance_does_not():
    driver = active()
    driver.hears(ready=False)
    assert driver.tell(Operate(Verb.DRAIN)) == []
    assert roles(driver.hears()) == [(Role.ACTIVE, Role.DRAINING, 1)]
    driver = active()
    driver.silence()
    assert roles(driver.tell(Operate(Verb.MAINTENANCE))) == [(Role.ACTIVE, Role.FAULT, 1)]
    assert driver.why_not == "maintenance by the operator"
    assert driver.tell(Operate(Verb.UNDRAIN))[-1] == Acquire(2)


def test_who_was_drained_does_not_take_over_until_undrained():
    driver = standby()
    driver.tell(Operate(Verb.DRAIN))
    assert driver.silence() == []
    assert driver.why_not == "drained by the operator"
    assert driver.tell(Operate(Verb.UNDRAIN)) == [Acquire(6)]


def test_preemption_is_off_unless_asked_for_and_waits_for_full_health():
    driver = standby()
    driver.wait(1000)
    assert driver.told.handover is Handover.NONE
    driver = standby(preempt=True, preempt_delay=60.0)
    driver.tell(HealthChanged(HealthReason.BGP), after=50)
    driver.tell(WELL, after=1)
    driver.wait(59)
    assert driver.told.handover is Handover.NONE
    driver.wait(2)
    assert driver.told.handover is Handover.WANTED
    driver = standby(preempt=True, priority=100)
    driver.wait(1000)
    assert driver.told.handover is Handover.NONE, "it is not preferred"


def test_a_switchover_that_failed_is_not_tried_again_at_once():
    driver = active(handover_timeout=3.0, hold_down=5.0)
    driver.tell(SICK)
    driver.wait(3.1)
    assert roles(driver.tell(LeaseGranted(2))) == [(Role.DRAINING, Role.ACTIVE, 2)]
    assert roles(driver.wait(4.7)) == []
    assert roles(driver.wait(0.3)) == [(Role.ACTIVE, Role.DRAINING, 2)]


@pytest.mark.parametrize(("carried", "waits"), [(0.5, 2.5), (3.1, 0.0)])
def test_who_got_it_back_hands_over_at_its_next_fault_unless_it_falls_ill_as_soon_as_it_acts(carried, waits):
    driver = active(handover_timeout=3.0, hold_down=60.0, drain_time=0.1)
    driver.tell(SICK)
    driver.hears(role=Role.ACTIVE, epoch=2, level=Level.TOOK_OVER, ready=False)
    driver.wait(0.2)
    driver.tell(WELL)
    driver.hears(role=Role.DRAINING, epoch=2, level=Level.ACTIVE, handover=Handover.OFFERED, health=700)
    assert roles(driver.tell(LeaseGranted(3))) == [(Role.STANDBY, Role.ACTIVE, 3)]
    driver.hears(epoch=3)
    driver.wait(carried)
    out = driver.tell(SICK)
    if waits:
        assert roles(out + driver.wait(waits - 0.1)) == [], "two that fall ill as soon as they act would take turns"
        out = driver.wait(0.2)
    assert roles(out) == [(Role.ACTIVE, Role.DRAINING, 3)]


def test_a_machine_that_leaves_hands_over_to_one_that_stays_and_to_no_other():
    driver = active()
    driver.hears(health=500)
    driver.core.command(MachineLeaves(True), driver.now)
    assert driver.told.health == 500
    assert driver.core.role is Role.ACTIVE, "that one leaves too"
    driver.hears(health=1000)
    assert driver.core.role is Role.DRAINING
    said = [one.reason for one in driver.said if isinstance(one, RoleChanged)]
    assert said[-1] == "hands over to gw-b: maintenance of this machine is announced"


def test_a_machine_that_leaves_takes_over_where_nobody_else_is_and_does_not_preempt():
    driver = standby(preempt=True, preempt_delay=1.0, priority=300)
    driver.core.command(MachineLeaves(True), driver.now)
    driver.wait(5.0)
    assert driver.told.handover is Handover.NONE
    driver.silence()
    driver.tell(Standing.FREE)
    driver.tell(LeaseGranted(7))
    assert driver.core.role is Role.ACTIVE
    driver.core.command(MachineLeaves(False), driver.now)
    assert driver.told.health == 1000
