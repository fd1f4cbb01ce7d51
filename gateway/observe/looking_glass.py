"""Where packets go and why: what neighbors are told, every entry of our tables, and the way to one address.

Drawn from the node's own state, like the snapshot; but these are asked for one by one, because there may be ten thousand
rows. Generators, so that whoever asks may take them in pieces. No kernel is asked: what it was last known to hold counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from gateway.bgp import views
from gateway.bgp.peer import Peer
from gateway.ike.traffic_selector import describe_all, from_range, intersection
from gateway.node.gateway import Gateway
from gateway.node.tunnel import Tunnel
from gateway.observe.snapshot import AdvertisedStatus, EffectiveStatus, LookupStatus, RouteStatus, WayStatus
from gateway.routing.guard import PLATFORM
from gateway.routing.views import Found, TableEntry, Way

Address = IPv4Address | IPv6Address


def neighbors(node: Gateway, wanted: str = "") -> list[Peer]:
    """Those of that name or address, or all."""
    known = node.speaker.instances.values() if node.speaker is not None else ()
    everybody = [peer for instance in known for peer in instance.peers.values()]
    return [peer for peer in everybody if wanted in ("", peer.name, str(peer.settings.address))]


def draw_advertised(peer: Peer) -> Iterator[AdvertisedStatus]:
    """What a neighbor is told, in no order."""
    for one in views.advertised(peer):
        yield AdvertisedStatus(**{field.name: getattr(one, field.name) for field in fields(AdvertisedStatus)})


def draw_table(node: Gateway) -> Iterator[EffectiveStatus]:
    """Every entry of every table, in no order."""
    for name in tuple(node.tables):
        fib = node.tables.get(name)
        for entry in fib.view.entries() if fib is not None else ():
            yield _effective(entry, name)


def look_up(node: Gateway, address: Address, source: Address | None, instance: str) -> LookupStatus:
    """The way to `address`; `source` chooses among CHILD_SAs. `instance` is one of the node's tables."""
    found = node.tables[instance].view.find(address)
    entry = found.entry
    route = _effective(entry, instance) if entry is not None else None
    if route is not None:
        route = replace(route, ways=tuple(_with_sa(node, way, address, source) for way in route.ways))
    verdict, text = _verdict(node, address, instance, found, route)
    guarding = () if found.guard is None or found.learned else node.settings.tunnels
    return LookupStatus(
        address=str(address),
        source=str(source or ""),
        instance=instance,
        verdict=verdict,
        text=text,
        route=route,
        over=tuple(_effective(one, instance) for one in found.over),
        paths=tuple(_paths(node, address, instance, entry.prefix.prefixlen if entry is not None else 0)),
        guard=str(found.guard or ""),
        guard_kind=_guard_kind(found),
        guard_connections=tuple(
            one.name for one in guarding if one.instance == instance and found.guard in one.protected
        ),
    )


def _guard_kind(found: Found) -> str:
    if found.guard is None:
        return ""
    return "learned" if found.learned else "yielding" if found.yields else "protected"


def _verdict(
    node: Gateway, address: Address, instance: str, found: Found, route: EffectiveStatus | None
) -> tuple[str, str]:
    if any(address in prefix for prefix in PLATFORM):
        return "main", "it is the cloud platform's: a rule before ours leaves it to the main table"
    if found.entry is None or route is None:
        return _nothing_said(node, address, instance)
    kind, prefix = route.kind, route.prefix
    if kind == "throw":
        return "main", f"{prefix} is exempt (connected, a peer's outer address, the platform): the main table decides"
    if not route.ways:
        return "dropped", _DROPPED[kind].format(prefix=prefix)
    used = [way for way in route.ways if way.used]
    if not used:
        names = ", ".join(way.connection or way.next_hop for way in route.ways)
        return "dropped", f"{names} is not up, and {prefix} does not leave in clear instead"
    if used[0].circuit:
        return "clear", f"leaves in clear, by the private circuit beside {used[0].connection} (the main table decides)"
    if not any(way.connection for way in used):
        return "clear", f"leaves in clear, to next hop {', '.join(way.next_hop for way in used)}"
    sending = [way for way in used if way.spi_out]
    if not sending:
        return "dropped", _without_sa(node, used[0])
    several = " (by flow)" if len(used) > 1 else ""
    text = f"leaves encrypted, in {' or '.join(f'{way.connection}/{way.child}' for way in sending)}{several}"
    lacking = ", ".join(way.connection for way in used if not way.spi_out)
    return "encrypted", f"{text}; flows into {lacking} are dropped: no CHILD_SA selects them" if lacking else text


