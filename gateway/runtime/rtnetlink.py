"""rtnetlink in octets: our operations as messages, the kernel's answers as values, and a socket that carries batches.

pyroute2 has no nexthop objects and spends a quarter of a millisecond per route; here a batch of messages goes out in
one system call. The kernel takes them in order and answers each that it refuses, so every error finds its prefix; only the
last is acknowledged, which says that all are done. Here what the FIB needs: routes, nexthops, groups, route lookups;
rtlinks.py has links, addresses and rules.

Layouts: linux/netlink.h, linux/rtnetlink.h, linux/nexthop.h; host byte order except addresses.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from gateway.routing.model import Address, Entry, Group, Nexthop, Op, OpError, Prefix, Route, RouteKind, Verb

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x01, 0x04, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
SO_RCVBUFFORCE = 33
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE, RT_SCOPE_NOWHERE = 0, 255
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_MARK, RTA_VIA, RTA_NH_ID = (
    1,
    4,
    5,
    6,
    9,
    15,
    16,
    18,
    30,
)
NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY = 1, 2, 4, 5, 6
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTM_F_LOOKUP_TABLE = 0x1000  # say in which table it was found
_NHMSG = struct.Struct("=BBBBI")  # family, scope, protocol, reserved, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_GROUP_MEMBER = struct.Struct("=IBBH")  # id, weight - 1, reserved
_U32_ATTRIBUTE = struct.Struct("=HHI")  # an attribute that is a number
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=i")

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION = {socket.AF_INET: 4, socket.AF_INET6: 6}
# By version: family, rtmsg with destination, table and priority, octets of an address. Thousands are made at a time.
_ROUTE = {
    version: (family, struct.Struct(f"=BBBBBBBBI HH{size}s HHI HHI"), size)
    for version, family, size in ((4, socket.AF_INET, 4), (6, socket.AF_INET6, 16))
}
_NETWORK: dict[int, type[IPv4Network] | type[IPv6Network]] = {4: IPv4Network, 6: IPv6Network}
_FLAGS = {Verb.ADD: NLM_F_CREATE | NLM_F_EXCL, Verb.REPLACE: NLM_F_CREATE | NLM_F_REPLACE, Verb.DELETE: 0}
_CHUNK = 200  # messages per system call: 1 to 3 ms of kernel time
_DUMP_ATTEMPTS = 5
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


class NetlinkError(OSError):
    """The kernel refused; str() is one sentence with its own words."""


@dataclass(frozen=True, slots=True)
class Message:
    """One received message, header apart. `sender`: port of the socket whose request caused it, 0 for the kernel."""

    type: int
    flags: int
    sequence: int
    sender: int
    body: bytes


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of any table and origin, as dumped."""

    prefix: Prefix
    table: int
    protocol: int
    kind: int
    metric: int
    nexthop: int  # RTA_NH_ID
    interface: int
    gateway: Address | None
    multipath: bool


@dataclass(frozen=True, slots=True)
class KernelNexthop:
    """A nexthop object of any origin, as dumped."""

    id: int
    protocol: int
    entry: Nexthop | Group | None  # None: a kind we do not make


class Request(NamedTuple):
    """A message to the kernel, its sequence number apart. `acknowledged`: answered too when there is no error."""

    type: int
    flags: int
    body: bytes

    def message(self, sequence: int, *, acknowledged: bool = True) -> bytes:
        flags = NLM_F_REQUEST | NLM_F_ACK if acknowledged else NLM_F_REQUEST
        return _message(self.type, flags | self.flags, sequence, self.body)


