"""Hundreds of schedules of everything that can go wrong between two whole gateways with an address that moves, their witness and their
edge: never two that act, never an IV or a message ID twice, always one IKE_SA at the end.

What is asserted stands in the simulator and is asked after every step: move_world.py.
`SIM_SEED=n` plays one schedule and prints its whole ladder, `SIM_FACTOR=n` plays so many times as many.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from simulation.move_plan import OTHER, MovePlan
from simulation.move_schedules import ACTS, PACES, RESUMED, WEATHERS, MoveSchedule, compose, perform, play
from simulation.move_world import MoveWorld

COUNT, BLOCK = 200 * int(os.environ.get("SIM_FACTOR", "1")), 50
ONLY = os.environ.get("SIM_SEED")
BLOCKS = [range(int(ONLY), int(ONLY) + 1)] if ONLY else [range(one, one + BLOCK) for one in range(0, COUNT, BLOCK)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.start}-{block.stop - 1}")
def test_hundreds_of_schedules(block: range) -> None:
    happened = sum((play(seed).happenings for seed in block), Counter[str]())
    if not ONLY:
        assert happened[RESUMED] >= BLOCK // 4, "connections go on at the other gateway"
        assert happened["ike-established"] > happened[RESUMED], "and others begin anew"


def test_a_peer_that_waits_learns_at_its_next_message_that_nobody_has_its_ike_sa() -> None:
    """RFC 6290: both gateways make the same tokens, so it need not wait for the end of its repetitions (7.9 s here)."""
    world = MoveWorld(1, MovePlan("e")).start()
    world.converge()
    old, before = world.active, world.negotiations
    assert old is not None
    for sender, receiver in (("a", "b"), ("b", "a")):
        world.cut(sender, receiver, 60.0)
    world.run(15)
    world.power_off(old.name)
    assert world.run_until(lambda: world.machines[OTHER[old.name]].acts, 5)
    assert world.run_until(lambda: world.negotiations > before, 4), "a liveness check comes after 3 s of silence"
    assert world.happenings[RESUMED] == 0


@pytest.mark.parametrize("act", ACTS)
def test_every_fault_on_slow_machines(act: str) -> None:
    perform(MoveSchedule(0, MovePlan("ge"), "rough", "slow", (act,)))


def test_among_a_thousand_everything_happens_and_often() -> None:
    schedules = [compose(seed) for seed in range(1000)]
    for name in ACTS:
        assert sum(name in one.acts for one in schedules) > 50, name
    for weather in WEATHERS:
        assert sum(one.weather == weather for one in schedules) > 100, weather
    for pace in PACES:
        assert sum(one.pace == pace for one in schedules) > 100, pace
    for chosen in ("preempt", "broken", "esn"):
        assert sum(getattr(one.plan, chosen) for one in schedules) > 100, chosen


def test_equal_seeds_give_equal_schedules() -> None:
    first, second, other = (
        [(line.at, line.text, line.octets) for line in play(seed).trace.lines] for seed in (7, 7, 8)
    )
    assert first == second != other
