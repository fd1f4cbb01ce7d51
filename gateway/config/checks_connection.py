"""Checks of [connection.NAME]: one connection by itself, connections in pairs, and prefixes that meet.

The guard of `routing/guard.py` drops what would leave a protected prefix in clear, so a protected prefix
must not hold addresses that are reached beside the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import Literal

from gateway.config.derive import SHORTHANDS, children_of, is_everything, pair_paths
from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Facts, Finding
from gateway.config.model import Address, Child, Connection, Prefix
from gateway.config.proposals import parse_esp_proposal, parse_ike_proposal, weaknesses

# "Tunnel options for your Site-to-Site VPN connection": inside CIDRs that cannot be used.
AWS_RESERVED = tuple(
    IPv4Network(f"169.254.{third}.{fourth}/30")
    for third, fourth in ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (169, 252))
)
# Instance metadata (Azure, AWS, Google) and Azure's host agent and resolver.
CLOUD_SERVICES = {
    "169.254.169.254": "the cloud's instance metadata service",
    "168.63.129.16": "Azure's DNS, DHCP and health probe address",
}
_SLOW_DETECTION = 300.0
_HASTY_RETRANSMISSION = 3.0
_LEAST_REAUTH = 10
"""Seconds."""
_LEAST_FRAGMENT = 256


def connection_findings(facts: Facts) -> Iterator[Finding]:
    """One connection at a time."""
    for name, connection in facts.config.connection.items():
        path: KeyPath = ("connection", name)
        yield from _outer_addresses(path, connection)
        yield from _shorthand(path, connection)
        yield from _protection(path, connection)
        yield from _timers(path, connection)
        yield from _sizes(path, connection)
        yield from _ppk(path, connection)
        yield from _mobike(path, connection)
        yield from _redirect_to(path, connection, facts.config.ha is not None)
        yield from _inside_addresses(path, connection)
        yield from _weak_proposals(path, connection)
        for child_path, child in _children(path, connection):
            yield from _child(child_path, child)


def pair_findings(facts: Facts) -> Iterator[Finding]:
    """What two connections must not share."""
    pairs: dict[object, KeyPath] = {}
    selectors: dict[tuple[str | None, Prefix], tuple[str, KeyPath]] = {}
    inside: dict[Address, KeyPath] = {}
    for name, connection in facts.config.connection.items():
        path: KeyPath = ("connection", name)
        # Whose a peer's IKE_SA_INIT is shows by the addresses alone: its port may be a NAT's, and who it is comes later
        other = pairs.setdefault((connection.local_addrs, connection.remote_addrs), path)
        if other != path:
            known = f"the same local and remote address as connection '{other[1]}' (line {facts.line(other)})"
            message = (
                f"{known}, by which a peer that calls is known, whatever its port; give one of them another local_addrs"
            )
            yield "error", (*path, "remote_addrs"), message
        yield from _shared_selectors(facts, name, connection, selectors)
        for element, own in enumerate(connection.tunnel_address):
            place = (*path, "tunnel_address", element)
            first = inside.setdefault(own.ip, place)
            if first != place:
                message = f"{own.ip} is also a tunnel_address of connection '{first[1]}' (line {facts.line(first)})"
                yield "error", place, message


def prefix_findings(facts: Facts) -> Iterator[Finding]:
    """Protected prefixes that hold, or lie in, what is reached beside the tunnel."""
    for outer, inner in _nested(_places(facts)):
        if (
            outer.instance != inner.instance
            and "cloud" not in (outer.kind, inner.kind)
            and not (outer.kind == inner.kind == "tunnel")
        ):
            continue  # no packet is looked up in both tables
        if outer.kind == "protected" == inner.kind:
            if outer.owner != inner.owner and outer.prefix != inner.prefix:
                where = f"{outer.prefix} of {outer.owner} (line {facts.line(outer.path)})"
                yield "warning", inner.path, f"{inner.prefix} overlaps protected {where}; the longer prefix wins"
        elif outer.kind == "protected":
            yield from _met(facts, outer, inner)
        elif inner.kind == "protected":
            yield from _met(facts, inner, outer)
        elif outer.kind == "tunnel" == inner.kind and outer.owner != inner.owner and outer.what != inner.what:
            where = f"{outer.prefix} of {outer.what} of {outer.owner} (line {facts.line(outer.path)})"
            yield "warning", inner.path, f"{inner.prefix} overlaps {where}; give each tunnel a prefix of its own"


def _outer_addresses(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    for key in ("local_addrs", "remote_addrs"):
        address: Address = getattr(connection, key)
        if address.is_unspecified or address.is_multicast:
            yield "error", (*path, key), f"{address} is not the address of a host"
    if connection.local_addrs.version != connection.remote_addrs.version:
        yield "error", (*path, "remote_addrs"), f"not of the same family as local_addrs {connection.local_addrs}"
    elif connection.local_addrs == connection.remote_addrs and connection.local_port == connection.remote_port:
        yield "error", (*path, "remote_addrs"), "the same as local_addrs; the peer has an address of its own"


def _shorthand(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    if not connection.child:
        return
    for key in SHORTHANDS:
        if getattr(connection, key) is not None:
            tables = ", ".join(f"[{'.'.join(map(str, path))}.child.{name}]" for name in connection.child)
            yield "error", (*path, key), f"a shorthand for a single child cannot stand beside {tables}; write it there"


def _protection(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    if connection.protected == ():
        yield (
            "warning",
            (*path, "protected"),
            "nothing is protected; traffic may leave in clear while the tunnel is down",
        )
    if connection.protected is not None:
        return
    for child_path, child in _children(path, connection):
        if any(is_everything(prefix) for prefix in child.remote_ts):
            message = (
                "remote_ts is everything, so the key 'protected' must say what never leaves in clear; "
                'add protected = ["10.0.0.0/8"] with the prefixes of the remote site'
            )
            yield "error", (*child_path, "remote_ts"), message
            return


def _sizes(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    if 0 < connection.fragment_size < _LEAST_FRAGMENT:
        message = (
            f"{connection.fragment_size} octets hold next to nothing of a message; at least {_LEAST_FRAGMENT}, or 0"
        )
        yield "error", (*path, "fragment_size"), message


def _ppk(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    if connection.ppk is not None and connection.ppk_id is None:
        yield "error", (*path, "ppk"), "a PPK needs ppk_id, the name that the peer knows it by"
    if connection.ppk is None and connection.ppk_id is not None:
        yield "error", (*path, "ppk_id"), "the name of a PPK without a PPK; add ppk.file"


def _timers(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    tries, base = connection.retransmit_tries, connection.retransmit_base
    waiting = sum(connection.retransmit_timeout * base**attempt for attempt in range(tries + 1))
    detection = connection.dpd_delay + waiting
    if detection > _SLOW_DETECTION:
        message = (
            f"a dead peer is noticed only after {detection:.0f} s "
            f"(dpd_delay {connection.dpd_delay:g} s and {waiting:.0f} s of retransmissions)"
        )
        key = "dpd_delay" if connection.dpd_delay > waiting else "retransmit_tries"
        yield "warning", (*path, key), message
    elif waiting < _HASTY_RETRANSMISSION:
        message = f"the peer counts as dead after {waiting:.1f} s without an answer; a short outage ends the tunnel"
        yield "warning", (*path, "retransmit_timeout"), message
    if 0 < connection.reauth_time < _LEAST_REAUTH:
        message = f"{connection.reauth_time:g} s would keep both ends busy with proving themselves; at least {_LEAST_REAUTH}, or 0"
        yield "error", (*path, "reauth_time"), message
    if connection.rekey_time < connection.dpd_delay:
        yield "warning", (*path, "rekey_time"), "shorter than dpd_delay; liveness is then never checked"


def _mobike(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    if connection.mobike and not connection.encap:
        message = (
            "needs `encap = true`: a peer that moves may find itself behind a NAT, which ESP without UDP does not pass"
        )
        yield "error", (*path, "mobike"), message


def _redirect_to(path: KeyPath, connection: Connection, paired: bool) -> Iterator[Finding]:
    to, where = connection.redirect_to, (*path, "redirect_to")
    if to is None:
        return
    if not paired:
        yield "error", where, "needs [ha]: peers are sent to the other gateway of a pair, by who is active"
    if to in (connection.local_addrs, connection.remote_addrs):
        whose = "our own address" if to == connection.local_addrs else "the peer's address"
        yield "error", where, f"this is {whose}; the other gateway has one of its own"
    elif to.version != connection.local_addrs.version:
        yield "error", where, "not of the same family as local_addrs"


def _inside_addresses(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    for element, own in enumerate(connection.tunnel_address):
        for reserved in AWS_RESERVED:
            if own.ip in reserved:
                message = f"{own.ip} lies in {reserved}, which AWS reserves; use another /30 of 169.254.0.0/16"
                yield "error", (*path, "tunnel_address", element), message


def _weak_proposals(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    for element, text in enumerate(connection.proposals):
        for weakness in weaknesses(parse_ike_proposal(text)):
            yield "warning", (*path, "proposals", element), weakness


def _child(path: KeyPath, child: Child) -> Iterator[Finding]:
    for element, text in enumerate(child.esp_proposals):
        for weakness in weaknesses(parse_esp_proposal(text)):
            yield "warning", (*path, "esp_proposals", element), weakness
    if child.life_time is not None and child.life_time <= child.rekey_time:
        message = f"{child.life_time:g} s must be longer than rekey_time {child.rekey_time:g} s, or nothing is rekeyed"
        yield "error", (*path, "life_time"), message
    # RFC 7296 2.9: a selector pair is of one family; without a common one no packet can match.
    if not {prefix.version for prefix in child.local_ts} & {prefix.version for prefix in child.remote_ts}:
        yield "error", (*path, "remote_ts"), "no prefix of the same family as one of local_ts; nothing can match"


def _children(path: KeyPath, connection: Connection) -> Iterator[tuple[KeyPath, Child]]:
    """The children with the path their keys are written at: the shorthand's is the connection."""
    for name, child in children_of(connection).items():
        yield ((*path, "child", name) if connection.child else path), child


