"""Next hops in octets: neighbors, one link, and what a route lookup says beside its next hop.

As rtnetlink.py and rtlinks.py, for packet_sockets.py. Layouts: linux/neighbour.h, linux/if_link.h, linux/rtnetlink.h,
linux/fib_rules.h; host byte order except addresses.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import ip_address

from gateway.routing.model import Address
from gateway.runtime.rtnetlink import NLM_F_CREATE, Message, Request, attribute, attributes

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_NEWRULE, RTM_DELRULE = 20, 21, 32, 33
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
ETHERNET = 1  # ARPHRD_ETHER
LINK_ADDRESS_OCTETS = 6

_NDMSG = struct.Struct("=BBHiHBB")  # family, pad, pad, index, state, flags, type
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_USE = 0x01
_IFINFO = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFF_UP, _IFF_NOARP, _IFF_LOWER_UP = 0x1, 0x80, 0x10000
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_MARK, _RTA_VIA, _RTA_ENCAP_TYPE = (
    1,
    2,
    4,
    5,
    8,
    16,
    18,
    21,
)
_RTAX_LOCK, _RTAX_MTU, _RTAX_HOPLIMIT = 1, 2, 10
_RTN_UNICAST = 1
_RULE = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, reserved, reserved, action, flags
_FRA_IP_PROTO, _FRA_DSCP = 22, 25
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_U32 = struct.Struct("=I")


class State(IntFlag):
    """NUD_*."""

    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


USABLE = State.REACHABLE | State.STALE | State.DELAY | State.PROBE | State.PERMANENT
"""The kernel itself sends to such an address (RFC 4861 7.3.2), while it may be verifying it."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """What the kernel knows of one; `link_address` only while it would send there."""

    interface: int
    address: Address
    state: State
    link_address: bytes | None


@dataclass(frozen=True, slots=True)
class Link:
    """One device. `ethernet`: with addresses of that kind, resolved by ARP or neighbor discovery."""

    index: int
    name: str
    mtu: int
    working: bool
    ethernet: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a route lookup; 0 where the route says nothing. `mtu` includes what was learned of the path."""

    interface: int
    next_hop: Address
    mtu: int
    hops: int


def decode_neighbor(message: Message) -> Neighbor | None:
    """None for what is no IP neighbor."""
    _, _, _, interface, number, _, _ = _NDMSG.unpack_from(message.body)
    found = attributes(message.body, _NDMSG.size)
    address = found.get(_NDA_DST, b"")
    if len(address) not in (4, 16):
        return None
    state = State(0) if message.type == RTM_DELNEIGH else State(number)
    link_address = found.get(_NDA_LLADDR, b"")
    usable = state & USABLE and len(link_address) == LINK_ADDRESS_OCTETS and any(link_address)
    return Neighbor(interface, ip_address(address), state, link_address if usable else None)


def neighbor_question(interface: int, address: Address) -> bytes:
    """The body of a RTM_GETNEIGH for one."""
    return _NDMSG.pack(_FAMILY[address.version], 0, 0, interface, 0, 0, 0) + attribute(_NDA_DST, address.packed)


def use(interface: int, address: Address) -> Request:
    """As if a packet had been sent to it: the kernel resolves it, or verifies what is stale (RFC 4861 7.3.3). Never for a
    permanent one, which this makes an ordinary one."""
    body = _NDMSG.pack(_FAMILY[address.version], 0, 0, interface, 0, _NTF_USE, 0) + attribute(_NDA_DST, address.packed)
    return Request(RTM_NEWNEIGH, NLM_F_CREATE, body)


def link_question(index: int) -> bytes:
    return _IFINFO.pack(0, 0, 0, index, 0, 0)


def decode_link(message: Message) -> Link:
    _, _, kind, index, flags, _ = _IFINFO.unpack_from(message.body)
    found = attributes(message.body, _IFINFO.size)
    working = message.type == RTM_NEWLINK and flags & _IFF_UP and flags & _IFF_LOWER_UP
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return Link(index, name, _number(found, _IFLA_MTU), bool(working), kind == ETHERNET and not flags & _IFF_NOARP)


def route_question(local: Address, remote: Address, mark: int) -> bytes:
    """The body of a RTM_GETROUTE: as a socket bound to `local` with this mark asks, so that rule order is obeyed."""
    length = remote.max_prefixlen
    header = _RTMSG.pack(_FAMILY[remote.version], length, length, 0, 0, 0, 0, 0, 0)
    body = header + attribute(_RTA_DST, remote.packed) + attribute(_RTA_SRC, local.packed)
    return body + attribute(_RTA_MARK, _U32.pack(mark))


def decode_answer(body: bytes, remote: Address) -> Answer | None:
    """None where more is needed than an Ethernet header: no unicast route, an encapsulation, a next hop of the other
    family, or an MTU so locked that the kernel sends without DF."""
    kind = _RTMSG.unpack_from(body)[7]
    found = attributes(body, _RTMSG.size)
    metrics = attributes(found.get(_RTA_METRICS, b""), 0)
    locked = _number(metrics, _RTAX_LOCK) & 1 << _RTAX_MTU
    interface = _number(found, _RTA_OIF)
    if kind != _RTN_UNICAST or not interface or locked or _RTA_VIA in found or _RTA_ENCAP_TYPE in found:
        return None
    gateway = found.get(_RTA_GATEWAY)
    next_hop = ip_address(gateway) if gateway else remote
    return Answer(interface, next_hop, _number(metrics, _RTAX_MTU), _number(metrics, _RTAX_HOPLIMIT))


def decode_destination(body: bytes) -> tuple[int, int, bytes]:
    """Of a route: family, prefix length, network."""
    family, length = _RTMSG.unpack_from(body)[:2]
    return family, length, attributes(body, _RTMSG.size).get(_RTA_DST, b"")


def looks_into_packets(body: bytes) -> bool:
    """A rule that decides by protocol or TOS, which a route lookup cannot be asked about for protocol 50."""
    found = attributes(body, _RULE.size)
    return bool(_RULE.unpack_from(body)[3]) or bool(found.keys() & {_FRA_IP_PROTO, _FRA_DSCP})


def _number(found: dict[int, bytes], kind: int) -> int:
    value = found.get(kind)
    return int(_U32.unpack(value)[0]) if value is not None else 0