class RouteSocket:
    """A blocking NETLINK_ROUTE socket. Belongs to one thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        grow_receive_buffer(self._socket, 4 << 20)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._socket.settimeout(10.0)
        self.port: int = self._socket.getsockname()[0]
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def apply(self, ops: Sequence[Op], table: int, protocol: int) -> dict[int, OpError]:
        """All operations in order, whatever fails; errors by position."""
        return self.exchange([request(op, table, protocol) for op in ops])

    def exchange(self, requests: Sequence[Request]) -> dict[int, OpError]:
        """All requests in order, whatever fails; errors by position."""
        errors: dict[int, OpError] = {}
        for start in range(0, len(requests), _CHUNK):
            first = self._sequence + 1
            chunk = requests[start : start + _CHUNK]
            self._sequence += len(chunk)
            messages = [one.message(first + offset, acknowledged=False) for offset, one in enumerate(chunk[:-1])]
            self._socket.send(b"".join((*messages, chunk[-1].message(self._sequence))))
            for sequence, error in self._refusals(first, self._sequence):
                errors[start + sequence - first] = error
        return errors

    def dump(self, kind: int, body: bytes, version: int = 4) -> list[Message]:
        """Every object of a kind that the kernel holds."""
        return self._dump(kind, body, version)

    def routes(self, table: int, protocol: int = 0) -> list[KernelRoute]:
        """The routes of one table, both families; protocol 0 for all."""
        found = []
        for version, family in _FAMILY.items():
            header = _RTMSG.pack(family, 0, 0, 0, table if table < 256 else 0, protocol, 0, 0, 0)
            body = header + attribute(RTA_TABLE, _U32.pack(table))
            routes = (decode_route(m.body) for m in self._dump(RTM_GETROUTE, body, version) if m.type == RTM_NEWROUTE)
            found += [r for r in routes if r.table == table and protocol in (0, r.protocol)]
        return found

    def nexthops(self) -> list[KernelNexthop]:
        """Every nexthop object."""
        messages = self._dump(RTM_GETNEXTHOP, _NHMSG.pack(0, 0, 0, 0, 0), 4)
        return [decode_nexthop(message.body) for message in messages if message.type == RTM_NEWNEXTHOP]

    def route_to(self, address: Address, mark: int) -> KernelRoute:
        """The route a packet with this mark would take; NetlinkError if there is none."""
        flags = _RTM_F_LOOKUP_TABLE if address.version == 4 else 0  # IPv6 always says it, and refuses to be asked to
        header = _RTMSG.pack(_FAMILY[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
        body = header + attribute(RTA_DST, address.packed) + attribute(RTA_MARK, _U32.pack(mark))
        return decode_route(self.ask(RTM_GETROUTE, body, f"no route to {address}").body)

    def ask(self, kind: int, body: bytes, what: str) -> Message:
        """The kernel's one answer; NetlinkError begins with `what`."""
        self._sequence += 1
        self._socket.send(_message(kind, NLM_F_REQUEST, self._sequence, body))
        while True:
            for message in self._receive():
                if message.sequence != self._sequence:
                    continue
                if message.type == NLMSG_ERROR:
                    raise _error(decode_error(message), what)
                return message

    def _dump(self, kind: int, body: bytes, version: int) -> list[Message]:
        for _ in range(_DUMP_ATTEMPTS):
            self._sequence += 1
            self._socket.send(_message(kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body))
            found, interrupted, error = self._dumped()
            if error is not None:
                # An absent table or family holds nothing.
                if error.number == errno.ENOENT or (version == 6 and error.number in _NO_IPV6):
                    return []
                raise _error(error, "the kernel's tables cannot be read")
            if not interrupted:
                return found
        raise NetlinkError(errno.EINTR, "the kernel's tables change faster than they can be read")

    def _dumped(self) -> tuple[list[Message], bool, OpError | None]:
        found: list[Message] = []
        interrupted = False
        while True:
            for message in self._receive():
                if message.sequence != self._sequence:
                    continue  # left over from an earlier, failed exchange
                interrupted = interrupted or bool(message.flags & NLM_F_DUMP_INTR)
                if message.type == NLMSG_ERROR:
                    return found, interrupted, decode_error(message)
                if message.type == NLMSG_DONE:
                    number = -_ERROR.unpack_from(message.body)[0] if len(message.body) >= _ERROR.size else 0
                    return found, interrupted, OpError(number, os.strerror(number)) if number else None
                found.append(message)

    def _refusals(self, first: int, last: int) -> Iterator[tuple[int, OpError]]:
        """(sequence, error) of what failed, until the last is answered; of all without an answer where answers are lost."""
        answered: set[int] = set()
        while last not in answered:
            try:
                messages = self._receive()
            except OSError as error:
                # Answers are lost (ENOBUFS) or late: to the FIB these failed, and a dump tells it the truth.
                lost = OpError(error.errno or errno.EIO, f"acknowledgement lost: {error}")
                yield from ((n, lost) for n in range(first, last + 1) if n not in answered)
                return
            for message in messages:
                if message.type == NLMSG_ERROR and first <= message.sequence <= last:
                    answered.add(message.sequence)
                    failure = decode_error(message)
                    if failure is not None:
                        yield message.sequence, failure

    def _receive(self) -> list[Message]:
        return list(decode(self._socket.recv(1 << 20)))


