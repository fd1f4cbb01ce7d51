"""Checks of [bgp] and its neighbors: AS numbers nobody may use, addresses that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from gateway.config.derive import interface_facing, router_id, session_address
from gateway.config.diagnostics import KeyPath, Severity
from gateway.config.findings import Facts, Finding
from gateway.config.guess import did_you_mean
from gateway.config.model import Address, Bgp, Neighbor

AZURE_AS = 65515
# "About BGP and VPN Gateway": the APIPA addresses an Azure VPN gateway accepts.
AZURE_APIPA = (IPv4Network("169.254.21.0/24"), IPv4Network("169.254.22.0/24"))
_LINK_LOCAL = IPv4Network("169.254.0.0/16")

# (first, last, severity, why); 0 and 4294967295 (RFC 7607, RFC 7300) are already outside the model's range.
_RESERVED: tuple[tuple[int, int, Severity, str], ...] = (
    (23456, 23456, "error", "is AS_TRANS (RFC 6793 9), which stands in for others"),
    (64496, 64511, "warning", "is for documentation only (RFC 5398)"),
    (65535, 65535, "error", "is reserved (RFC 7300)"),
    (65536, 65551, "error", "is for documentation only (RFC 5398)"),
)
_AZURE_OWN: tuple[tuple[int, int, Severity, str], ...] = tuple(
    (first, last, "error", "is kept by Azure for itself; its gateways and route servers drop routes that carry it")
    for first, last in ((8074, 8075), (12076, 12076), (65515, 65515), (65517, 65520))
)
_PRIVATE = "64512-65514 or 4200000000-4294967294"


def bgp_findings(facts: Facts) -> Iterator[Finding]:
    """The speaker, then each neighbor."""
    bgp = facts.config.bgp
    if bgp is None:
        return
    yield from _reserved(bgp.local_as, ("bgp", "local_as"), _RESERVED + _AZURE_OWN)
    if router_id(facts.config, bgp) is None and not facts.incomplete:
        message = "no IPv4 address is configured to take the BGP identifier from; set router_id"
        yield "error", ("bgp", "router_id"), message
    seen: dict[Address, KeyPath] = {}
    for name, neighbor in bgp.neighbor.items():
        path: KeyPath = ("bgp", "neighbor", name)
        first = seen.setdefault(neighbor.address, path)
        if first != path:
            message = f"{neighbor.address} is also the address of neighbor '{first[2]}' (line {facts.line(first)})"
            yield "error", (*path, "address"), message
        yield from _neighbor(facts, bgp, path, neighbor)


def _neighbor(facts: Facts, bgp: Bgp, path: KeyPath, neighbor: Neighbor) -> Iterator[Finding]:
    yield from _reserved(neighbor.remote_as, (*path, "remote_as"), _RESERVED)
    if neighbor.ttl_security and neighbor.multihop > 1:
        yield (
            "error",
            (*path, "ttl_security"),
            f"needs a directly connected neighbor, but multihop is {neighbor.multihop}",
        )
    if neighbor.passive and bgp.listen_port == 0:
        yield "error", (*path, "passive"), "waits for a connection, but bgp.listen_port is 0"
    if neighbor.connection is not None:
        yield from _tunnelled(facts, path, neighbor, neighbor.connection)
        return
    if neighbor.remote_as == AZURE_AS and neighbor.multihop == 1:
        message = "an Azure Route Server is not on this subnet; set multihop = 2 or more"
        yield "warning", (*path, "multihop"), message
    if session_address(facts.config, neighbor) is None and not facts.incomplete:
        message = f"no address of ours of the family of {neighbor.address} is configured; set local_address"
        yield "error", (*path, "local_address"), message


def _tunnelled(facts: Facts, path: KeyPath, neighbor: Neighbor, name: str) -> Iterator[Finding]:
    place = (*path, "connection")
    connection = facts.config.connection.get(name)
    if connection is None:
        if name not in facts.left_out:
            known = [*facts.config.connection, *facts.left_out]
            listed = f"known: {', '.join(sorted(known))}" if known else "there is no connection"
            yield "error", place, f"no connection is called '{name}'; {listed}{did_you_mean(name, known)}"
        return
    if not connection.tunnel_address:
        message = f"connection '{name}' has no tunnel_address that faces {neighbor.address}"
        yield "warning", place, message
        return
    facing = interface_facing(connection, neighbor.address)
    if facing is None:
        nets = ", ".join(str(own.network) for own in connection.tunnel_address)
        message = f"{neighbor.address} is not inside {nets}, the tunnel_address of connection '{name}'"
        yield "warning", (*path, "address"), message
    elif facing.ip == neighbor.address:
        yield "error", (*path, "address"), f"{neighbor.address} is our own tunnel_address of connection '{name}'"
    if neighbor.remote_as != AZURE_AS:
        return
    for element, own in enumerate(connection.tunnel_address):
        if isinstance(own.ip, IPv4Address) and own.ip in _LINK_LOCAL and not any(own.ip in net for net in AZURE_APIPA):
            message = f"{own.ip}: an Azure VPN gateway takes only 169.254.21.0/24 and 169.254.22.0/24 of 169.254.0.0/16"
            yield "warning", ("connection", name, "tunnel_address", element), message


def _reserved(asn: int, path: KeyPath, table: tuple[tuple[int, int, Severity, str], ...]) -> Iterator[Finding]:
    for first, last, severity, why in table:
        if first <= asn <= last:
            yield severity, path, f"AS {asn} {why}; private ones are {_PRIVATE}"
