"""A thousand schedules of everything that can go wrong between two gateways and their witness: never two that act at once.

What is asserted stands in the simulator and is asked after every step: ha_world.py, ha_invariants.py.
`SIM_SEED=n` plays one schedule and prints its whole ladder, `SIM_FACTOR=n` plays n thousand.
"""

from __future__ import annotations

import os

import pytest
from simulation.ha_plan import HaPlan
from simulation.ha_schedules import ACTS, POLICIES, WEATHERS, WITNESS_ACTS, HaSchedule, compose, perform, play

COUNT, BLOCK = 1000 * int(os.environ.get("SIM_FACTOR", "1")), 100
ONLY = os.environ.get("SIM_SEED")
BLOCKS = [range(int(ONLY), int(ONLY) + 1)] if ONLY else [range(one, one + BLOCK) for one in range(0, COUNT, BLOCK)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.start}-{block.stop - 1}")
def test_a_thousand_schedules(block: range) -> None:
    for seed in block:
        play(seed)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("act", ACTS)
def test_every_fault_under_every_policy_with_the_real_cipher(policy: str, act: str) -> None:
    if policy in ("witness", "break") or act not in WITNESS_ACTS:
        perform(HaSchedule(0, HaPlan(policy, paths=2), "rough", (act,)))


FOUND = {
    "a lease was broken while its grant was on the way": HaSchedule(
        41982, HaPlan("break"), "foul", ("witness restarts", "clock jumps")
    ),
}


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_once(found: str) -> None:
    perform(FOUND[found])


def test_among_a_thousand_everything_happens_and_often() -> None:
    schedules = [compose(seed) for seed in range(1000)]
    for name in ACTS:
        assert sum(name in one.acts for one in schedules) > 50, name
    for weather in WEATHERS:
        assert sum(one.weather == weather for one in schedules) > 100, weather
    for policy in POLICIES:
        assert sum(one.plan.policy == policy for one in schedules) > 100, policy
    assert sum(one.plan.preempt for one in schedules) > 100
    assert sum(one.plan.paths == 2 for one in schedules) > 100


def test_equal_seeds_give_equal_schedules() -> None:
    assert play(7).lines == play(7).lines != play(8).lines