_DROPPED = {
    "protected": "dropped by the clear-text guard: {prefix} is protected, and no route leads into its tunnel",
    "learned": "dropped by the clear-text guard: {prefix} was learned in a tunnel, and no route leads there any more",
    "shadow": "dropped: the route to {prefix} into a tunnel is not in the kernel",
    "earlier": "dropped: a blackhole for {prefix} of an earlier process",
}


def _nothing_said(node: Gateway, address: Address, instance: str) -> tuple[str, str]:
    settings = node.tables.settings.get(instance)
    if settings is None:
        return "main", "our table says nothing about it: the main table decides, and what that sends leaves in clear"
    if any(address in prefix for prefix in settings.local):
        return "main", f"it is local to instance {instance}: the main table decides"
    return "dropped", f"the table of instance {instance} says nothing about it, so it goes nowhere"


def _without_sa(node: Gateway, way: WayStatus) -> str:
    tunnel = node.tunnels.get(way.connection)
    sa = node.ike.primary(way.connection)
    if sa is None and tunnel is not None and tunnel.settings.start_action == "trap":
        return f"{way.connection} has no SA yet: the first packet is dropped, and starts it"
    return f"no CHILD_SA of {way.connection} selects it: the data plane drops it"


def _effective(entry: TableEntry, instance: str) -> EffectiveStatus:
    ways = tuple(_way(way) for way in entry.ways)
    return EffectiveStatus(str(entry.prefix), entry.kind, entry.state, entry.metric, ways, entry.why, instance)


def _way(way: Way) -> WayStatus:
    return WayStatus(way.connection, str(way.next_hop or ""), way.used, way.circuit)


def _with_sa(node: Gateway, way: WayStatus, address: Address, source: Address | None) -> WayStatus:
    """And the SA that selects this packet; of several the first, as protocols and ports are not asked for."""
    tunnel = node.tunnels.get(way.connection)
    if tunnel is None or way.circuit:
        return way
    return _selected(node, tunnel, replace(way, peer=str(tunnel.settings.ike.remote)), address, source)


def _selected(node: Gateway, tunnel: Tunnel, way: WayStatus, address: Address, source: Address | None) -> WayStatus:
    sa = node.ike.primary(tunnel.name)
    if sa is None:
        return way
    there = from_range(address.packed, address.packed)
    here = from_range(source.packed, source.packed) if source is not None else None
    for name in tunnel.settings.limits:
        child = sa.usable_child(name)
        if child is None or not any(intersection(one, there) for one in child.remote_ts):
            continue
        if here is None or any(intersection(one, here) for one in child.local_ts):
            selectors = f"{describe_all(child.local_ts)} <-> {describe_all(child.remote_ts)}"
            return replace(
                way,
                peer=str(sa.remote),
                child=name,
                child_state=child.state.value,
                spi_out=child.spi_out,
                selectors=selectors,
            )
    return replace(way, peer=str(sa.remote))


def _paths(node: Gateway, address: Address, instance: str, least: int) -> Iterator[RouteStatus]:
    """The longest first: what was refused may be longer than what is used."""
    rib = node.speaker.instances.get(instance) if node.speaker is not None else None
    if rib is None:
        return
    fib = node.tables[instance]
    for length in range(address.max_prefixlen, least - 1, -1):
        prefix = ip_network((address, length), strict=False)
        for one in rib.paths_status(prefix):
            values = {field.name: getattr(one, field.name) for field in fields(RouteStatus)}
            values["installed"] = one.best and fib.state(prefix).installed
            yield RouteStatus(**values)
