"""Two whole nodes on a virtual clock and a bad network: they always converge, through rekeys, and lose nothing of their own."""

from __future__ import annotations

import pytest
from simulation.network import ROUGH
from simulation.scenario import Plan, seeds
from simulation.world import World

REKEYS = (("a", "net"), ("b", "net"), ("a", ""), ("b", ""))


@pytest.mark.parametrize("starters", ["a", "ab"])
def test_two_nodes_always_converge_and_rekey(starters: str) -> None:
    for seed in seeds(200):
        world = World(seed, Plan(starters=starters), ROUGH).start()
        world.converge(120)
        for name, child in REKEYS:
            world.operate(name, "rekey", child)
            world.run(4)
        world.settle()


def test_a_crashed_peer_comes_back() -> None:
    for seed in seeds(20):
        world = World(seed, Plan(), ROUGH).start()
        world.converge(120)
        world.run(5)
        world.crash("b")
        world.run(3)
        world.start("b")
        world.settle(180)
