"""A schedule from a number: a plan, a weather, a machine's pace, and one to four acts in which things go wrong.

    seed -> compose -> Schedule -> play -> World, at rest

Everything is drawn from the seed, so a number is all that is needed to see a failure again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from simulation import further
from simulation.further import prelude
from simulation.network import CALM, ROUGH, Weather
from simulation.plane import LightDataPlane
from simulation.scenario import NAT_HOST, Plan
from simulation.shell import Pace
from simulation.world import PATIENCE, World

from gateway.contract import Endpoint
from gateway.esp.reference import ReferenceDataPlane
from gateway.node import inputs

FOUL = replace(ROUGH, corrupt=0.03, replay=0.03)
TORN = replace(FOUL, loss=0.25, duplicate=0.15, straggle=0.15)
WEATHERS: dict[str, Weather] = {"calm": CALM, "rough": ROUGH, "foul": FOUL, "torn": TORN}
PACES: dict[str, Pace] = {
    "fast": Pace(),
    "slow": Pace(compute=(0.001, 0.05), kernel=(0.001, 0.2)),
    "very slow": Pace(compute=(0.05, 0.8), kernel=(0.01, 0.3)),
}
CUTS = ("ab", "ba", "ab ba")
REAL_ESP, THOROUGH = 16, 20
"""One schedule in so many has real ESP; in so many the garbage collector is asked at the end."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What one seed means."""

    seed: int
    plan: Plan
    weather: str
    pace: str
    acts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.weather} weather, {self.pace} machines, {', '.join(self.acts)}; {self.plan}"


def compose(seed: int) -> Schedule:
    """The schedule of a number."""
    chance = random.Random(f"{seed} schedule")
    nat = chance.random() < 0.2
    plan = draw_plan(chance, nat)
    names = [name for name in ACTS if nat or name != "rebind"]
    weather, pace = chance.choices(tuple(WEATHERS), (2, 4, 4, 1))[0], chance.choices(tuple(PACES), (4, 4, 1))[0]
    acts = tuple(chance.choice(names) for _ in range(chance.choice((1, 2, 2, 3))))
    plan, acts = further.extend(seed, plan, acts, draw_plan)
    return Schedule(seed, plan, weather, pace, acts)


def draw_plan(chance: random.Random, nat: bool) -> Plan:
    """Of one connection."""
    plan = Plan(
        starters=chance.choice(("a", "ab") if nat else ("a", "ab", "b")),
        children=chance.choice((("net",), ("net",), ("net", "voice"))),
        pfs=chance.random() < 0.6,
        further=chance.choice(FURTHER),
        nat=nat,
        options=tuple(line for line, share in OPTIONS if chance.random() < share),
        child_options=tuple(line for line, share in CHILD_OPTIONS if chance.random() < share),
        esn=chance.choice(("", "", "-esn", "-esn-noesn")),
        ppk=chance.choice(("", "", "", "ab", "a", "b")),
    )
    return replace(plan, ppk_required=plan.ppk == "ab" and chance.random() < 0.5)


def play(seed: int) -> World:
    """The whole schedule of a number, from start to rest. SimulationFailure when anything is not as it must be."""
    return perform(compose(seed))


def perform(schedule: Schedule) -> World:
    seed = schedule.seed
    plane = ReferenceDataPlane if seed % REAL_ESP == 0 else LightDataPlane
    world = World(seed, schedule.plan, WEATHERS[schedule.weather], PACES[schedule.pace], plane)
    world.thorough = seed % THOROUGH == 0
    world.trace.note(world.now, "", str(schedule))
    world.start().converge(PATIENCE)
    for name in schedule.acts:
        world.trace.note(world.now, "", f"--- {name} ---")
        world.run(world.chance.uniform(0, 2))
        (ACTS | further.ACTS)[name](world)
    world.settle(PATIENCE)
    return world


# --- what may happen ------------------------------------------------------------------------------------------------


def _rekeys(world: World) -> None:
    world.disturb(world.chance.uniform(5, 20))


def _busy_rekeys(world: World) -> None:
    world.disturb(world.chance.uniform(2, 6), period=(0.01, 0.6))


def _lifetimes(world: World) -> None:
    """Long enough for limits and lifetimes of their own."""
    world.run(world.chance.uniform(10, 70))


def _short_cut(world: World) -> None:
    prelude(world)
    world.partition(world.chance.choice(CUTS))
    world.run(world.chance.uniform(0.5, 4))
    world.heal()
    world.disturb(4)


def _long_cut(world: World) -> None:
    prelude(world)
    world.partition(world.chance.choice(CUTS))
    world.run(world.chance.uniform(5, 120))
    world.heal()
    world.converge(PATIENCE)


