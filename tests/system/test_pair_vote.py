"""Two gateways without a witness, and three machines of the VNet that both should reach: what their vote decides, and what it cannot."""

from __future__ import annotations

import time

import pytest
from support.netns import Lab
from support.process import holds_for, wait_until
from support.two_gateways import HOST, WITNESS, TwoGateways

pytestmark = [pytest.mark.system, pytest.mark.slow]
DETECTION = 0.2 * 3
WAIT = 2 * DETECTION
DEAD = 0.05 * 3
_VOTE = f"""
[ha.vote]
targets = ["{WITNESS}", "{HOST}", "10.1.1.1"]
interval = "200ms"
multiplier = 3
"""


@pytest.fixture
def pair(lab: Lab) -> TwoGateways:
    made = TwoGateways(lab, ha='drain_time = "500ms"\nwithout_witness = "vote"', ttl="", more=_VOTE)
    made.start()
    made.wait_whole()
    made.streams.start(500)
    made.streams.wait_flowing(10)
    wait_until(lambda: all(votes(made, at) == 3 for at in (0, 1)), 10, "all targets answer both")
    return made


def votes(pair: TwoGateways, at: int) -> int:
    status = pair.daemons[at].status()
    found = [one for one in status["liveness"] if one["name"].startswith("vote ")] if status else []
    return sum(one["state"] == "UP" for one in found)


def entries(pair: TwoGateways, at: int, event: str) -> list[tuple[float, str]]:
    status = pair.daemons[at].status()
    return [(one["at"], one["text"]) for one in status["journal"] if one["event"] == event] if status else []


def test_a_crash_is_taken_over_when_the_vote_is_won_and_its_wait_is_over(pair: TwoGateways) -> None:
    active, killed = pair.active(), time.clock_gettime(time.CLOCK_BOOTTIME)
    pair.daemons[active].kill()
    pair.wait_role(1 - active, "active", 5)
    at, text = entries(pair, 1 - active, "ha-active")[-1]
    assert DEAD + WAIT - 0.06 < at - killed < DEAD + WAIT + 1.0
    assert 'without a witness, by without_witness = "vote"' in text
    pair.daemons[active].start()
    pair.wait_whole()
    assert pair.active() == 1 - active


def test_who_is_cut_off_steps_down_before_the_other_takes_over(pair: TwoGateways) -> None:
    for _ in range(3):
        active, cut = pair.active(), time.clock_gettime(time.CLOCK_BOOTTIME)
        pair.vnet.batch(f"link set gw{'ab'[active]} down")
        pair.wait_role(1 - active, "active", 5)
        down, text = next(one for one in entries(pair, active, "ha-standby") if one[0] > cut)
        up, _ = next(one for one in entries(pair, 1 - active, "ha-active") if one[0] > cut)
        assert 0 < up - down < WAIT
        assert "of 3 targets of the vote answer" in text
        back = time.clock_gettime(time.CLOCK_BOOTTIME)
        pair.vnet.batch(f"link set gw{'ab'[active]} up")
        pair.wait_whole(90)
        assert not [one for one in entries(pair, active, "ha-active") if one[0] > back and "none =" in one[1]]


def test_one_target_less_is_borne_and_two_less_let_nobody_take_over(pair: TwoGateways) -> None:
    active = pair.active()
    pair.host.batch("link set eth0 down")
    wait_until(lambda: all(votes(pair, at) == 2 for at in (0, 1)), 5, "two are left")
    pair.witness.batch("link set eth0 down")
    wait_until(lambda: all(votes(pair, at) == 1 for at in (0, 1)), 5, "one is left")
    holds_for(lambda: pair.roles()[active] == "active", 2 * WAIT, "they hear each other, so it matters to nobody")
    pair.daemons[active].kill()
    holds_for(lambda: pair.role(1 - active) == "standby", 3 * WAIT, "silence, and no majority")
    said = pair.daemons[1 - active].ctl("ha").stdout
    assert "is silent, and only 1 of 3 targets of the vote answer" in " ".join(said.split())
    pair.witness.batch("link set eth0 up", "route replace default via 10.1.9.1")
    pair.wait_role(1 - active, "active", 10)


def test_where_only_the_heartbeats_are_cut_it_is_no_fence_as_its_users_are_told(pair: TwoGateways) -> None:
    pair.cut_heartbeats()
    wait_until(lambda: pair.roles() == ["active", "active"], 10, "both reach the targets, and not each other")
    pair.join_heartbeats()
    pair.wait_whole()
