"""The SPD half of the reference data plane: what selectors look at in an inner packet, and whether it lies inside.

Pure functions (RFC 4301 4.4.1.1); which SA comes first is the caller's business.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.esp.dataplane import Direction, Selector
from gateway.wire import Reader, Truncated


class Flow(NamedTuple):
    """What selectors look at. Ports are None where the packet shows none (a later fragment)."""

    source: bytes
    destination: bytes
    protocol: int
    ports: tuple[int, int] | None
    length: int
    dont_fragment: bool


PORT_PROTOCOLS = frozenset((6, 17, 33, 132, 136))  # TCP, UDP, DCCP, SCTP, UDP-Lite
ICMP_PROTOCOLS = frozenset((1, 58))
MOBILITY = 135
IPV6_FRAGMENT = 44
IPV6_EXTENSIONS = frozenset((0, 43, IPV6_FRAGMENT, 60))
IPV6_EXTENSIONS_LIMIT = 8


def parse_flow(packet: bytes) -> Flow | None:
    """None unless the octets hold a whole IP packet; octets behind it are allowed (RFC 4303 2.7)."""
    try:
        version = packet[0] >> 4 if packet else 0
        return {4: _parse_ipv4, 6: _parse_ipv6}[version](packet)
    except (Truncated, KeyError):
        return None


def _parse_ipv4(packet: bytes) -> Flow:
    reader = Reader(packet)
    header = (reader.u8() & 0x0F) * 4
    reader.take(1)
    length = reader.u16()
    if header < 20 or length < header or length > len(packet):
        raise Truncated("IPv4 lengths contradict each other")
    reader.take(2)
    fragment = reader.u16()
    reader.take(1)
    protocol = reader.u8()
    reader.take(2)
    source, destination = reader.take(4), reader.take(4)
    first = fragment & 0x1FFF == 0
    ports = _ports(protocol, packet[header:length]) if first else None
    return Flow(source, destination, protocol, ports, length, bool(fragment & 0x4000))


def _parse_ipv6(packet: bytes) -> Flow:
    reader = Reader(packet)
    reader.take(4)
    length = reader.u16() + 40
    following = reader.u8()
    reader.take(1)
    source, destination = reader.take(16), reader.take(16)
    if length > len(packet):
        raise Truncated("IPv6 payload is longer than the packet")
    rest = Reader(packet[40:length])
    first = True
    for _ in range(IPV6_EXTENSIONS_LIMIT):
        if following not in IPV6_EXTENSIONS or not first:
            break
        if rest.remaining < 8:
            return Flow(source, destination, following, None, length, True)
        fragment = following == IPV6_FRAGMENT
        following, octets = rest.u8(), rest.u8()
        if fragment:
            first = rest.u16() & 0xFFF8 == 0
        rest.take(min(4 if fragment else octets * 8 + 6, rest.remaining))
    return Flow(source, destination, following, _ports(following, rest.rest()) if first else None, length, True)


def _ports(protocol: int, transport: bytes) -> tuple[int, int] | None:
    """RFC 4301 4.4.1.1: ports, ICMP type and code, or the mobility header type."""
    reader = Reader(transport)
    try:
        if protocol in PORT_PROTOCOLS:
            return reader.u16(), reader.u16()
        if protocol in ICMP_PROTOCOLS:
            both = reader.u16()
            return both, both
        if protocol == MOBILITY:
            reader.take(2)
            kind = reader.u8() << 8
            return kind, kind
    except Truncated:
        pass
    return None


def selector_matches(selector: Selector, flow: Flow, direction: Direction) -> bool:
    """Whether the packet lies inside the selector pair."""
    inbound = direction is Direction.INBOUND
    local, remote = (flow.destination, flow.source) if inbound else (flow.source, flow.destination)
    if len(local) != len(selector.local_first) or selector.protocol not in (0, flow.protocol):
        return False
    if not selector.local_first <= local <= selector.local_last:
        return False
    if not selector.remote_first <= remote <= selector.remote_last:
        return False
    local_range = (selector.local_port_first, selector.local_port_last)
    remote_range = (selector.remote_port_first, selector.remote_port_last)
    if flow.ports is None:
        # RFC 4301 7: what shows no ports travels only under a selector that takes any.
        return local_range == remote_range == (0, 0xFFFF)
    source_port, destination_port = flow.ports
    local_port, remote_port = (destination_port, source_port) if inbound else (source_port, destination_port)
    return local_range[0] <= local_port <= local_range[1] and remote_range[0] <= remote_port <= remote_range[1]
