"""From what BGP decided to what the FIB is told; the only place that knows both. And to what people are told."""

from __future__ import annotations

from collections.abc import Container

from gateway.bgp import events as bgp
from gateway.bgp.events import BestChanged, Level, LimitCrossed
from gateway.bgp.path import Path
from gateway.node import effects
from gateway.routing.model import RemoveRoute, SetRoute, Single, ViaConnection, ViaNextHop, ViaTiers

EXTERNAL, INTERNAL = 20, 200
"""Distances of routes learned over eBGP and iBGP, as routers have them; a static route's is less."""


def route_command(change: BestChanged, keep: Container[str] = ()) -> SetRoute | RemoveRoute:
    """What the FIB is told of a new best path. `keep`: connections of which learned prefixes stay protected."""
    path = change.path
    if path is None:
        return RemoveRoute(change.prefix, "bgp")
    used = tuple(_way(one) for one in (path, *change.others))
    tiers = (used, (_way(change.backup),)) if change.backup is not None else (used,)
    target = used[0] if tiers == ((used[0],),) else ViaTiers(tiers)
    distance = EXTERNAL if path.external else INTERNAL
    return SetRoute(change.prefix, target, "bgp", distance, path.connection in keep)


def _way(path: Path) -> Single:
    return ViaConnection(path.connection) if path.connection else ViaNextHop(path.next_hop)


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
