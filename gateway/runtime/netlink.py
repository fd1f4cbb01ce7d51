"""The kernel's network state for asyncio: one thread does the work, a raw socket on the loop watches for changes.

The thread exists because pyroute2 cannot run on a uvloop loop and because a dump of thousands of routes must not
hold up BFD. Calls are served in order, so a dump never overtakes operations.

    Fib --RouteOps--> await apply(ops) --> errors by position --> Applied
    Fib --DumpRequest--> await dump() --> Reconcile
    kernel --notifications--> monitor(callback) --> InterfaceGone, InterfaceChanged, Resync
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TypeVar

from gateway.config.model import Gateway
from gateway.node.instances import InstanceSettings
from gateway.routing.model import OWN_TABLE, Address, Dump, Op, OpError, Prefix, Resolution
from gateway.runtime import rtnetlink
from gateway.runtime.instance_rules import led_to
from gateway.runtime.kernel import Kernel, LinkSettings
from gateway.runtime.news import spare, waiting
from gateway.runtime.rules import Entries
from gateway.runtime.tun import PREFIX

Value = TypeVar("Value")

_NETLINK_ADD_MEMBERSHIP = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_DELRULE = 16, 17, 20, 21, 33
# RTNLGRP_*: link, IPv4 address, IPv4 route, IPv4 rule, IPv6 address, IPv6 route, IPv6 rule, nexthop
_GROUPS = (1, 5, 7, 8, 9, 11, 19, 32)
_IFINFO = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_FRA_PROTOCOL = 21
_RULE_HEADER = 12  # struct fib_rule_hdr
_RECEIVE_BUFFER = 16 << 20


@dataclass(frozen=True, slots=True)
class LinkGone:
    """A device was deleted, or went down or lost its carrier: the kernel dropped the nexthops on it."""

    index: int
    name: str
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A device is up and has carrier: for a connection's TUN, tell the FIB `ConnectionAdded`, also if it was up before
    (a LinkGone of its creation may have come late)."""

    index: int
    name: str
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class AddressGone:
    """An address was taken off a device."""

    index: int
    address: IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class UnderlayChanged:
    """Addresses, or routes of the main table: next hops and connected prefixes may be others now."""


@dataclass(frozen=True, slots=True)
class OursRemoved:
    """A route, nexthop or rule of ours was removed by somebody else, or notifications were lost: read again, ensure rules."""

    lost_messages: bool = False


Change = LinkGone | LinkUp | AddressGone | UnderlayChanged | OursRemoved


