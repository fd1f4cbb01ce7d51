"""Whose a route is, and what has to be done in a table: pure functions over what was seen.

In Azure ours are the routes whose name begins with `gw-<cluster>-`. In AWS routes have no names: of the configured prefixes those
are the pair's that point to one of its gateways. Everything else is foreign: never written, never removed, told in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from gateway.ha.fabric_values import (
    APPLIANCE,
    VNET_LOCAL,
    Claim,
    Contents,
    FabricSettings,
    Mark,
    Ownership,
    Prefix,
    Put,
    Remove,
    RouteState,
    RouteView,
    SeenRoute,
    Table,
)

GATEWAY_SUBNET = "gatewaysubnet"
EPOCH_DIGITS = 18
"""So that what is one above fits into 64 bits, too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done in a table, in this order."""

    writes: tuple[Put | Remove | Mark, ...]
    obstacles: tuple[str, ...]
    """Sentences: foreign routes where ours should be."""


def plan(
    settings: FabricSettings,
    wanted: Sequence[SeenRoute],
    routes: Mapping[str, SeenRoute],
    retired: Iterable[Prefix],
) -> Plan:
    """The writes that make the table lead to us; `retired` are prefixes that were ours to write, and are no longer."""
    writes: list[Put | Remove] = []
    obstacles: list[str] = []
    by_prefix: dict[str, list[SeenRoute]] = {}
    for route in routes.values():
        by_prefix.setdefault(route.prefix, []).append(route)
    for route in wanted:
        others = [other for other in by_prefix.get(route.prefix, ()) if other.key != route.key]
        foreign = next((other for other in others if not _is_ours(settings, other)), None)
        present = routes.get(route.key)
        if foreign is None and present is not None and not _is_ours(settings, present):
            foreign = present
        if foreign is not None:
            obstacles.append(f"{foreign} is not ours; it is left, and {route.prefix} does not lead to this pair")
            continue
        # Two routes to one prefix are refused by the cloud, so an older one of ours goes first.
        writes += [Remove(other) for other in others]
        if present != route:
            writes.append(Put(route, replace=present is not None))
    unwanted = _unwanted(settings, routes, {route.key for route in wanted}, retired)
    writes += [Remove(route) for route in unwanted if Remove(route) not in writes]
    return Plan(tuple(writes), tuple(obstacles))


def wanted_routes(settings: FabricSettings, table: Table) -> tuple[SeenRoute, ...]:
    """As they shall be, in the order of the configuration."""
    named = settings.ownership is Ownership.NAME
    return tuple(
        SeenRoute(str(prefix), APPLIANCE, settings.ours.towards(prefix), route_name(settings, prefix) if named else "")
        for prefix in table.prefixes
    )


def route_name(settings: FabricSettings, prefix: Prefix) -> str:
    """`gw-<cluster>-10.0.0.0_8`: names have no `/` and no `:`."""
    return f"{_name_prefix(settings)}{str(prefix).replace('/', '_').replace(':', '-')}"


def leads_to_peer(settings: FabricSettings, route: SeenRoute | None) -> bool:
    """Whether it leads to the other gateway of the pair."""
    return (
        route is not None and route.kind == APPLIANCE and route.hop in _both(settings.theirs.ipv4, settings.theirs.ipv6)
    )


def foreign_routes(settings: FabricSettings, table: Table, routes: Iterable[SeenRoute]) -> tuple[str, ...]:
    """What the table holds that is not ours."""
    listed = {str(prefix) for prefix in table.prefixes}
    return tuple(
        str(route)
        for route in routes
        if not (_is_ours(settings, route) and (settings.ownership is Ownership.NAME or route.prefix in listed))
    )


def views(
    settings: FabricSettings,
    wanted: Iterable[SeenRoute],
    routes: Mapping[str, SeenRoute] | None,
    errors: Mapping[str, str],
) -> tuple[RouteView, ...]:
    """Each wanted route and what has become of it; no `routes`: nothing was read yet."""
    found: list[RouteView] = []
    for route in wanted:
        state, hop = RouteState.UNKNOWN, ""
        if routes is not None:
            state, hop = _state(settings, route, routes)
        found.append(RouteView(route.prefix, state, hop, errors.get(route.key, "")))
    return tuple(found)


# --- epochs -----------------------------------------------------------------------------------------------------------


def mark_key(settings: FabricSettings) -> str:
    """The tag with our epoch."""
    return f"{_name_prefix(settings)}epoch-{settings.node}"


def claims(settings: FabricSettings, tags: Iterable[tuple[str, str]]) -> tuple[Claim, ...]:
    """What the gateways of the pair wrote there, highest first."""
    start = f"{_name_prefix(settings)}epoch-"
    found = [
        Claim(int(value), key.removeprefix(start))
        for key, value in tags
        # int() of other digits than these is no epoch that we wrote.
        if key.startswith(start) and value.isascii() and value.isdigit() and len(value) <= EPOCH_DIGITS
    ]
    return tuple(sorted(found, key=_rank, reverse=True))


def outdone(settings: FabricSettings, epoch: int, seen: Iterable[Claim]) -> Claim | None:
    """The claim above ours. Of two gateways with one epoch, which no witness gives, the later name counts: both see the same."""
    ours = _rank(Claim(epoch, settings.node))
    above = [claim for claim in seen if _rank(claim) > ours]
    return max(above, key=_rank, default=None)


# --- GatewaySubnet ----------------------------------------------------------------------------------------------------


def refusal(settings: FabricSettings, table: Table, contents: Contents) -> str:
    """Why nothing may be written into this table; empty: it may.

    The instances of the VPN, ExpressRoute and route server gateways reach each other through GatewaySubnet's table. A route of
    ours above these two subnets, without a more specific one that keeps them in the VNet, ends their sessions.
    """
    if not any(subnet.rpartition("/")[2].lower() == GATEWAY_SUBNET for subnet in contents.subnets):
        return ""
    missing = [
        f"{name} ({subnet})" if subnet else f"{name} (set fabric.{key}, so that it is known)"
        for name, key, subnet in (
            ("GatewaySubnet", "gateway_subnet", settings.gateway_subnet),
            ("RouteServerSubnet", "route_server_subnet", settings.route_server_subnet),
        )
        if subnet is None or not _stays(contents.routes, table, subnet)
    ]
    if not missing:
        return ""
    return (
        f"table {table.name} is used by GatewaySubnet and has no VirtualNetwork route for {' and '.join(missing)}; "
        "writing there could cut the platform's own BGP: add these routes first"
    )


def _stays(routes: Iterable[SeenRoute], table: Table, subnet: Prefix) -> bool:
    """Whether a VirtualNetwork route covers the subnet, and none of ours is more specific there."""
    longest = max((prefix.prefixlen for prefix in table.prefixes if _overlap(prefix, subnet)), default=-1)
    return any(
        route.kind == VNET_LOCAL and (network := _network(route.prefix)) is not None
        and _overlap(network, subnet) and longest < network.prefixlen <= subnet.prefixlen
        for route in routes
    )  # fmt: skip


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.overlaps(other)


def _network(text: str) -> Prefix | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


# --- whose ------------------------------------------------------------------------------------------------------------


def _is_ours(settings: FabricSettings, route: SeenRoute) -> bool:
    if settings.ownership is Ownership.NAME:
        return route.name.startswith(_name_prefix(settings))
    ours, theirs = settings.ours, settings.theirs
    return route.kind == APPLIANCE and route.hop in _both(ours.ipv4, ours.ipv6) + _both(theirs.ipv4, theirs.ipv6)


def _unwanted(
    settings: FabricSettings, routes: Mapping[str, SeenRoute], wanted: set[str], retired: Iterable[Prefix]
) -> Iterator[SeenRoute]:
    gone = {str(prefix) for prefix in retired}
    for key, route in routes.items():
        if key in wanted or not _is_ours(settings, route):
            continue
        # Without names, only what was configured here is known to be ours to remove.
        if settings.ownership is Ownership.NAME or route.prefix in gone:
            yield route


def _state(settings: FabricSettings, route: SeenRoute, routes: Mapping[str, SeenRoute]) -> tuple[RouteState, str]:
    others = [other for other in routes.values() if other.prefix == route.prefix and other.key != route.key]
    present = routes.get(route.key)
    if present == route:
        return RouteState.OURS, route.hop
    shown = present or next(iter(others), None)
    if shown is None:
        return RouteState.ABSENT, ""
    if not _is_ours(settings, shown):
        state = RouteState.FOREIGN
    elif leads_to_peer(settings, shown):
        state = RouteState.PEER
    else:
        state = RouteState.CHANGED
    return state, shown.hop or shown.kind


def _name_prefix(settings: FabricSettings) -> str:
    return f"gw-{settings.cluster}-"


def _both(*hops: str) -> tuple[str, ...]:
    return tuple(hop for hop in hops if hop)


def _rank(claim: Claim) -> tuple[int, str]:
    return claim.epoch, claim.node
