"""Packet sockets for connections that send protocol 50 (`dataplane.packet_socket`).

One socket for each worker, programmed with ways that egress.py keeps. They only send: receiving stays with the raw
sockets, which reassemble fragments and stand behind the host's input firewall.

    kernel --news of routes, rules, links, addresses, neighbors--> EgressTable --set_egress, clear_egress--> native/packet.c
    routers --ICMP about protocol 50--> doubt         due --> Lookup (in a thread) --> found
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import secrets
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gateway.runtime import rtneighbors, rtnetlink
from gateway.runtime.egress import EgressTable, Pair, Way
from gateway.runtime.lookup import Lookup
from gateway.runtime.news import waiting
from gateway.runtime.tun import PREFIX
from gateway.runtime.turns import say_end, turns

if TYPE_CHECKING:
    from gateway._native import DataPlane

SETTLE = 0.02
"""Between news and the lookup: the kernel is still at it, and more of the same follows."""
VERIFY = 15.0
"""Everything is looked up anew this often: what the kernel learned of a path, and what it forgets, is no news."""

_NETLINK_ADD_MEMBERSHIP = 1
# RTNLGRP_*: link, neighbor, IPv4 address, IPv4 route, IPv4 rule, IPv6 address, IPv6 route, IPv6 rule, nexthop
_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19, 32)
_IFADDR = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RECEIVE_BUFFER = 16 << 20
_ADDRESS_OCTETS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}

_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_SEND_BUFFER = 8 << 20
_SO_SNDBUFFORCE, _SO_ATTACH_FILTER = 32, 26
_ESP = 50
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_ICMP_OCTETS, _ICMP_TYPES, _ICMP6_TOO_BIG = 8, (3, 5), 2  # unreachable, redirect
_INSTRUCTION, _PROGRAM = struct.Struct("=HBBI"), struct.Struct("@HP")  # sock_filter, sock_fprog
_LDX_MSH, _LD_IND, _LD_ABS, _JEQ, _RET = 0xB1, 0x50, 0x30, 0x15, 0x06
_U32 = struct.Struct("=I")
_HINTS_AT_ONCE = 16
log = logging.getLogger(__name__)


class PacketSockets:
    """`open`, then `follow` and `forget`; `close` after the workers stopped."""

    def __init__(self, plane: DataPlane, workers: int, mark: int, protocol: int) -> None:
        self._plane = plane
        self._workers = workers
        self._mark = mark
        self._protocol = protocol  # of our own routes and nexthops
        self._table = EgressTable(self._program)
        self._sockets: list[socket.socket] = []
        self._hints: list[socket.socket] = []
        self._watch: socket.socket | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="egress")
        self._lookup: Lookup | None = None
        self._wake = asyncio.Event()
        self._verify_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """OSError with a sentence where the host does not let us; then everything stays with the raw sockets."""
        try:
            for _ in range(self._workers):
                self._sockets.append(_packet_socket())
            self._watch = _watch()
            for make in (_hints4, _hints6):
                made = make()
                self._hints += [made] if made is not None else []
            self._lookup = Lookup(self._mark, secrets.token_bytes(32))
        except OSError as error:
            self._close_sockets()
            raise _explained(error) from error
        for worker, one in enumerate(self._sockets):
            self._plane.add_packet_socket(worker, one.fileno())
        # News is read before the first lookup: nothing that happens after it is missed
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch, self._readable)
        for hints in self._hints:
            loop.add_reader(hints, self._hinted, hints)
        self._verify_at = loop.time() + VERIFY
        self._task = asyncio.create_task(turns(self._work, "packet sockets keep ways that may be old"), name="egress")
        self._task.add_done_callback(say_end)

    async def close(self) -> None:
        """The workers are gone."""
        loop = asyncio.get_running_loop()
        for one in (*self._hints, *([self._watch] if self._watch is not None else [])):
            loop.remove_reader(one)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._close_sockets()

    def follow(self, connection: int, local: str, remote: str) -> None:
        """It sends protocol 50 between these. What has meaning on one link only stays with the raw socket."""
        pair = Pair(ip_address(local), ip_address(remote))
        if pair.local.is_unspecified or pair.remote.is_link_local or pair.remote.is_multicast:
            self.forget(connection)
            return
        self._table.follow(connection, pair)
        self._wake.set()

    def move(self, connection: int, remote: str) -> None:
        """Its peer is elsewhere now; nothing where it is not followed."""
        local = self._table.local_of(connection)
        if local is not None:
            self.follow(connection, str(local), remote)

    def forget(self, connection: int) -> None:
        """It is gone, or sends in UDP."""
        self._table.forget(connection)

    # --- lookups ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._verify_at):
                await self._wake.wait()
        if loop.time() >= self._verify_at:
            self._verify_at = loop.time() + VERIFY
            self._table.verify()
        await asyncio.sleep(SETTLE)
        self._wake.clear()
        if self._table.due or self._table.stale:
            await self._look()

    async def _look(self) -> None:
        lookup = self._lookup
        assert lookup is not None
        queries = self._table.ask()
        stale, self._table.stale = list(self._table.stale), {}
        ways: list[Way | None] = [None] * len(queries)

        def work() -> list[Way | None]:
            if stale:
                lookup.verify(stale)
            return lookup.ways([query.pair for query in queries])

        try:
            ways = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Exception as error:
            trace = None if isinstance(error, OSError) else error
            log.error("the ways of packet sockets: %r", error, exc_info=trace, extra={"event": "netlink-failed"})
        for query, way in zip(queries, ways, strict=True):
            self._table.found(query, way)
        self._table.answered()
        if self._table.due:
            self._wake.set()

    def _program(self, connection: int, pair: Pair, way: Way | None) -> None:
        try:
            if way is None or way.link_address is None:
                self._plane.clear_egress(connection)
            else:
                self._plane.set_egress(
                    connection, str(pair.local), str(pair.remote), way.interface, way.link_address,
                    way.mtu, way.hops, way.flow_label,
                )  # fmt: skip
        except ValueError as error:
            # The connection went meanwhile, and its egress with it
            log.debug("egress of connection %d: %s", connection, error)

    # --- news ---------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        watch = self._watch
        assert watch is not None
        for datagram in waiting(watch, lambda: asyncio.get_running_loop().add_reader(watch, self._readable)):
            if datagram is None:
                self._table.doubt()
                continue
            for message in rtnetlink.decode(datagram):
                self._tell(message)
        if self._table.due or self._table.stale:
            self._wake.set()

    def _tell(self, message: rtnetlink.Message) -> None:
        table = self._table
        match message.type:
            case rtneighbors.RTM_NEWNEIGH | rtneighbors.RTM_DELNEIGH:
                neighbor = rtneighbors.decode_neighbor(message)
                if neighbor is not None:
                    table.neighbor_changed(neighbor)
            case rtnetlink.RTM_NEWROUTE | rtnetlink.RTM_DELROUTE:
                family, length, network = rtneighbors.decode_destination(message.body)
                table.route_changed(length, network, _ADDRESS_OCTETS.get(family, 0))
            case rtneighbors.RTM_NEWLINK | rtneighbors.RTM_DELLINK:
                link = rtneighbors.decode_link(message)
                if not link.name.startswith(PREFIX):
                    table.link_changed(link)
            case rtneighbors.RTM_NEWADDR | rtneighbors.RTM_DELADDR:
                found = rtnetlink.attributes(message.body, _IFADDR.size)
                address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
                if address:
                    table.address_changed(ip_address(address))
            case rtneighbors.RTM_NEWRULE | rtneighbors.RTM_DELRULE:
                table.doubt()
            case rtnetlink.RTM_NEWNEXTHOP | rtnetlink.RTM_DELNEXTHOP:
                if rtnetlink.decode_nexthop(message.body).protocol != self._protocol:  # ours lead into tunnels
                    table.doubt()

    def _hinted(self, hints: socket.socket) -> None:
        """A router said something about protocol 50. What it may mean to the kernel, only the kernel can tell."""
        for _ in range(_HINTS_AT_ONCE):
            try:
                data = hints.recv(256)
            except BlockingIOError:
                break
            except OSError:
                continue
            self._table.path_changed(_complained_of(hints.family, data))
        if self._table.due:
            self._wake.set()

    def _close_sockets(self) -> None:
        for one in (*self._sockets, *self._hints, self._watch, self._lookup):
            if one is not None:
                one.close()
        self._sockets, self._hints, self._watch, self._lookup = [], [], None, None


def _packet_socket() -> socket.socket:
    """Receives nothing: protocol 0."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
    try:
        made.setblocking(False)
        made.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
    except OSError:
        made.close()
        raise
    return made