class Netlink:
    """`async with Netlink(settings) as netlink`, or open() and close()."""

    def __init__(self, settings: Gateway) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._kernel: Kernel | None = None
        self._monitor: socket.socket | None = None
        self._tables = {settings.route_table}  # ours, and those of instances
        self._tuns: set[int] = set()  # indexes of ours, as far as the monitor has heard

    async def __aenter__(self) -> Netlink:
        await self.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Sockets and thread; NetlinkError or OSError if the kernel has no netlink for us."""
        loop = asyncio.get_running_loop()
        self._kernel = await loop.run_in_executor(self._thread, Kernel, self._settings)

    async def close(self) -> None:
        """Idempotent; changes nothing in the kernel."""
        self.unmonitor()
        if self._kernel is not None:
            await self._call(Kernel.close)
            self._kernel = None
        self._thread.shutdown()

    async def apply(self, ops: Sequence[Op], table: int = OWN_TABLE) -> dict[int, OpError]:
        """All operations in order, whatever fails; errors by position, for `Applied`."""
        return await self._call(lambda kernel: kernel.apply(ops, table))

    async def dump(self, table: int = OWN_TABLE) -> Dump:
        """Our routes of one table and nexthops, for `Reconcile`."""
        return await self._call(lambda kernel: kernel.dump(table))

    async def ensure_rules(
        self, entries: Entries | None = None, remove: bool = True, instances: Sequence[InstanceSettings] = ()
    ) -> list[str]:
        """Our ip rules, both families, those of instances, and the entry guard of these TUNs; idempotent. Says what it
        changed. Other rules of ours go, unless `remove` is false."""
        self._tables = {one.table for one in instances} | {self._settings.route_table}
        return await self._call(lambda kernel: kernel.ensure_rules(entries or {}, remove, instances))

    async def tables_of_instances(self) -> set[int]:
        """Those that rules of ours lead to, whoever made them."""
        return await self._call(lambda kernel: led_to(kernel.rules(), self._settings))

    async def configure_link(
        self, name: str, mtu: int, addresses: Sequence[IPv4Interface | IPv6Interface], up: bool = True
    ) -> int:
        """MTU, exactly these addresses, up or down; returns the interface index."""
        return await self._call(lambda kernel: kernel.configure_link(name, mtu, addresses, up))

    async def configure_links(self, links: Sequence[LinkSettings]) -> list[int | rtnetlink.NetlinkError]:
        """Of each the interface index, or what the kernel said."""
        return await self._call(lambda kernel: kernel.configure_links(links))

    async def delete_links(self, names: Sequence[str]) -> None:
        """Devices of ours, all at once; those that do not exist are left out."""
        await self._call(lambda kernel: kernel.delete_links(names))

    async def link_index(self, name: str) -> int | None:
        return await self._call(lambda kernel: kernel.link_index(name))

    async def connected_prefixes(self) -> list[Prefix]:
        """For `SetThrows`: the prefixes on this host's links, our TUNs apart."""
        return await self._call(Kernel.connected_prefixes)

    async def interface_for(self, next_hop: Address) -> Resolution | None:
        """For `NextHopResolved`: the gateway and interface by which the main table reaches it."""
        return await self._call(lambda kernel: kernel.interface_for(next_hop))

    async def hold_address(self, address: Address, held: bool) -> str:
        """Puts it on this host, or takes it off; the interface it is on now, or ""."""
        return await self._call(lambda kernel: kernel.hold_address(address, held))

    async def interfaces_towards(self, addresses: Sequence[Address]) -> list[str]:
        """Names of the devices by which the main table reaches these."""
        return await self._call(lambda kernel: kernel.interfaces_towards(addresses))

    def monitor(self, callback: Callable[[Change], None]) -> None:
        """From now on, until close(): changes by others, each kind once per wake-up. Our own are not reported."""
        # Opened here: the socket belongs to the loop, not to the thread.
        watch = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        rtnetlink.grow_receive_buffer(watch, _RECEIVE_BUFFER)
        watch.bind((0, 0))
        if self._kernel is not None:
            spare(watch, self._kernel.port, (rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE))
        for group in _GROUPS:
            watch.setsockopt(rtnetlink.SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        self._monitor = watch
        self._listen(watch, callback)

    def unmonitor(self) -> None:
        """No more news: what happens from here on is our own doing."""
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor)
            self._monitor.close()
            self._monitor = None

    def _listen(self, watch: socket.socket, callback: Callable[[Change], None]) -> None:
        asyncio.get_running_loop().add_reader(watch, self._readable, watch, callback)

    def _readable(self, watch: socket.socket, callback: Callable[[Change], None]) -> None:
        changes: dict[Change, None] = {}
        links: dict[int, Change] = {}  # where a link changed twice, what it is now
        for datagram in waiting(watch, lambda: self._listen(watch, callback)):
            if datagram is None:
                changes[OursRemoved(lost_messages=True)] = None
                changes[UnderlayChanged()] = None
                continue
            for message in rtnetlink.decode(datagram):
                change = self._change(message)
                if isinstance(change, LinkGone | LinkUp):
                    links[change.index] = change
                elif change is not None:
                    changes[change] = None
        for change in (*links.values(), *changes):
            callback(change)

    def _change(self, message: rtnetlink.Message) -> Change | None:
        kind = message.type
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            return self._link_change(message)
        if kind == _RTM_DELADDR:
            return _address_gone(message)
        if kind == _RTM_NEWADDR:
            # What we put on our TUNs is no underlay, and there may be thousands of them
            return None if _IFADDR.unpack_from(message.body)[4] in self._tuns else UnderlayChanged()
        if kind in (rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE):
            return self._route_change(message)
        if self._kernel is None or message.sender == self._kernel.port:
            return None
        protocol = self._settings.route_protocol
        if kind == rtnetlink.RTM_DELNEXTHOP:
            return OursRemoved() if rtnetlink.decode_nexthop(message.body).protocol == protocol else None
        if kind == _RTM_DELRULE:
            value = rtnetlink.attributes(message.body, _RULE_HEADER).get(_FRA_PROTOCOL, b"\0")
            return OursRemoved() if value[0] == protocol else None
        return None

    def _link_change(self, message: rtnetlink.Message) -> Change:
        change = _link_change(message)
        if change.name.startswith(PREFIX):
            if isinstance(change, LinkGone) and change.deleted:
                self._tuns.discard(change.index)
            else:
                self._tuns.add(change.index)
        return change

    def _route_change(self, message: rtnetlink.Message) -> Change | None:
        route = rtnetlink.decode_route(message.body)
        if route.table == rtnetlink.RT_TABLE_MAIN:
            return None if route.interface in self._tuns else UnderlayChanged()
        ours = route.table in self._tables and route.protocol == self._settings.route_protocol
        by_others = self._kernel is not None and message.sender != self._kernel.port
        return OursRemoved() if ours and by_others and message.type == rtnetlink.RTM_DELROUTE else None

    async def _call(self, work: Callable[[Kernel], Value]) -> Value:
        kernel = self._kernel
        if kernel is None:
            raise rtnetlink.NetlinkError(errno.EBADF, "netlink is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, kernel)


def _address_gone(message: rtnetlink.Message) -> AddressGone:
    _, length, _, _, index = _IFADDR.unpack_from(message.body)
    found = rtnetlink.attributes(message.body, _IFADDR.size)
    # On a point-to-point link the first is the peer's; IPv6 has no second
    return AddressGone(index, ip_interface((found.get(_IFA_LOCAL) or found[_IFA_ADDRESS], length)))


def _link_change(message: rtnetlink.Message) -> LinkGone | LinkUp:
    _, _, _, index, flags, _ = _IFINFO.unpack_from(message.body)
    found = rtnetlink.attributes(message.body, _IFINFO.size)
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    mtu = int.from_bytes(found.get(_IFLA_MTU, b""), sys.byteorder)
    working = message.type == _RTM_NEWLINK and flags & _IFF_UP and flags & _IFF_LOWER_UP
    return LinkUp(index, name, mtu) if working else LinkGone(index, name, message.type == _RTM_DELLINK)
