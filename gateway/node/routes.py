"""From what BGP decided to what the FIB is told; the only place that knows both."""

from __future__ import annotations

from gateway.bgp.events import BestChanged, Level, LimitCrossed
from gateway.bgp.path import Path
from gateway.routing.model import RemoveRoute, SetRoute, Single, ViaConnection, ViaNextHop, ViaTiers

EXTERNAL, INTERNAL = 20, 200
"""Distances of routes learned over eBGP and iBGP, as routers have them; a static route's is less."""


def route_command(change: BestChanged) -> SetRoute | RemoveRoute:
    """What the FIB is told of a new best path."""
    path = change.path
    if path is None:
        return RemoveRoute(change.prefix, "bgp")
    used = tuple(_way(one) for one in (path, *change.others))
    tiers = (used, (_way(change.backup),)) if change.backup is not None else (used,)
    target = used[0] if tiers == ((used[0],),) else ViaTiers(tiers)
    return SetRoute(change.prefix, target, "bgp", EXTERNAL if path.external else INTERNAL)


def _way(path: Path) -> Single:
    return ViaConnection(path.connection) if path.connection else ViaNextHop(path.next_hop)


def limit_sentence(crossed: LimitCrossed) -> tuple[str, str]:
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
