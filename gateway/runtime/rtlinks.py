"""Links, addresses and rules in octets, as rtnetlink.py does it for routes.

For a thousand TUNs pyroute2 needs half a minute of the interpreter; a batch of these takes a tenth of a second. What is
rare (looking for leftovers at a cleanup) stays pyroute2's, in kernel.py.

Layouts: linux/if_link.h, linux/if_addr.h, linux/fib_rules.h; host byte order except addresses.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from gateway.runtime.rtnetlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, attribute, attributes

RTM_NEWQDISC = 36
RTM_DELLINK, RTM_SETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 17, 19, 20, 21, 22
IFF_UP = 0x1
IFA_F_NODAD = 0x02
IFA_LINK_LOCAL_SCOPE = 253
IPV6_MINIMUM_MTU = 1280  # RFC 8200 5: below it the kernel takes IPv6 off the device
LEAVING = 0x6777FFFF
"""The link group that TUNs are put in to be deleted: one message deletes them all, in the time of one."""

_IFINFO = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_TCMSG = struct.Struct("=BBHiIII")  # family, pad, pad, index, handle, parent, info
_TC_H_ROOT, _TCA_KIND = 0xFFFFFFFF, 1
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFLA_MTU, _IFLA_AF_SPEC, _IFLA_GROUP = 4, 26, 27
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_U32 = struct.Struct("=I")
# Without it the kernel sends router solicitations from a generated address into the tunnel.
_NO_GENERATED_ADDRESS = attribute(
    _IFLA_AF_SPEC,
    attribute(socket.AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes((_IN6_ADDR_GEN_MODE_NONE,)))),
)

Interface = IPv4Interface | IPv6Interface


def set_mtu(index: int, mtu: int) -> Request:
    return Request(RTM_SETLINK, 0, _link(index) + attribute(_IFLA_MTU, _U32.pack(mtu)))


def no_generated_address(index: int) -> Request:
    """Refused by a link whose MTU is too small for IPv6."""
    return Request(RTM_SETLINK, 0, _link(index) + _NO_GENERATED_ADDRESS)


def no_queue(index: int) -> Request:
    """No queueing discipline, before it is up for the first time.

    A multi-queue TUN has 256 transmit queues, whatever is attached, and the kernel's default is a discipline for each:
    several ms and 3 MB of its memory (fq_codel: 18 MB) for what never holds a packet, because a TUN whose ring is full
    drops rather than stops.
    """
    body = _TCMSG.pack(0, 0, 0, index, 0, _TC_H_ROOT, 0) + attribute(_TCA_KIND, b"noqueue\0")
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def set_up(index: int, up: bool) -> Request:
    return Request(RTM_SETLINK, 0, _IFINFO.pack(0, 0, 0, index, IFF_UP if up else 0, IFF_UP))


def leave(index: int) -> Request:
    """Into the group of those that go."""
    return Request(RTM_SETLINK, 0, _link(index) + attribute(_IFLA_GROUP, _U32.pack(LEAVING)))


def delete_leaving() -> Request:
    """All of them, at once."""
    return Request(RTM_DELLINK, 0, _link(0) + attribute(_IFLA_GROUP, _U32.pack(LEAVING)))


def add_address(index: int, address: Interface) -> Request:
    body = _address(index, address)
    if address.version == 6:
        body += attribute(_IFA_FLAGS, _U32.pack(IFA_F_NODAD))
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_address(index: int, address: Interface) -> Request:
    return Request(RTM_DELADDR, 0, _address(index, address))


def addresses_of(index: int) -> bytes:
    """The body of a dump of one link's addresses."""
    return _IFADDR.pack(0, 0, 0, 0, index)


def decode_addresses(bodies: Iterable[bytes], index: int) -> set[Interface]:
    """The link's own, link-local ones apart."""
    found = set()
    for body in bodies:
        family, length, _, scope, owner = _IFADDR.unpack_from(body)
        if owner != index or (family == socket.AF_INET6 and scope == IFA_LINK_LOCAL_SCOPE):
            continue
        values = attributes(body, _IFADDR.size)
        # On a point-to-point link the first is the peer's; IPv6 has no second
        found.add(ip_interface((values.get(_IFA_LOCAL) or values[_IFA_ADDRESS], length)))
    return found


def holders(bodies: Iterable[bytes], address: Interface) -> list[int]:
    """The links that have exactly this address, with this length."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    found = []
    for body in bodies:
        of, length, _, _, owner = _IFADDR.unpack_from(body)
        values = attributes(body, _IFADDR.size)
        octets = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if (of, length, octets) == (family, address.network.prefixlen, address.ip.packed):
            found.append(owner)
    return found


def _link(index: int) -> bytes:
    return _IFINFO.pack(0, 0, 0, index, 0, 0)


def _address(index: int, address: Interface) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _IFADDR.pack(family, address.network.prefixlen, 0, 0, index)
    return body + attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
