"""Rekeys, crashes, cuts, NAT, forged datagrams and slow machines, mixed by a seed: the connection stays up or comes back.

Each test asserts through the World's invariants (world.py, links.py, trace.py), which are checked after every step.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation.network import ROUGH
from simulation.scenario import HOSTS, NAT_HOST, Plan, seeds
from simulation.shell import Pace
from simulation.world import World

from gateway.contract import Endpoint

FOUL = replace(ROUGH, corrupt=0.03, replay=0.03)
SLOW = Pace(compute=(0.001, 0.05), kernel=(0.001, 0.2))
COUNT = 40
CUTS = ("ab", "ba", "ab ba")


def starters(seed: int) -> str:
    return ("a", "ab")[seed % 2]


@pytest.mark.parametrize("who", ["a", "ab"])
def test_rekeys_of_everything_by_both_at_once(who: str) -> None:
    for seed in seeds(COUNT):
        plan = Plan(starters=who, children=("net", "voice"), pfs=seed % 2 == 0)
        world = World(seed, plan, FOUL, SLOW).start()
        world.converge(180)
        world.disturb(40)
        world.settle()


def test_crashes_of_either_end() -> None:
    for seed in seeds(COUNT):
        world = World(seed, Plan(starters=starters(seed)), FOUL, SLOW).start()
        world.converge(180)
        for _ in range(3):
            world.disturb(world.chance.uniform(1, 10))
            name = world.chance.choice("ab")
            world.crash(name)
            world.run(world.chance.uniform(0, 10))
            world.start(name)
            world.converge(240)
        world.settle(240)


def test_a_cut_shorter_than_the_patience_is_survived() -> None:
    for seed in seeds(COUNT):
        world = World(seed, Plan(starters=starters(seed)), ROUGH).start()
        world.converge(180)
        world.run(3)
        world.partition(world.chance.choice(CUTS))
        world.run(4)
        world.heal()
        world.disturb(10)
        world.settle()


def test_after_a_long_cut_it_comes_back() -> None:
    for seed in seeds(COUNT):
        world = World(seed, Plan(starters=starters(seed)), ROUGH).start()
        world.converge(180)
        world.run(3)
        world.partition(world.chance.choice(CUTS))
        world.run(world.chance.uniform(30, 400))
        world.heal()
        world.converge(240)
        world.settle(240)


def test_behind_a_nat_that_forgets() -> None:
    for seed in seeds(COUNT):
        world = World(seed, Plan(nat=True), ROUGH).start()
        world.converge(180)
        world.disturb(10)
        world.rebind()
        world.converge(60)
        world.disturb(10)
        world.settle()


def test_an_operator_takes_it_down_and_up() -> None:
    for seed in seeds(COUNT):
        world = World(seed, Plan(starters="a"), ROUGH, SLOW).start()
        world.converge(180)
        world.run(3)
        for verb in ("terminate", "initiate"):
            world.operate("a", verb)
            world.run(world.chance.uniform(0, 8))
        world.converge(60)
        world.settle()


def test_a_deleted_tun_is_made_again() -> None:
    for seed in seeds(COUNT):
        world = World(seed, Plan(starters=starters(seed)), ROUGH, SLOW).start()
        world.converge(180)
        name = world.chance.choice("ab")
        world.delete_tun(name)
        world.converge(30)
        world.settle()


def test_forged_datagrams_change_nothing() -> None:
    """Every message that ever crossed, mutated and sent again from any address, while the connection rekeys."""
    for seed in seeds(COUNT):
        world = World(seed, Plan(starters=starters(seed), nat=seed % 4 == 0), ROUGH).start()
        world.converge(180)
        sources = [Endpoint(host, port) for host in (*HOSTS.values(), NAT_HOST, "192.0.2.99") for port in (500, 4500)]
        for _ in range(40):
            world.disturb(0.5, period=(0.1, 0.5))
            forge(world, sources)
        world.settle()


def forge(world: World, sources: list[Endpoint]) -> None:
    chance = world.chance
    seen = [line.octets for line in world.trace.lines if line.octets]
    for _ in range(10):
        octets = bytearray(chance.choice(seen))
        for _ in range(chance.randrange(1, 4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        data = bytes(octets[: chance.choice((len(octets), chance.randrange(len(octets) + 1)))])
        target = Endpoint(chance.choice((*HOSTS.values(), NAT_HOST)), chance.choice((500, 4500)))
        marker = bytes(4) if target.port == 4500 else b""
        world.inject(marker + data, chance.choice(sources), target)


def test_equal_seeds_give_equal_schedules() -> None:
    def fingerprint(seed: int) -> str:
        world = World(seed, Plan(starters="ab"), FOUL, SLOW).start()
        return world.disturb(20).fingerprint()

    assert fingerprint(7) == fingerprint(7) != fingerprint(8)