def _shared_selectors(
    facts: Facts, name: str, connection: Connection, seen: dict[tuple[str | None, Prefix], tuple[str, KeyPath]]
) -> Iterator[Finding]:
    for path, child in _children(("connection", name), connection):
        for element, prefix in enumerate(child.remote_ts):
            # With everything as selector, routes (BGP's or protected's) choose the tunnel, not remote_ts.
            if is_everything(prefix):
                continue
            place = (*path, "remote_ts", element)
            owner, first = seen.setdefault((connection.instance, prefix), (name, place))
            if owner != name:
                message = (
                    f"{prefix} is also a remote_ts of connection '{owner}' (line {facts.line(first)}), so no route can "
                    "tell the two apart; for two ways to one site leave remote_ts out, set protected and use BGP"
                )
                yield "error", place, message


_Kind = Literal["protected", "tunnel", "connected", "beside", "cloud"]


@dataclass(frozen=True, slots=True)
class _Place:
    prefix: Prefix
    kind: _Kind
    path: KeyPath
    owner: str
    what: str
    instance: str = ""


def _places(facts: Facts) -> list[_Place]:
    config = facts.config
    places: dict[tuple[str, Prefix, str], _Place] = {}

    def add(kind: _Kind, prefix: Prefix, path: KeyPath, what: str, instance: str = "") -> None:
        owner = {
            "connection": f"connection '{path[1]}'",
            "bgp": f"neighbor '{path[-2]}'",
            "instance": f"instance '{path[1]}'",
        }.get(str(path[0]), "[ha]")
        # The same outer address in ten connections is one connected prefix.
        shared = owner if kind in ("protected", "tunnel") else ""
        places.setdefault((kind, prefix, shared), _Place(prefix, kind, path, owner, what, instance))

    for name, connection in config.connection.items():
        path: KeyPath = ("connection", name)
        for place, prefix in _protected(path, connection):
            add("protected", prefix, place, "", connection.instance or "")
        for element, own in enumerate(connection.tunnel_address):
            add(
                "tunnel",
                own.network,
                (*path, "tunnel_address", element),
                f"tunnel_address {own.ip}",
                connection.instance or "",
            )
        add("connected", _host(connection.local_addrs), (*path, "local_addrs"), "local_addrs")
        add("beside", _host(connection.remote_addrs), (*path, "remote_addrs"), "remote_addrs")
    for name, neighbor in config.bgp.neighbor.items() if config.bgp is not None else ():
        if neighbor.connection is None:
            path = ("bgp", "neighbor", name, "address")
            add("beside", _host(neighbor.address), path, "address")
    for where, way in pair_paths(config):
        add("connected", _host(way.local_address), (*where, "local_address"), "local_address")
        add("beside", _host(way.remote_address), (*where, "remote_address"), "remote_address")
    if config.ha is not None and config.ha.witness is not None and config.ha.witness.address is not None:
        add("beside", _host(config.ha.witness.address), ("ha", "witness", "address"), "address")
    for name, instance in config.instance.items():
        for element, prefix in enumerate(instance.local):
            add("connected", prefix, ("instance", name, "local", element), "local", name)
    for text, what in CLOUD_SERVICES.items():
        add("cloud", ip_network(text), ("cloud", text), what)
    return list(places.values())


