"""A machine that stood still: what outlived it is replaced at once, and nothing from before counts as news."""

from __future__ import annotations

import pytest
from simulation.scenario import CONNECTION, Plan
from simulation.world import World

from gateway.ike.exchanges.liveness import Liveness


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_child_sa_at_the_end_of_its_life_is_made_anew_at_once(seed: int) -> None:
    plan = Plan("ab", options=("dpd_delay = 100",), child_options=('rekey_time = "60s"',))
    world = World(seed, plan).start()
    world.converge(30.0)
    world.run(10.0)
    world.freeze("b")
    world.run(70.0)
    world.thaw("b")
    # Whether it is up is looked at every half a second
    assert world.run_until(lambda: world.link.up, 0.6), world.trace.ladder(20)


def test_what_came_before_the_stand_still_is_no_sign_of_life_after_it() -> None:
    """The data plane tells of it when the machine goes on, and it tells when it came."""
    world = World(1, Plan("a", options=("rekey_check = 0",))).start()
    world.converge(30.0)
    world.run(20.25)
    world.freeze("a")
    world.run(70.0)
    world.thaw("a")
    ike = world.shells["a"].node.ike
    (old,) = ike.sas(CONNECTION)
    assert isinstance(old.exchange, Liveness)
    assert old.last_heard < world.now - 70.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("starters", ["a", "b", "ab"])
def test_a_peer_that_gave_up_meanwhile_has_another_ike_sa_within_seconds(starters: str, seed: int) -> None:
    """It has no token to show (RFC 6290), and does not begin itself before it is asked."""
    quiet = ("rekey_check = 0", "quick_crash_detection = false")
    world = World(seed, Plan(starters, options=quiet)).start()
    world.converge(30.0)
    world.run(world.chance.uniform(0, 20))
    world.freeze("a")
    world.run(world.chance.uniform(70, 90))
    if "b" not in starters:
        assert world.shells["b"].node.ike.sas(CONNECTION) == []
    world.thaw("a")
    assert world.run_until(lambda: world.link.up, 4.0), world.trace.ladder(20)
    world.settle()