def _watch() -> socket.socket:
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    rtnetlink.grow_receive_buffer(made, _RECEIVE_BUFFER)
    made.bind((0, 0))
    for group in _GROUPS:
        made.setsockopt(rtnetlink.SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    return made


def _hints4() -> socket.socket:
    """ICMP that a router sent about protocol 50: unreachable, of which "fragmentation needed" is one, or redirect."""
    made = socket.socket(
        socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
    )
    made.setsockopt(_SOL_RAW, _ICMP_FILTER, _U32.pack(~sum(1 << kind for kind in _ICMP_TYPES) & 0xFFFFFFFF))
    # X: the length of the IP header; then the protocol of the packet that ICMP quotes
    _attach(made, ((_LDX_MSH, 0, 0, 0), (_LD_IND, 0, 0, _ICMP_OCTETS + 9)))
    return made


def _hints6() -> socket.socket | None:
    """ICMPv6 packet too big about protocol 50; None where there is no IPv6."""
    try:
        made = socket.socket(
            socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6
        )
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    blocked = ~(1 << _ICMP6_TOO_BIG) & (1 << 256) - 1
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, blocked.to_bytes(32, "little"))
    _attach(made, ((_LD_ABS, 0, 0, _ICMP_OCTETS + 6),))
    return made


def _attach(made: socket.socket, load: tuple[tuple[int, int, int, int], ...]) -> None:
    """Only what `load` finds to be protocol 50."""
    code = (*load, (_JEQ, 0, 1, _ESP), (_RET, 0, 0, 0xFFFF), (_RET, 0, 0, 0))
    octets = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in code))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(code), ctypes.addressof(octets)))


def _complained_of(family: int, data: bytes) -> bytes:
    """The destination of the packet that ICMP quotes. A raw IPv4 socket hands over the IP header too."""
    if family == socket.AF_INET6:
        return data[_ICMP_OCTETS + 24 : _ICMP_OCTETS + 40]
    quoted = (data[0] & 0x0F) * 4 + _ICMP_OCTETS
    return data[quoted + 16 : quoted + 20]


def _explained(error: OSError) -> OSError:
    reasons = {
        errno.EPERM: "CAP_NET_RAW is missing",
        errno.EACCES: "CAP_NET_RAW is missing",
        errno.EAFNOSUPPORT: "the unit needs RestrictAddressFamilies=AF_PACKET, see systemd.exec(5), or the kernel has none",
    }
    number = error.errno or errno.EIO
    return OSError(number, f"dataplane.packet_socket: no packet sockets: {reasons.get(number, os.strerror(number))}")