def _protected(path: KeyPath, connection: Connection) -> Iterator[tuple[KeyPath, Prefix]]:
    if connection.protected is not None:
        for element, prefix in enumerate(connection.protected):
            yield (*path, "protected", element), prefix
        return
    for child_path, child in _children(path, connection):
        for element, prefix in enumerate(child.remote_ts):
            if not is_everything(prefix):
                yield (*child_path, "remote_ts", element), prefix


def _met(facts: Facts, protected: _Place, other: _Place) -> Iterator[Finding]:
    host = other.prefix.network_address if other.prefix.num_addresses == 1 else other.prefix
    if other.kind == "cloud":
        message = f"{protected.prefix} holds {host}, {other.what}, which must stay reachable; protect smaller prefixes"
        yield "error", protected.path, message
        return
    where = f"{host}, {other.what} of {other.owner} (line {facts.line(other.path)})"
    if other.kind in ("connected", "tunnel"):
        message = (
            f"{protected.prefix} overlaps {where}, which is connected here; protect only prefixes of the remote site"
        )
        yield "error", protected.path, message
    else:
        message = f"{protected.prefix} holds {where}; it is excepted by a route of its own and reached in clear"
        yield "warning", protected.path, message


def _nested(places: Iterable[_Place]) -> Iterator[tuple[_Place, _Place]]:
    """Every pair of which the first holds the second: prefixes nest or are disjoint, so one sweep finds all."""
    enclosing: list[_Place] = []
    for place in sorted(places, key=_address_order):
        while enclosing and not _holds(enclosing[-1].prefix, place.prefix):
            enclosing.pop()
        for outer in enclosing:
            yield outer, place
        enclosing.append(place)


def _address_order(place: _Place) -> tuple[int, int, int]:
    return place.prefix.version, int(place.prefix.network_address), place.prefix.prefixlen


def _holds(outer: Prefix, inner: Prefix) -> bool:
    return outer.version == inner.version and inner.network_address in outer and inner.prefixlen >= outer.prefixlen


def _host(address: Address) -> Prefix:
    # A scope ("fe80::1%eth0") names the interface, not the prefix.
    return ip_network(str(address).partition("%")[0])