def _crash(world: World, host: bool = False) -> None:
    name = prelude(world)
    world.crash(name, host)
    world.run(world.chance.choice((0.0, world.chance.uniform(0, 10), world.chance.uniform(0, 80))))
    world.start(name)
    world.converge(PATIENCE)


def _reboot(world: World) -> None:
    _crash(world, host=True)


def _freeze(world: World) -> None:
    """A crash that keeps its state: the machine goes on where it stood."""
    name = prelude(world)
    world.freeze(name)
    world.run(world.chance.choice((world.chance.uniform(0, 3), world.chance.uniform(0, 90))))
    world.thaw(name)
    world.converge(PATIENCE)


def _rebind(world: World) -> None:
    prelude(world)
    world.rebind()
    world.converge(PATIENCE)


def _lose_tun(world: World) -> None:
    world.delete_tun(prelude(world))
    world.converge(PATIENCE)


def _operator(world: World) -> None:
    """Takes it down and up again, whole or one child of it."""
    name = prelude(world)
    child = world.chance.choice(("", *world.link.children))
    world.operate(name, "terminate", child)
    world.run(world.chance.uniform(0, 6))
    world.wish(name, child)
    world.converge(PATIENCE)


def _reload(world: World) -> None:
    """Both get another configuration, one after the other or at once; with new algorithms they rekey, and nothing goes down."""
    name, connection = prelude(world), world.link.name
    plan = world.plan.connections[connection]
    changes: dict[str, object] = world.chance.choice(
        (
            {"options": tuple(dict.fromkeys((*plan.options, "retransmit_timeout = 1.5")))},
            {"pfs": not plan.pfs},
            {"ike": next(one for one in IKE_PROPOSALS if one != plan.ike)},
        )
    )
    for one in (name, *(one for one in world.plan.nodes if one != name)):
        world.reload(one, world.plan.varied(connection, **changes))
        world.run(world.chance.choice((0.0, world.chance.uniform(0, 2))))
    world.run(world.chance.uniform(1, 30))


def _stop(world: World) -> None:
    """An orderly end, and a start."""
    name = prelude(world)
    world.instruct(name, inputs.Stop(), inputs.CloseTunnels())
    world.run(world.chance.uniform(0, 3))
    world.crash(name)
    world.run(world.chance.uniform(0, 5))
    world.start(name)
    world.converge(PATIENCE)


def _forgeries(world: World) -> None:
    """Every message that ever crossed, mutated and sent again from any address, while the connection rekeys."""
    hosts = world.hosts
    sources = [Endpoint(host, port) for host in (*hosts, NAT_HOST, "192.0.2.99") for port in (500, 4500)]
    for _ in range(8):
        world.disturb(0.5, period=(0.1, 0.5))
        for _ in range(4):
            world.inject(*_forged(world, sources))


def _forged(world: World, sources: list[Endpoint]) -> tuple[bytes, Endpoint, Endpoint]:
    chance = world.chance
    octets = bytearray(chance.choice([line.octets for line in world.trace.lines if line.octets]))
    for _ in range(chance.randrange(1, 4)):
        octets[chance.randrange(len(octets))] ^= chance.randrange(1, 256)
    data = bytes(octets[: chance.choice((len(octets), len(octets), chance.randrange(len(octets))))])
    target = Endpoint(chance.choice((*world.hosts, NAT_HOST)), chance.choice((500, 4500)))
    marker = bytes(4) if target.port == 4500 else b""
    return marker + data, chance.choice(sources), target


ACTS: dict[str, Callable[[World], None]] = {
    "rekeys": _rekeys,
    "busy rekeys": _busy_rekeys,
    "lifetimes": _lifetimes,
    "short cut": _short_cut,
    "long cut": _long_cut,
    "crash": _crash,
    "reboot": _reboot,
    "freeze": _freeze,
    "rebind": _rebind,
    "lost TUN": _lose_tun,
    "operator": _operator,
    "reload": _reload,
    "stop": _stop,
    "forgeries": _forgeries,
}
OPTIONS = (
    ('rekey_time = "60s"', 0.2),
    ("dpd_delay = 2", 0.2),
    ("fragment_size = 296", 0.2),
    ("encap = false", 0.2),
    ("childless = true", 0.15),
    ('reauth_time = "40s"', 0.15),
    ("rekey_check = 3", 0.3),
    ("quick_crash_detection = false", 0.3),
    ("resource_sas = 3", 0.15),
)
"""Lines of [connection.site], and how often they are there."""
FURTHER = ("", "", "", "-ke1_mlkem768", "-ke1_mlkem768-ke2_x25519")
IKE_PROPOSALS = ("aes256gcm16-prfsha256-ecp256", "aes128gcm16-prfsha384-ecp384")
CHILD_OPTIONS = (("rekey_packets = 200", 0.15), ('rekey_time = "60s"', 0.2))
"""Lines of each of its children."""
