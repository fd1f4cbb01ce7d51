"""Epochs that are announced by whoever may announce: they bind who acts next, and end what only where nobody else can say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.elections import ACTIVE, SICK, Driver, active, roles, standby

from gateway.ha.heartbeat import PeerSaid
from gateway.ha.message import Level, Role
from gateway.ha.roles import EpochAnnounced
from gateway.ha.sightings import Sightings
from gateway.ha.witness import Acquire, Break, LeaseGranted, LeaseRefused, Release

FULL = 2**32


@given(st.integers(0, 2**63), st.integers(0, 2**31 - 1))
def test_the_nearest_epoch_is_meant(known: int, ahead: int) -> None:
    seen = Sightings()
    assert seen.ahead((known + ahead) % FULL, known) == ahead
    seen.note((known + ahead) % FULL, known, 5.0)
    assert seen.highest == (known + ahead if ahead else 0)


@given(st.integers(0, 2**63), st.integers(1, 2**31))
def test_what_is_behind_says_nothing(known: int, behind: int) -> None:
    seen = Sightings()
    seen.note((known - behind) % FULL, known, 5.0)
    assert (seen.highest, seen.seen_at) == (0, float("-inf"))


def announced(driver: Driver, mark: int) -> list[object]:
    driver.core.command(EpochAnnounced(mark), driver.now)
    return list(driver.core.poll())


def test_who_is_vouched_for_by_its_lease_goes_on() -> None:
    driver = active()
    driver.silence()
    assert announced(driver, 9) == []
    assert (driver.core.role, driver.core.acting_epoch, driver.told.epoch) == (Role.ACTIVE, 1, 1)


def test_who_takes_over_asks_for_more_than_was_announced() -> None:
    driver = standby()
    assert announced(driver, 9) == []
    assert driver.told.epoch == 5, "the other one is told nothing of it"
    assert driver.silence() == [Acquire(10)]


def test_a_lease_under_an_epoch_that_was_announced_meanwhile_is_given_back() -> None:
    driver = standby()
    assert driver.silence() == [Acquire(6)]
    assert announced(driver, 6) == []
    out = driver.tell(LeaseGranted(6))
    assert out[0] == Release()
    assert out[-1] == Acquire(7)
    assert driver.core.role is Role.STANDBY
    driver.tell(LeaseGranted(7))
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 7)


def test_a_lease_is_broken_under_more_than_was_announced() -> None:
    driver = standby(break_lease=True)
    announced(driver, 9)
    driver.silence()
    assert driver.tell(LeaseRefused(5, "gw-b")) == [Break(10)]


def test_without_a_witness_the_claim_is_above_what_was_announced() -> None:
    driver = standby(witness=False)
    announced(driver, 9)
    driver.hears(epoch=5)
    assert driver.told.claim == 10
    driver.hears(epoch=5, yields=10)
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 10)


def promoted(**settings: Any) -> Driver:
    """By silence, under epoch 6."""
    driver = standby(witness=False, none="promote", **settings)
    driver.silence()
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 6)
    return driver


def test_where_silence_promotes_the_lower_epoch_ends_and_does_not_act_in_turns() -> None:
    driver = promoted()
    announced(driver, 6)
    assert driver.core.role is Role.ACTIVE, "perhaps its own announcement, come back"
    announced(driver, 7)
    assert (driver.core.role, driver.core.epoch) == (Role.STANDBY, 7)
    assert driver.why_not == "gw-b is silent, and acts: its epoch 7 was found"
    driver.wait(299.0)
    assert driver.core.role is Role.STANDBY
    driver.wait(2.0)
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 8)


def test_while_the_other_is_heard_it_says_itself_what_it_is() -> None:
    driver = promoted()
    driver.up()
    announced(driver, 40)
    assert driver.core.role is Role.ACTIVE
    driver.wait(10.0)
    driver.silence()
    assert driver.core.role is Role.ACTIVE, "a mark of long ago is not what it does now"


def test_an_offer_is_not_taken_back_from_a_silent_one_that_announces_meanwhile() -> None:
    driver = promoted()
    driver.up()
    driver.tell(SICK)
    assert driver.core.role is Role.DRAINING
    driver.silence()
    announced(driver, 7)
    assert (driver.core.role, driver.core.epoch, driver.core.level) == (Role.DRAINING, 7, Level.STANDBY)
    assert roles(driver.wait(60.0)) == [(Role.DRAINING, Role.STANDBY, 6), (Role.STANDBY, Role.FAULT, 6)]


def test_nor_does_a_mark_keep_it_from_who_is_heard() -> None:
    driver = promoted()
    driver.up()
    announced(driver, 40)
    driver.tell(SICK)
    driver.hears(ready=False)
    assert (driver.core.role, driver.core.acting_epoch) == (Role.ACTIVE, 6)


@pytest.mark.parametrize("before", [0.0, 1.0])
def test_what_was_announced_just_before_the_silence_was_noticed_counts(before: float) -> None:
    driver = promoted()
    driver.up()
    announced(driver, 40)
    driver.wait(before)
    driver.silence()
    assert (driver.core.role, driver.core.epoch) == (Role.STANDBY, 40)


def test_with_stay_nobody_else_became_active_meanwhile() -> None:
    driver = standby(witness=False)
    driver.hears(epoch=5)
    driver.hears(epoch=5, yields=6)
    assert driver.core.role is Role.ACTIVE
    driver.silence()
    announced(driver, 40)
    assert driver.core.role is Role.ACTIVE


def test_what_the_other_one_says_itself_is_believed_as_ever() -> None:
    driver = promoted()
    driver.tell(PeerSaid("gw-b", ACTIVE))
    assert driver.core.role is Role.ACTIVE, "its epoch is lower"
    driver.hears(role=Role.ACTIVE, epoch=8)
    assert driver.core.role is Role.STANDBY
