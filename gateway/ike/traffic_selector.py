"""Traffic selectors and narrowing (RFC 7296 2.9, 3.13)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import TS_ADDRESS_OCTETS, TrafficSelector
from gateway.ike.registry import NotifyType, TsType

ANY_PROTOCOL = 0
LAST_PORT = 65535
SELECTORS_MAX = 255
"""What one octet counts on the wire (RFC 7296 3.13)."""
TIDY_MAX = 16
"""Up to so many, none that is given lies inside another; a peer that sends hundreds gets them as they come out."""
TOLD_MAX = 16


def from_range(first: bytes, last: bytes) -> TrafficSelector:
    """Any protocol and port of an inclusive address range (packed, 4 or 16 octets)."""
    kind = TsType.IPV4_ADDR_RANGE if len(first) == 4 else TsType.IPV6_ADDR_RANGE
    return TrafficSelector(int(kind), ANY_PROTOCOL, 0, LAST_PORT, first + last)


def intersection(left: TrafficSelector, right: TrafficSelector) -> TrafficSelector | None:
    """What both select, or None."""
    if left.type != right.type or left.type not in TS_ADDRESS_OCTETS:
        return None
    if ANY_PROTOCOL not in (left.protocol, right.protocol) and left.protocol != right.protocol:
        return None
    start, end = max(left.start_port, right.start_port), min(left.end_port, right.end_port)
    first, last = max(left.first, right.first), min(left.last, right.last)
    if start > end or first > last:
        return None
    return TrafficSelector(left.type, left.protocol or right.protocol, start, end, first + last)


def contains(outer: TrafficSelector, inner: TrafficSelector) -> bool:
    """Whether everything `inner` selects is selected by `outer`."""
    return (
        outer.type == inner.type
        and inner.type in TS_ADDRESS_OCTETS
        and outer.protocol in (ANY_PROTOCOL, inner.protocol)
        and outer.start_port <= inner.start_port <= inner.end_port <= outer.end_port
        and outer.first <= inner.first <= inner.last <= outer.last
    )


def narrow(received: Iterable[TrafficSelector], allowed: Iterable[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """RFC 7296 2.9: the subset of the initiator's selectors that our policy allows; TS_UNACCEPTABLE when empty."""
    received, allowed = tuple(received), tuple(allowed)
    found: dict[TrafficSelector, None] = {}
    for theirs in received:
        for ours in allowed:
            common = intersection(theirs, ours)
            if common is None or common in found:
                continue
            if len(found) < TIDY_MAX:
                if any(contains(kept, common) for kept in found):
                    continue
                found = {kept: None for kept in found if not contains(common, kept)}
            found[common] = None
    if not found:
        raise PeerError(
            Violation.TRAFFIC_SELECTORS,
            f"peer asks for {describe_all(received)}, we allow {describe_all(allowed)}",
            NotifyType.TS_UNACCEPTABLE,
        )
    return tuple(found)[:SELECTORS_MAX]


def check_narrowed(sent: Iterable[TrafficSelector], received: Iterable[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """The responder may only narrow what we proposed."""
    sent, received = tuple(sent), tuple(received)
    if not received or not all(any(contains(ours, theirs) for ours in sent) for theirs in received):
        raise PeerError(
            Violation.TRAFFIC_SELECTORS,
            f"peer answered {describe_all(received)} to {describe_all(sent)}",
            NotifyType.TS_UNACCEPTABLE,
        )
    return received


def describe(selector: TrafficSelector) -> str:
    """`10.0.0.0-10.0.255.255` with protocol and ports where they are not "any"; prefixes as such."""
    first, last = selector.first, selector.last
    text = _prefix(first, last) or f"{_address(first)}-{_address(last)}"
    if selector.protocol:
        text += f"[proto {selector.protocol}]"
    if (selector.start_port, selector.end_port) != (0, LAST_PORT):
        text += f"[port {selector.start_port}-{selector.end_port}]"
    return text


def describe_all(selectors: Iterable[TrafficSelector]) -> str:
    given = tuple(selectors)
    more = f" and {len(given) - TOLD_MAX} more" if len(given) > TOLD_MAX else ""
    return " ".join(map(describe, given[:TOLD_MAX])) + more if given else "nothing"


def _address(octets: bytes) -> str:
    return str(ip_address(octets)) if len(octets) in (4, 16) else octets.hex()


def _prefix(first: bytes, last: bytes) -> str | None:
    difference = int.from_bytes(first, "big") ^ int.from_bytes(last, "big")
    host_bits = difference.bit_length()
    is_prefix = difference == (1 << host_bits) - 1 and int.from_bytes(first, "big") & difference == 0
    return f"{_address(first)}/{8 * len(first) - host_bits}" if is_prefix else None
