"""Between BGP and the FIBs, the only place that knows both: what BGP decided, and which next hops lead anywhere. And from BGP to
what people are told."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

from gateway.bgp import events as bgp
from gateway.bgp.events import BestChanged, Level, LimitCrossed
from gateway.bgp.path import Path
from gateway.bgp.speaker import Speaker
from gateway.node import effects
from gateway.node.settings import CIRCUIT
from gateway.node.tables import Tables
from gateway.routing.model import (
    Address,
    FollowNextHop,
    RemoveRoute,
    SetRoute,
    Single,
    Target,
    ViaCircuit,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
)

EXTERNAL, INTERNAL = 20, 200
"""Distances of routes learned over eBGP and iBGP, as routers have them; a static route's is less."""


def tell_next_hops(tables: Tables, speaker: Speaker | None, now: float) -> bool:
    """What the FIBs found out about those that the speaker follows; whether there was anything."""
    told = False
    for instance in tables:
        for address, reached in tables[instance].next_hops.news().items():
            told = True
            if speaker is not None:
                speaker.command(bgp.NextHop(address, reached, instance), now)
    return told


def fib_commands(
    event: BestChanged | bgp.FollowNextHop, keep: Collection[str] = (), circuits: Collection[str] = ()
) -> Iterator[SetRoute | RemoveRoute | FollowNextHop]:
    """What the FIB of its instance is told of an event of the speaker's."""
    if isinstance(event, bgp.FollowNextHop):
        yield FollowNextHop(event.address, event.wanted)
    else:
        yield from route_commands(event, keep, circuits)


def route_commands(
    change: BestChanged, keep: Collection[str] = (), circuits: Collection[str] = ()
) -> Iterator[SetRoute | RemoveRoute]:
    """What the FIB is told of a new best path. `keep`: connections of which learned prefixes stay protected; `circuits`: those
    that are the backup of a circuit, which then leads to what is learned in them, too, if no other way is among those used."""
    path = change.path
    known = [path, *change.others] if path is not None else []
    if change.backup is not None:
        known.append(change.backup)
    if path is None:
        yield RemoveRoute(change.prefix, "bgp")
    else:
        distance = EXTERNAL if path.external else INTERNAL
        # Flows go, or may go at any time, into each of them
        keeping = any(one.connection in keep for one in known)
        yield SetRoute(change.prefix, _target(change, path), "bgp", distance, keeping)
    if path is not None and circuits and all(one.connection in circuits for one in known):
        yield SetRoute(change.prefix, ViaCircuit(path.connection), "circuit-bgp", CIRCUIT)
    else:
        yield RemoveRoute(change.prefix, "circuit-bgp")


def _target(change: BestChanged, path: Path) -> Target:
    if not change.others and change.backup is None:
        return _way(path.way)
    used = tuple(_way(one.way) for one in (path, *change.others))
    return _shared((used, (_way(change.backup.way),)) if change.backup is not None else (used,))


# There are few ways, and thousands of prefixes take each of them: of one object the FIB knows at once that it is the same


@lru_cache(1024)
def _way(way: str | Address) -> Single:
    return ViaConnection(way) if isinstance(way, str) else ViaNextHop(way)


@lru_cache(1024)
def _shared(tiers: tuple[tuple[Single, ...], ...]) -> ViaTiers:
    return ViaTiers(tiers)


def journal_event(event: object) -> effects.Event | None:
    """What people are told of an event of the speaker's; None: nothing."""
    match event:
        case bgp.LimitCrossed():
            level, text = _limit_sentence(event)
            return effects.Event(level, "bgp-limit", "", text)
        case bgp.PeerUp(name):
            return effects.Event("info", "bgp-up", "", f"BGP session with {name} is up")
        case bgp.PeerDown(name, reason):
            return effects.Event("warning", "bgp-down", "", f"BGP session with {name} is down: {reason}")
        case bgp.Rejected(name, prefix, reason):
            return effects.Event("warning", "bgp-rejected", "", f"{prefix} from {name} rejected: {reason}")
        case bgp.CommandRefused(text):
            return effects.Event("error", "bgp-command-refused", "", f"ExaBGP refused: {text}")
        case bgp.AnswersMissing():
            text = "ExaBGP stopped answering; synchronising again"
            return effects.Event("warning", "bgp-answers-missing", "", text)
        case bgp.Resynchronized(generation):
            return effects.Event("info", "bgp-synchronised", "", f"RIBs agree with ExaBGP (link {generation})")
        case _:
            return None


def _limit_sentence(crossed: LimitCrossed) -> tuple[str, str]:
    """Level and text of the journal."""
    what = f"{crossed.count} of {crossed.limit} prefixes"
    match crossed.direction, crossed.level:
        case "out", Level.OVER:
            return "error", (
                f"{crossed.name} may be told {crossed.limit} prefixes and there are {crossed.count}: the last "
                f"{crossed.count - crossed.limit} are held back; announce less, or an aggregate"
            )
        case "out", Level.NEAR:
            return "warning", f"{crossed.name} is told {what} it may be told; above, they are held back"
        case _, Level.OVER:
            return "error", f"{crossed.name} announced {crossed.count} prefixes; max_prefixes is {crossed.limit}"
        case _, Level.NEAR:
            return "warning", f"{crossed.name} announces {what} it may (max_prefixes)"
        case _:
            return "info", f"{crossed.name}: {what}, well below the limit again"
