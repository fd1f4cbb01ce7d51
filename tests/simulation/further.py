"""What a share of the schedules has beyond one connection between two nodes that stay where they are.

    several      two or three connections, each with a plan of its own; one is reloaded, removed, flooded while others rekey
    mobike       the initiator moves to other addresses and home again (RFC 4555)
    redirect     a third node, to which the initiator is sent and from where it is sent back (RFC 5685)

Drawn from a source of its own, so that every other schedule is what it was before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from simulation.network import CALM, Passage
from simulation.scenario import NAT_HOST, ROAMING, Plan
from simulation.trace import Line

from gateway.ike.cookies import HALF_OPEN_FREE
from gateway.ike.registry import ExchangeType

if TYPE_CHECKING:
    from simulation.world import World

SEVERAL, MOBIKE, REDIRECT = 0.15, 0.08, 0.08
"""Shares."""
ELSEWHERE = "203.0.113.{}"
"""Where who roams may be."""
MOVED = 60.0
"""Seconds within which who is drained is elsewhere, if nothing hinders it."""
HINDERED = (" ike-redirect-refused: ", " ike-down: ", " ike-spare-down: ")
"""What is said when the attempt there was refused or came to nothing: it holds for one attempt only."""
SPI = slice(0, 8)

DrawPlan = Callable[[random.Random, bool], Plan]


def extend(seed: int, plan: Plan, acts: tuple[str, ...], draw: DrawPlan) -> tuple[Plan, tuple[str, ...]]:
    """The plan and the acts of a seed, with what it has of all this. `draw`: a plan, behind a NAT or not."""
    chance = random.Random(f"{seed} further")
    several, mobike, redirect = (chance.random() < share for share in (SEVERAL, MOBIKE, REDIRECT))
    nat = plan.nat or mobike
    if several:
        beside = tuple(draw(chance, nat) for _ in range(chance.choice((1, 1, 2))))
        # Who cannot reach the one behind the NAT tries in vain; were there several, there would always be one that tries
        plan = replace(plan, beside=tuple(_without(one, "reauth_time") if nat else one for one in beside))
        acts = _with(acts, chance, ("", "flood", "removed connection"))
    if mobike:
        options = (*(line for line in plan.options if line != "encap = false"), ROAMING)
        plan = replace(plan, nat=True, starters="a", options=options)
        acts = _with(acts, chance, ("roam",))
    if redirect:
        others = tuple(replace(one, starters="a") for one in plan.beside)
        plan = replace(plan, redirect=True, starters="a", beside=others)
        acts = _with(acts, chance, ("drain",))
    if nat and plan.starters == "b":
        plan = replace(plan, starters="a")
    return plan, acts


def _without(plan: Plan, option: str) -> Plan:
    return replace(plan, options=tuple(line for line in plan.options if not line.startswith(option)))


def _with(acts: tuple[str, ...], chance: random.Random, names: tuple[str, ...]) -> tuple[str, ...]:
    """One of these somewhere among them; "": none."""
    name, where = chance.choice(names), chance.randrange(len(acts) + 1)
    return (*acts[:where], name, *acts[where:]) if name else acts


# --- what may happen ------------------------------------------------------------------------------------------------


def prelude(world: World) -> str:
    """Whom it hits; often in the middle of something, of this or of another connection."""
    if world.chance.random() < 0.6:
        world.disturb(0.01, period=(0.0, 0.01))
        world.run(world.chance.uniform(0, 0.3))
    world.look_at_one()
    return world.now_at(world.chance.choice("ab"))


def roam(world: World) -> None:
    """Through up to three addresses, while both rekey; where the network is good, no IKE_SA is lost by it."""
    stays = [one for one in world.plan.connections.items() if one[1].roams and not _reauthenticates(one[1])]
    prelude(world)
    # Who was not answered before it moved may give up with no try left after a cut healed
    calm = world.network.weather is CALM and not _unanswered(world)
    before = {name: _chains(world, name) for name, _ in stays}
    for _ in range(world.chance.randrange(1, 4)):
        world.move(ELSEWHERE.format(world.chance.randrange(2, 100)))
        world.disturb(world.chance.choice((0.3, world.chance.uniform(0.5, 12))), period=(0.05, 3.0))
    world.move(NAT_HOST)
    world.converge_from("a is at home")
    for name, chains in before.items():
        if calm and len(chains) == 1 and _chains(world, name) != chains:
            world.fail(f"{name}: its IKE_SA is another one, though all that happened is that a moved")


def _unanswered(world: World) -> bool:
    sas = [sa for shell in world.shells.values() if shell.running for sa in shell.node.ike._sas.values()]
    return any(sa.window.pending is not None and sa.window.pending.tries for sa in sas)


def _reauthenticates(plan: Plan) -> bool:
    return any(line.startswith("reauth_time") for line in plan.options)


def _chains(world: World, connection: str) -> set[int]:
    return {sa.origin.initiator_spi for sa in world.shells["a"].node.ike.sas(connection)}


def drain(world: World) -> None:
    """The peer of one connection goes to the other gateway, and keeps its traffic; then new ones may come again."""
    prelude(world)
    link, since = world.link, len(world.trace.lines)
    here = world.now_at("b")
    there = "b" if here == "c" else "c"
    primary = world.shells[here].node.ike.primary(link.name)
    # Who was called by the other end is not sent away (RFC 5685)
    goes = primary is None or primary.redirectable
    world.drain(there, "")
    world.drain(here, there)
    moved = world.run_until(lambda: link.up and link.ends[1].shell.name == there, MOVED)
    if goes and not moved and not any(word in line.text for line in world.trace.lines[since:] for word in HINDERED):
        world.fail(f"{link.name} was drained to {there}, and is not there")
    world.disturb(world.chance.uniform(0, 5))
    if world.chance.random() < 0.4:
        world.crash("a", world.chance.random() < 0.5)
        world.start("a").converge_from("a begins anew")
    world.drain(here, "")


def flood(world: World) -> None:
    """Somebody asks in the initiator's name for more IKE_SAs than are answered without a cookie, beside those that are there."""
    prelude(world)
    link = world.link
    asked, passage = next(found for line in reversed(world.trace.lines) for found in _beginning(line, link.name))
    for _ in range(HALF_OPEN_FREE + world.chance.randrange(8)):
        octets = bytearray(asked)
        octets[SPI] = world.chance.randbytes(8)
        world.inject(bytes(octets), passage.source, passage.target)
    world.disturb(world.chance.uniform(0, 5))
    if world.chance.random() < 0.5:
        world.crash("a")
        world.start("a").converge_from("a begins anew")


def _beginning(line: Line, connection: str) -> Iterator[tuple[bytes, Passage]]:
    """The line, if it is the first message of an IKE_SA of the connection."""
    header, passage = line.header, line.passage
    if header is None or passage is None or line.connection != connection or header.is_response:
        return
    if header.exchange is ExchangeType.IKE_SA_INIT:
        yield line.octets, passage


def remove_connection(world: World) -> None:
    """The last one goes from the configuration of all, and comes back, while others rekey."""
    prelude(world)
    whole = world.plan
    for plan, seconds in ((replace(whole, beside=whole.beside[:-1]), (0.0, 15.0)), (whole, (0.0, 1.0))):
        for name in world.chance.sample(whole.nodes, len(whole.nodes)):
            world.reload(name, plan)
            world.run(world.chance.choice((0.0, world.chance.uniform(0, 2))))
        world.disturb(world.chance.uniform(*seconds), period=(0.1, 3.0))
    world.converge_from("it is configured again")


ACTS: dict[str, Callable[[World], None]] = {
    "roam": roam,
    "drain": drain,
    "flood": flood,
    "removed connection": remove_connection,
}
