"""A schedule of the pair from a number: a configuration, a weather, and acts in which things go wrong, also several at once.

seed -> compose -> HaSchedule -> play -> HaWorld, at rest
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from simulation.ha_plan import CALM, DEAD_TIME, FOUL, ROUGH, TTL, HaPlan, HaWeather
from simulation.ha_world import OTHER, PATIENCE, HaWorld

from gateway.ha import sealed
from gateway.ha.message import HealthReason, Level, Role
from gateway.ha.roles import Verb

POLICIES = {"witness": 5, "break": 2, "stay": 3, "promote": 2}
WEATHERS: dict[str, HaWeather] = {"calm": CALM, "rough": ROUGH, "foul": FOUL}
REAL_CIPHER = 16
"""One schedule in so many has the real one."""
ILLS = (HealthReason.LINK, HealthReason.TUNNELS, HealthReason.BGP, HealthReason.TUNNELS | HealthReason.BGP)


@dataclass(frozen=True, slots=True)
class HaSchedule:
    """What one seed means."""

    seed: int
    plan: HaPlan
    weather: str
    acts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.weather} weather, {', '.join(self.acts)}; {self.plan}"


def compose(seed: int) -> HaSchedule:
    """The schedule of a number."""
    chance = random.Random(f"{seed} ha schedule")
    plan = HaPlan(
        chance.choices(tuple(POLICIES), tuple(POLICIES.values()))[0], chance.random() < 0.25, chance.choice((1, 1, 2))
    )
    acts = [name for name in ACTS if plan.witness or name not in WITNESS_ACTS]
    acts += RARE if plan.witness else ()
    weather = chance.choices(tuple(WEATHERS), (3, 4, 2))[0]
    return HaSchedule(seed, plan, weather, tuple(chance.choice(acts) for _ in range(chance.choice((1, 2, 2, 3)))))


def play(seed: int) -> HaWorld:
    """The whole schedule of a number, from start to rest. SimulationFailure when anything is not as it must be."""
    return perform(compose(seed))


def perform(schedule: HaSchedule) -> HaWorld:
    with light_cipher(real=schedule.seed % REAL_CIPHER == 0):
        world = HaWorld(schedule.seed, schedule.plan, WEATHERS[schedule.weather])
        world.note("", str(schedule))
        if world.chance.random() < 0.5:
            world.start()
        else:
            world.start("a").run(world.chance.uniform(0, 5)).start("b")
        world.run(world.chance.uniform(0, 2 * PATIENCE) if world.chance.random() < 0.03 else 6)
        for name in schedule.acts:
            world.note("", f"--- {name} ---")
            ACTS[name](world)
            world.run(world.chance.choice((0.0, world.chance.uniform(0, 2), world.chance.uniform(0, 15))))
        world.settle()
    return world


# --- what may happen ------------------------------------------------------------------------------------------------


def _one(world: HaWorld) -> str:
    """Whom it hits: more often the active one."""
    active = [name for name, one in world.machines.items() if one.role is Role.ACTIVE]
    return active[0] if active and world.chance.random() < 0.6 else world.chance.choice("ab")


def _some_time(world: HaWorld) -> float:
    """Shorter than, about, and longer than every timer."""
    chance = world.chance
    return chance.choice((chance.uniform(0, 0.5), DEAD_TIME, TTL, chance.uniform(0, 8), chance.uniform(5, 40)))


def _crash(world: HaWorld) -> None:
    name = _one(world)
    world.crash(name)
    if world.chance.random() < 0.6:
        world.later(_some_time(world), lambda: world.start(name) and None)


def _crash_for_good(world: HaWorld) -> None:
    """The other one goes on alone, with all it needs; without a witness as its user chose."""
    world.clear()
    world.converge(PATIENCE)
    gone = _one(world)
    left = OTHER[gone]
    attracted = world.attracts(left)
    world.crash(gone)
    if world.plan.policy != "stay":
        world.converge(PATIENCE, left)
    else:
        world.run(PATIENCE / 2)
        if world.attracts(left) != attracted:
            world.fail(f"{left} did not stay what it was")


def _both_restart(world: HaWorld) -> None:
    world.crash("a")
    world.crash("b")
    for name in "ab":
        world.later(world.chance.uniform(0, 4), lambda name=name: world.start(name) and None)  # type: ignore[misc]


def _stand_still(world: HaWorld) -> None:
    """SIGSTOP, SIGCONT: the clock goes on, the process does not."""
    name = _one(world)
    world.pause(name)
    world.later(world.chance.choice((_some_time(world), 60.0)), lambda: world.resume(name))


def _busy(world: HaWorld) -> None:
    """A loop that has no time: not for long, or for good and ever."""
    name = _one(world)
    world.keep_busy(name)
    world.later(world.chance.choice((world.chance.uniform(0, 1), _some_time(world), 60.0)), lambda: world.resume(name))


def _clock_jumps(world: HaWorld) -> None:
    name = _one(world)
    world.jump_clock(name, world.chance.choice((1.0, TTL, world.chance.uniform(0, 60), 86400.0)))


def _cut_heartbeat(world: HaWorld) -> None:
    seconds = _some_time(world)
    for sender, receiver in world.chance.choice(((("a", "b"), ("b", "a")), (("a", "b"),), (("b", "a"),))):
        world.cut(sender, receiver, world.chance.choice((-1, -1, 0)), seconds)


def _cut_witness(world: HaWorld) -> None:
    seconds = _some_time(world)
    for name in world.chance.choice(("a", "b", "ab", _one(world))):
        for sender, receiver in world.chance.choice((((name, "w"), ("w", name)), ((name, "w"),), (("w", name),))):
            world.cut(sender, receiver, -1, seconds)


def _cut_off(world: HaWorld) -> None:
    """The one machine reaches nobody."""
    name, seconds = _one(world), _some_time(world)
    for other in (OTHER[name], "w"):
        world.cut(name, other, -1, seconds)
        world.cut(other, name, -1, seconds)


def _slow_witness(world: HaWorld) -> None:
    """One direction is slow; then whoever is active may be cut off in the middle of it."""
    name = next((name for name, one in world.machines.items() if one.role is Role.ACTIVE), "a")
    world.note("net", f"the witness is slow for {name}")
    world.slow[("w", name) if world.chance.random() < 0.7 else (name, "w")] = (0.4, 0.9)
    world.run(world.chance.uniform(2, 5))
    if world.chance.random() < 0.8:
        seconds = world.chance.uniform(6, 12)
        for other in (OTHER[name], "w"):
            world.cut(name, other, -1, seconds)
            world.cut(other, name, -1, seconds)
        world.run(seconds)


def _flapping_link(world: HaWorld) -> None:
    """At 1 Hz, for longer than every timer."""
    for second in range(world.chance.randrange(4, 20)):
        world.later(second, lambda: world.cut("a", "b", -1, 0.5))
        world.later(second, lambda: world.cut("b", "a", -1, 0.5))


def _flapping_health(world: HaWorld) -> None:
    name = _one(world)
    for second in range(world.chance.randrange(3, 12)):
        world.later(second, lambda: world.fall_ill(name, world.chance.choice(ILLS)))
        world.later(second + 0.5, lambda: world.fall_ill(name, HealthReason(0)))


def _illness(world: HaWorld) -> None:
    for name in world.chance.choice((_one(world), "ab")):
        world.fall_ill(name, world.chance.choice(ILLS))
        world.later(_some_time(world), lambda name=name: world.fall_ill(name, HealthReason(0)))  # type: ignore[misc]


def _witness_restarts(world: HaWorld) -> None:
    """Often while somebody waits for the lease."""
    if world.chance.random() < 0.7:
        for sender, receiver in (("a", "b"), ("b", "a")):
            world.cut(sender, receiver, -1, DEAD_TIME + 3 * TTL)
        world.run(DEAD_TIME + world.chance.uniform(0.5, TTL))
    world.crash_witness()
    if world.chance.random() < 0.5:
        world.witness.start()
        return
    world.later(_some_time(world), world.witness.start)


def _announced(world: HaWorld) -> None:
    """The cloud is going to take a machine away, or says so of both."""
    for name in world.chance.choice((_one(world), _one(world), "ab")):
        world.announce(name, soon=True)
        if world.chance.random() < 0.5:
            world.later(_some_time(world), lambda name=name: world.crash(name))  # type: ignore[misc]
        world.later(_some_time(world), lambda name=name: world.announce(name, soon=False))  # type: ignore[misc]


def _forged_epoch(world: HaWorld) -> None:
    """Somebody announces a route with a mark of an epoch that nobody has. It ends nothing, and who acts next does so above it."""
    world.clear()
    world.converge(PATIENCE)
    world.run(2 * TTL)
    world.converge(PATIENCE)
    active = next(name for name, one in world.machines.items() if one.role is Role.ACTIVE)
    pair = world.machines[active].pair
    assert pair is not None
    forged = pair.election.epoch + world.chance.choice((1, 7, 2**31 - 1))
    for whom in world.chance.choice((active, OTHER[active], "ab", "ab")):
        world.note(whom, f"is told of epoch {forged}")
        world.guarded(lambda whom=whom: world.hear_epoch(whom, forged))  # type: ignore[misc]
    ended = world.run_until(lambda: world.machines[active].role is not Role.ACTIVE, 4.0)
    if ended and world.calm_preference(OTHER[active]):
        world.fail(f"a mark that anybody may write ended what {active} does")
    if world.chance.random() < 0.7:
        world.operate(active, Verb.FAILOVER)
        world.run(6.0)


def _operators(world: HaWorld) -> None:
    """In the middle of whatever else happens."""
    for _ in range(world.chance.randrange(1, 4)):
        world.operate(world.chance.choice("ab"), world.chance.choice(tuple(Verb)))
        world.run(world.chance.uniform(0, 3))


def _switchover(world: HaWorld) -> None:
    """Planned, and nothing else happens: at no instant is there nobody who attracts, and it is done in a moment."""
    world.clear()
    world.weather = HaWeather(delay=(0.001, world.chance.choice((0.003, 0.1))))
    world.converge(PATIENCE)
    world.run(2 * TTL)
    world.converge(PATIENCE)
    world.watch.attracted = True
    old = next(name for name, one in world.machines.items() if one.role is Role.ACTIVE)
    new = OTHER[old]
    verb, whom = world.chance.choice(((Verb.FAILOVER, old), (Verb.FAILOVER, new), (Verb.DRAIN, old)))
    world.operate(whom, verb)
    if not world.run_until(lambda: world.machines[new].role is Role.ACTIVE, 4.0) and world.calm_preference(old):
        world.fail(f"{verb.value} was asked of {whom}, and {new} is not active")
    world.run(6.0)
    pair = world.machines[new].pair
    if world.calm_preference(old) and (pair is None or pair.election.level is not Level.ACTIVE):
        world.fail(f"{new} is not the only one that attracts after the switchover")
    world.watch.attracted = False
    world.operate(old, Verb.UNDRAIN)


ACTS: dict[str, Callable[[HaWorld], None]] = {
    "crash": _crash,
    "crash for good": _crash_for_good,
    "both restart": _both_restart,
    "stand still": _stand_still,
    "busy": _busy,
    "clock jumps": _clock_jumps,
    "cut heartbeat": _cut_heartbeat,
    "cut witness": _cut_witness,
    "cut off": _cut_off,
    "slow witness": _slow_witness,
    "flapping link": _flapping_link,
    "flapping health": _flapping_health,
    "illness": _illness,
    "witness restarts": _witness_restarts,
    "announced maintenance": _announced,
    "forged epoch": _forged_epoch,
    "operators": _operators,
    "switchover": _switchover,
}
RARE = ("slow witness", "slow witness", "witness restarts")
"""More often than others: what they find needs several things at once."""
WITNESS_ACTS = ("cut witness", "slow witness", "witness restarts")


class _Light:
    """A cipher that hides nothing."""

    def encrypt(self, nonce: bytes, body: bytes, header: bytes) -> bytes:
        return body + bytes(sealed.TAG_OCTETS)

    def decrypt(self, nonce: bytes, data: bytes, header: bytes) -> bytes:
        return data[: -sealed.TAG_OCTETS]


@contextmanager
def light_cipher(real: bool = False) -> Iterator[None]:
    """Heartbeats and requests for the lease are not sealed, but for `real`."""
    whole, cipher = sealed._derive, sealed.AESGCM
    if not real:
        sealed.AESGCM = lambda key: _Light()  # type: ignore[assignment,misc]
        light = sealed.Key(bytes(sealed.KEY_OCTETS + sealed.SALT_OCTETS))
        sealed._derive = lambda *_: light
    try:
        yield
    finally:
        sealed._derive, sealed.AESGCM = whole, cipher  # type: ignore[misc]
