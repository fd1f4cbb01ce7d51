"""A schedule of the pair with an address that moves, from a number: a configuration, a weather, and acts in which things go wrong.

seed -> compose -> MoveSchedule -> play -> MoveWorld, at rest
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from simulation.ha_schedules import light_cipher
from simulation.move_machine import PairMachine
from simulation.move_plan import CHILD, DEAD_TIME, OTHER, TTL, MovePlan
from simulation.move_world import MoveWorld
from simulation.network import CALM, ROUGH, Weather
from simulation.shell import Pace

from gateway.ha.roles import Verb
from gateway.node import installed, replication

FOUL = Weather(loss=0.2, duplicate=0.1, replay=0.05, straggle=0.1, delay=(0.001, 0.3))
WEATHERS = {"calm": CALM, "rough": ROUGH, "foul": FOUL}
PACES = {"instant": Pace(), "slow": Pace(compute=(0.0, 0.05), kernel=(0.0, 0.05))}
GRANT, SEEN_STEP = 64, 8
"""Packets, where there are few."""
PARDON = 30.0


@dataclass(frozen=True, slots=True)
class MoveSchedule:
    """What one seed means."""

    seed: int
    plan: MovePlan
    weather: str
    pace: str
    acts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.weather} weather, {self.pace} machines, {', '.join(self.acts)}; {self.plan}"


def compose(seed: int) -> MoveSchedule:
    """The schedule of a number."""
    chance = random.Random(f"{seed} move schedule")
    plan = MovePlan(
        starters=chance.choice(("g", "g", "e", "ge")),
        preempt=chance.random() < 0.2,
        broken=chance.random() < 0.15,
        esn=chance.random() < 0.3,
    )
    weather = chance.choices(tuple(WEATHERS), (3, 4, 2))[0]
    acts = tuple(chance.choice(tuple(ACTS)) for _ in range(chance.choice((1, 2, 2, 3))))
    return MoveSchedule(seed, plan, weather, chance.choice(tuple(PACES)), acts)


def play(seed: int) -> MoveWorld:
    """The whole schedule of a number, from start to rest. SimulationFailure when anything is not as it must be."""
    return perform(compose(seed))


def perform(schedule: MoveSchedule) -> MoveWorld:
    with light_cipher(), _small():
        world = MoveWorld(schedule.seed, schedule.plan, WEATHERS[schedule.weather], PACES[schedule.pace])
        world.note("", str(schedule))
        world.start()
        world.run(world.chance.choice((6.0, world.chance.uniform(0, 10))))
        for name in schedule.acts:
            world.note("", f"--- {name} ---")
            ACTS[name](world)
            world.run(world.chance.choice((0.0, world.chance.uniform(0, 2), world.chance.uniform(0, 15))))
        world.settle()
    return world


# --- what may happen ------------------------------------------------------------------------------------------------


def _one(world: MoveWorld) -> str:
    """Whom it hits: more often the active one."""
    active = world.active
    return active.name if active is not None and world.chance.random() < 0.6 else world.chance.choice("ab")


def _some_time(world: MoveWorld) -> float:
    """Shorter than, about, and longer than every timer."""
    chance = world.chance
    return chance.choice((chance.uniform(0, 0.5), DEAD_TIME, TTL, chance.uniform(0, 8), chance.uniform(5, 30)))


def _rested(world: MoveWorld) -> PairMachine:
    """Nothing is wrong, and both know all there is to know. The active one."""
    world.clear()
    world.converge()
    world.run(2 * TTL)
    world.converge()
    assert world.active is not None
    return world.active


def _crash(world: MoveWorld) -> None:
    name = _one(world)
    world.crash(name)
    if world.chance.random() < 0.7:
        world.later(_some_time(world), lambda: world.start(name))


def _power_loss(world: MoveWorld) -> None:
    name = _one(world)
    world.power_off(name)
    if world.chance.random() < 0.7:
        world.later(_some_time(world), lambda: world.start(name))


def _both_crash(world: MoveWorld) -> None:
    for name in world.chance.choice(("ab", "ba")):
        world.crash(name)
        world.later(world.chance.uniform(0, 4), lambda name=name: world.start(name))  # type: ignore[misc]


def _crash_again_and_again(world: MoveWorld) -> None:
    """The one that is active, before anything has come to rest."""
    for _ in range(world.chance.randrange(2, 5)):
        name = _one(world)
        world.crash(name)
        world.run(world.chance.uniform(0, 2))
        world.start(name)
        world.run(world.chance.uniform(0, 4))


def _edge_crashes(world: MoveWorld) -> None:
    world.crash("e")
    world.later(world.chance.uniform(0, 10), lambda: world.start("e"))


def _stand_still(world: MoveWorld) -> None:
    """SIGSTOP, SIGCONT: the clock goes on, the process does not."""
    name = _one(world)
    world.pause(name)
    world.later(world.chance.choice((_some_time(world), 60.0)), lambda: world.resume(name))


def _busy(world: MoveWorld) -> None:
    name = _one(world)
    world.keep_busy(name)
    world.later(world.chance.choice((world.chance.uniform(0, 1), _some_time(world))), lambda: world.resume(name))


def _clock_jumps(world: MoveWorld) -> None:
    world.jump_clock(_one(world), world.chance.choice((1.0, TTL, world.chance.uniform(0, 60), 86400.0)))


def _cut(world: MoveWorld, *ways: str) -> None:
    seconds = _some_time(world)
    for way in ways:
        world.cut(way[0], way[1], seconds)


def _cut_pair(world: MoveWorld) -> None:
    """Heartbeats and the copies together, as they go the same way."""
    _cut(world, *world.chance.choice((("ab", "ba"), ("ab",), ("ba",))))


def _cut_witness(world: MoveWorld) -> None:
    for name in world.chance.choice(("a", "b", "ab", _one(world))):
        _cut(world, *world.chance.choice(((f"{name}w", f"w{name}"), (f"{name}w",), (f"w{name}",))))


def _cut_off(world: MoveWorld) -> None:
    """One machine reaches nobody; its peer at the edge may still hear it."""
    name = _one(world)
    beside = world.chance.choice((OTHER[name] + "w", OTHER[name] + "we"))
    _cut(world, *(way for one in beside for way in (name + one, one + name)))


def _cut_edge(world: MoveWorld) -> None:
    """The way to the edge is gone from one gateway, or from both."""
    for name in world.chance.choice((_one(world), "ab")):
        _cut(world, f"{name}e", f"e{name}")


def _flapping_link(world: MoveWorld) -> None:
    for second in range(world.chance.randrange(4, 12)):
        for sender, receiver in (("a", "b"), ("b", "a")):
            world.later(second, lambda one=sender, other=receiver: world.cut(one, other, 0.5))  # type: ignore[misc]


def _witness_restarts(world: MoveWorld) -> None:
    world.crash_witness()
    world.later(world.chance.choice((0.0, _some_time(world))), world.witness.start)


def _operators(world: MoveWorld) -> None:
    for _ in range(world.chance.randrange(1, 4)):
        world.operate(world.chance.choice("ab"), world.chance.choice(tuple(Verb)))
        world.run(world.chance.uniform(0, 3))


def _rekeys(world: MoveWorld) -> None:
    """By both ends, at any moment of a takeover that comes."""
    name = _one(world)
    if world.chance.random() < 0.7:
        strike = world.chance.choice((world.crash, world.power_off, world.pause))
        world.later(world.chance.uniform(0, 3), lambda: strike(name))
        world.later(world.chance.uniform(4, 12), lambda: (world.resume(name), world.start(name)))
    for _ in range(world.chance.randrange(1, 8)):
        world.run(world.chance.uniform(0.02, 1.0))
        for who in world.chance.choice(("e", _one(world), "e" + _one(world))):
            world.rekey(who, world.chance.choice(("", CHILD, CHILD)))


def _old_copy(world: MoveWorld) -> None:
    """The copy is cut off, the connection goes on, and the active one is lost: before or after the copy is too old to be used."""
    old = _rested(world)
    for sender, receiver in (("a", "b"), ("b", "a")):
        world.cut(sender, receiver, 60.0)
    world.run(world.chance.uniform(0.5, 14))
    for _ in range(world.chance.randrange(3)):
        world.rekey(world.chance.choice((old.name, "e")), world.chance.choice(("", CHILD)))
        world.run(world.chance.uniform(0, 1.5))
    world.chance.choice((world.power_off, world.pause, world.crash))(old.name)
    world.run(world.chance.uniform(TTL, 3 * TTL))


def _power_comes_back(world: MoveWorld) -> None:
    """Before the lease is over. Whoever has the copy goes first, whatever the priorities are."""
    old = _rested(world)
    resumed = world.happenings[RESUMED]
    world.power_off(old.name)
    world.run(world.chance.uniform(0.2, TTL - 0.5))
    world.start(old.name)
    if not world.run_until(lambda: world.active is not None and world.active.acts, 4 * TTL):
        world.fail("nobody is active")
    if world.happenings[RESUMED] == resumed and not world.plan.broken:
        world.fail(f"{old.name} is active, and the other one had a copy")


def _takeover(world: MoveWorld) -> None:
    """One fault and nothing else, at a pair that is at rest, also amid a rekey: nobody negotiates anew, and traffic goes on."""
    old = _rested(world)
    before, resumed, lost = world.negotiations, world.happenings[RESUMED], world.happenings[REKEY_LOST]
    if world.chance.random() < 0.6:
        world.rekey(world.chance.choice((old.name, "e")), world.chance.choice(("", CHILD)))
        world.run(world.chance.choice((0.0, world.chance.uniform(0, 0.1))))
    strike = world.chance.choice(tuple(STRIKES))
    STRIKES[strike](world, old.name)
    new = world.machines[OTHER[old.name]]
    if not world.run_until(lambda: new.acts or (old.acts and strike == "crash"), 3 * TTL):
        world.fail(f"after {strike} of {old.name} nobody is active")
    if world.plan.broken:
        return  # a lease that is taken by force leaves nothing to go on with
    delivered = dict(world.delivered)
    if not world.run_until(lambda: all(world.delivered[way] > delivered[way] for way in delivered), TTL):
        world.fail(f"after {strike} of {old.name} no traffic passes: {world.delivered}, before {delivered}")
    if world.happenings[RESUMED] == resumed:
        world.fail(f"after {strike} of {old.name} the connection did not go on")
    if world.negotiations > before and world.happenings[REKEY_LOST] == lost:
        world.fail(f"after {strike} of {old.name} the connection began anew")


RESUMED, REKEY_LOST = "ike-resumed at this gateway", "ike-rekey-lost"
"""Events; after the second a new IKE_SA is set up beside the old one, which carries its CHILD_SAs until then."""
STRIKES: dict[str, Callable[[MoveWorld, str], None]] = {
    "crash": lambda world, name: world.crash(name),
    "power loss": lambda world, name: world.power_off(name),
    "SIGSTOP": lambda world, name: world.pause(name),
    "failover": lambda world, name: world.operate(name, Verb.FAILOVER),
}
ACTS: dict[str, Callable[[MoveWorld], None]] = {
    "crash": _crash,
    "power loss": _power_loss,
    "both crash": _both_crash,
    "crash again and again": _crash_again_and_again,
    "the edge crashes": _edge_crashes,
    "stand still": _stand_still,
    "busy": _busy,
    "clock jumps": _clock_jumps,
    "cut pair": _cut_pair,
    "cut witness": _cut_witness,
    "cut off": _cut_off,
    "cut edge": _cut_edge,
    "flapping link": _flapping_link,
    "witness restarts": _witness_restarts,
    "operators": _operators,
    "rekeys": _rekeys,
    "old copy": _old_copy,
    "power comes back": _power_comes_back,
    "takeover": _takeover,
}


@contextmanager
def _small() -> Iterator[None]:
    """Constants for little traffic and little patience."""
    before = installed.GRANT, installed.SEEN_STEP, replication.PARDON
    installed.GRANT, installed.SEEN_STEP, replication.PARDON = GRANT, SEEN_STEP, PARDON
    try:
        yield
    finally:
        installed.GRANT, installed.SEEN_STEP, replication.PARDON = before