def grow_receive_buffer(netlink: socket.socket, octets: int) -> None:
    """Beyond rmem_max if we may (CAP_NET_ADMIN), else as far as it goes."""
    try:
        netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
    except PermissionError:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def encode(op: Op, table: int, protocol: int, sequence: int) -> bytes:
    """One operation as a message that asks for an acknowledgement."""
    return request(op, table, protocol).message(sequence)


def request(op: Op, table: int, protocol: int) -> Request:
    """One operation as a request."""
    flags = _FLAGS[op.verb]
    deleting = op.verb is Verb.DELETE
    if isinstance(op.entry, Route):
        return Request(RTM_DELROUTE if deleting else RTM_NEWROUTE, flags, _route(op.entry, table, protocol, deleting))
    if deleting:
        body = _NHMSG.pack(0, 0, 0, 0, 0) + attribute(NHA_ID, _U32.pack(op.entry.id))
        return Request(RTM_DELNEXTHOP, flags, body)
    body = _group(op.entry, protocol) if isinstance(op.entry, Group) else _nexthop(op.entry, protocol)
    return Request(RTM_NEWNEXTHOP, flags, body)


def decode(octets: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    offset = 0
    while offset + HEADER.size <= len(octets):
        length, kind, flags, sequence, port = HEADER.unpack_from(octets, offset)
        if length < HEADER.size or offset + length > len(octets):
            return
        yield Message(kind, flags, sequence, port, octets[offset + HEADER.size : offset + length])
        offset += _aligned(length)


def decode_error(message: Message) -> OpError | None:
    """None for an acknowledgement; else the error, with the kernel's explanation where it gives one."""
    number = -_ERROR.unpack_from(message.body)[0]
    if number == 0:
        return None
    text = os.strerror(number)
    if message.flags & NLM_F_ACK_TLVS:
        request = HEADER.size if message.flags & NLM_F_CAPPED else HEADER.unpack_from(message.body, _ERROR.size)[0]
        explanation = attributes(message.body, _ERROR.size + _aligned(request)).get(NLMSGERR_ATTR_MSG, b"")
        if explanation:
            text = f"{text}: {explanation.rstrip(bytes(1)).decode(errors='replace')}"
    return OpError(number, text)


def decode_route(body: bytes) -> KernelRoute:
    family, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    found = attributes(body, _RTMSG.size)
    version = _VERSION[family]
    destination = found.get(RTA_DST, bytes(4 if version == 4 else 16))
    gateway = found.get(RTA_GATEWAY)
    return KernelRoute(
        prefix=_NETWORK[version]((destination, length), strict=False),
        table=_number(found, RTA_TABLE, table),
        protocol=protocol,
        kind=kind,
        metric=_number(found, RTA_PRIORITY, 0),
        nexthop=_number(found, RTA_NH_ID, 0),
        interface=_number(found, RTA_OIF, 0),
        gateway=ip_address(gateway) if gateway else None,
        multipath=RTA_MULTIPATH in found or RTA_VIA in found,
    )


def decode_nexthop(body: bytes) -> KernelNexthop:
    family, _, protocol, _, _ = _NHMSG.unpack_from(body)
    found = attributes(body, _NHMSG.size)
    identifier = _number(found, NHA_ID, 0)
    entry: Nexthop | Group | None = None
    if NHA_GROUP in found:
        entry = Group(identifier, tuple(member for member, _, _, _ in _GROUP_MEMBER.iter_unpack(found[NHA_GROUP])))
    elif family in _VERSION:
        gateway = found.get(NHA_GATEWAY)
        interface = 0 if NHA_BLACKHOLE in found else _number(found, NHA_OIF, 0)
        entry = Nexthop(identifier, _VERSION[family], interface, ip_address(gateway) if gateway else None)
    return KernelNexthop(identifier, protocol, entry)


def our_entries(routes: Iterable[KernelRoute], nexthops: Iterable[KernelNexthop], protocol: int) -> Iterator[Entry]:
    """What of a dump is ours, in the FIB's words."""
    for nexthop in nexthops:
        if nexthop.protocol == protocol and nexthop.entry is not None:
            yield nexthop.entry
    kinds = {int(kind) for kind in RouteKind}
    for route in routes:
        # A route whose group holds a blackhole is dumped as a blackhole, but with the group's id.
        kind = RouteKind.UNICAST if route.nexthop else route.kind
        if route.protocol == protocol and kind in kinds:
            yield Route(route.prefix, route.metric, RouteKind(kind), route.nexthop)


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Attributes by type, from `offset`; the last of a type wins."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            break
        found[kind & NLA_TYPE_MASK] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def _route(route: Route, table: int, protocol: int, deleting: bool) -> bytes:
    prefix = route.prefix
    family, layout, size = _ROUTE[prefix.version]
    scope, kind = (RT_SCOPE_NOWHERE, 0) if deleting else (RT_SCOPE_UNIVERSE, int(route.kind))
    body = layout.pack(
        family, prefix.prefixlen, 0, 0, table if table < 256 else 0, protocol, scope, kind, 0,
        _ATTRIBUTE.size + size, RTA_DST, prefix.network_address.packed, 8, RTA_TABLE, table, 8, RTA_PRIORITY, route.metric,
    )  # fmt: skip
    return body + _U32_ATTRIBUTE.pack(8, RTA_NH_ID, route.group) if route.group and not deleting else body


def _nexthop(nexthop: Nexthop, protocol: int) -> bytes:
    body = _NHMSG.pack(_FAMILY[nexthop.family], 0, protocol, 0, 0) + attribute(NHA_ID, _U32.pack(nexthop.id))
    if not nexthop.interface:
        return body + attribute(NHA_BLACKHOLE, b"")
    body += attribute(NHA_OIF, _U32.pack(nexthop.interface))
    return body + attribute(NHA_GATEWAY, nexthop.gateway.packed) if nexthop.gateway else body


def _group(group: Group, protocol: int) -> bytes:
    members = b"".join(_GROUP_MEMBER.pack(member, 0, 0, 0) for member in group.members)
    body = _NHMSG.pack(socket.AF_UNSPEC, 0, protocol, 0, 0) + attribute(NHA_ID, _U32.pack(group.id))
    return body + attribute(NHA_GROUP, members)


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _number(found: dict[int, bytes], kind: int, default: int) -> int:
    value = found.get(kind)
    return _U32.unpack(value)[0] if value is not None else default


def _error(error: OpError | None, what: str) -> NetlinkError:
    return NetlinkError(error.number if error else errno.EIO, f"{what}: {error.text if error else 'empty answer'}")
