"""Checks of [bgp] and its neighbors: AS numbers nobody may use, addresses that cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

from gateway.config.bgp_model import KINDS
from gateway.config.derive import interface_facing, router_id, session_address
from gateway.config.diagnostics import KeyPath, Severity
from gateway.config.findings import Facts, Finding
from gateway.config.guess import did_you_mean
from gateway.config.model import Address, Bgp, Neighbor, Policy
from gateway.config.policies import parse_split

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
    (65552, 131071, "error", "is reserved (IANA's registry of AS numbers)"),
)
_AZURE_OWN: tuple[tuple[int, int, Severity, str], ...] = tuple(
    (first, last, "error", "is kept by Azure for itself; its gateways and route servers drop routes that carry it")
    # VPN gateways do not name 65516, ExpressRoute does
    for first, last in ((8074, 8075), (12076, 12076), (65515, 65520))
)
# "Site-to-Site VPN quotas", "Private and transit virtual interface": a customer's AS number must not be one of Amazon's.
_AWS_OWN: tuple[tuple[int, int, Severity, str], ...] = tuple(
    (asn, asn, "error", "is kept by AWS for itself") for asn in (7224, 9059, 10124, 17943)
)
_AWS_KINDS = ("aws-direct-connect", "aws-vpn-gateway", "aws-transit-gateway")
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
        yield from _routes(bgp, path, neighbor)
    for name, policy in bgp.policy.items():
        yield from _policy(bgp, ("bgp", "policy", name), policy)


def _routes(bgp: Bgp, path: KeyPath, neighbor: Neighbor) -> Iterator[Finding]:
    """What is accepted from it and announced to it."""
    for key in ("import_policy", "export_policy"):
        yield from _known((*path, key), getattr(neighbor, key), "policy", bgp.policy)
    for key in ("aggregate", "more_specific"):
        for element, item in enumerate(getattr(neighbor, key)):
            prefix = parse_split(item)[0] if isinstance(item, str) else item
            if prefix.version != neighbor.address.version:
                message = (
                    f"{prefix}: the session carries IPv{neighbor.address.version} only, the family of its addresses"
                )
                yield "error", (*path, key, element), message
    if neighbor.kind == "azure-route-server" and bgp.local_as > 65535:
        message = f"an Azure Route Server takes AS numbers up to 65535 only, and ours is {bgp.local_as}"
        yield "error", (*path, "kind"), message
    if neighbor.kind in _AWS_KINDS:
        yield from _reserved(bgp.local_as, ("bgp", "local_as"), _AWS_OWN)
    if neighbor.outdo and neighbor.connection is not None:
        message = "is for neighbors beside the tunnels; what a tunnel teaches us leaves by it"
        yield "error", (*path, "outdo"), message
    limit = KINDS[neighbor.kind]
    if limit and neighbor.max_announced is not None and not 0 < neighbor.max_announced <= limit:
        message = (
            f"this kind of neighbor takes {limit} prefixes and closes the session above, or support has raised that"
        )
        yield "warning", (*path, "max_announced"), message
    if neighbor.kind in ("expressroute", "expressroute-premium", "aws-direct-connect") and neighbor.hold_time < 10:
        message = "below 10 s a busy edge drops the session now and then; use BFD for a quick failover"
        yield "warning", (*path, "hold_time"), message


def _policy(bgp: Bgp, path: KeyPath, policy: Policy) -> Iterator[Finding]:
    if not policy.rule:
        yield "warning", path, f"the policy has no rule: it {policy.default}s everything"
    for name, rule in policy.rule.items():
        place = (*path, "rule", name)
        yield from _known((*place, "prefix_list"), rule.prefix_list, "prefix list", bgp.prefix_list)
        for element, neighbor in enumerate(rule.learned_from or ()):
            if neighbor != "own":
                yield from _known((*place, "learned_from", element), neighbor, "neighbor", bgp.neighbor)
        for key in ("set_communities", "add_communities"):
            for element, text in enumerate(getattr(rule, key) or ()):
                if "*" in text:
                    yield "error", (*place, key, element), f"'{text}': `*` can be matched, but not set"


def _known(path: KeyPath, name: str | None, what: str, known: Mapping[str, object]) -> Iterator[Finding]:
    if name is not None and name not in known:
        listed = f"known: {', '.join(sorted(known))}" if known else f"there is no {what}"
        yield "error", path, f"no {what} is called '{name}'; {listed}{did_you_mean(name, known)}"


def _neighbor(facts: Facts, bgp: Bgp, path: KeyPath, neighbor: Neighbor) -> Iterator[Finding]:
    yield from _reserved(neighbor.remote_as, (*path, "remote_as"), _RESERVED)
    if neighbor.ttl_security and neighbor.multihop > 1:
        yield (
            "error",
            (*path, "ttl_security"),
            f"needs a directly connected neighbor, but multihop is {neighbor.multihop}",
        )
    if neighbor.ttl_security and neighbor.passive:
        # Interop: the SYN+ACK of ExaBGP 5.0.15 leaves with a TTL of 64, whatever the session's is to be
        message = "a neighbor that expects TTL 255 drops our answer to its call; let us call: passive = false"
        yield "error", (*path, "ttl_security"), message
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
